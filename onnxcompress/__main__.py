"""``python -m onnxcompress`` is ``onnxcompress``."""

from onnxcompress.cli import main

main()
