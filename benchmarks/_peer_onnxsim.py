"""onnxsim's structured pruning on one file; run by ``pruning_peers.py`` with the peers' interpreter.

Usage: ``python _peer_onnxsim.py IN.onnx OUT.onnx``; prints one line of JSON. The file is simplified first, as
its documentation asks (BatchNormalization folded, attention fused), then channels, then heads are pruned.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version

import onnx
import onnxsim

SPARSITY = 0.5


def main(source: str, out: str) -> None:
    report: dict[str, object] = {"version": version("onnxsim")}
    model = onnx.load(source)
    try:
        began = time.perf_counter()
        model = onnxsim.simplify(model)[0]
        model = onnxsim.apply_structured_pruning(model, sparsity=SPARSITY)
        model = onnxsim.apply_attention_head_pruning(model, sparsity=SPARSITY)
        report["seconds"] = time.perf_counter() - began
        onnx.save(model, out)
        report["written"] = True
    except Exception as error:
        report["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
    print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
