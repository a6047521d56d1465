"""Makes the benchmark scripts importable: the suite runs the code that writes the published table."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
