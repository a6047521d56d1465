"""Direct compression of real models through the command line: bytes, output error, latency.

    python benchmarks/real_models.py --shared ../shared [--bits 4] [--only yolox_nano ...]

Every model is compressed by the plain command, without data. Writes results/real_models.md and .json beside
this file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from onnxcompress.core.run import Run

RESULTS = Path(__file__).parent / "results"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with models/")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--only", nargs="*", default=None, help="names of models, without .onnx")
    arguments = parser.parse_args()
    models = sorted((arguments.shared / "models").glob("*.onnx"))
    if arguments.only:
        models = [m for m in models if m.stem in arguments.only]
    rows = [measure(model, arguments.bits) for model in models]
    RESULTS.mkdir(exist_ok=True)
    stem = RESULTS / "real_models"
    stem.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")
    stem.with_suffix(".md").write_text(table(rows, arguments.bits))
    print(table(rows, arguments.bits))
    return 0


def measure(model: Path, bits: int) -> dict[str, object]:
    """Compress one model in a process of its own; returns a row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        out, report = Path(folder) / "out.onnx", Path(folder) / "run.json"
        command = [sys.executable, "-m", "onnxcompress", str(model), "-o", str(out)]
        command += ["--method", "lc-quant", "--bits", str(bits), "--report", str(report), "--quiet"]
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - began
        print(
            f"{model.stem:28s} exit {done.returncode}  {seconds:5.1f} s  {done.stderr.strip()[:200]}",
            file=sys.stderr,
        )
        row: dict[str, object] = {"model": model.stem, "exit": done.returncode, "seconds": round(seconds, 1)}
        if done.returncode != 0:
            return row | {"error": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else ""}
        return row | facts(Run.from_json(report.read_text()))


def facts(run: Run) -> dict[str, object]:
    before, after = run.models
    original = next(c for c in run.comparisons if c.reference == "original")
    torch = next(c for c in run.comparisons if c.reference == "torch")
    errors = [o.relative_l2 for o in original.outputs if o.relative_l2 is not None]
    cosines = [o.cosine for o in original.outputs if o.cosine is not None]
    agreements = [o.relative_l2 for o in torch.outputs if o.relative_l2 is not None]
    ratio = run.benchmark.ratios[-1] if run.benchmark else None
    return {
        "bytes_before": before.size_bytes,
        "bytes_after": after.size_bytes,
        "bits_per_weight": after.bits_per_weight,
        "worst_relative_l2": max(errors, default=None),
        "worst_cosine": min(cosines, default=None),
        "torch_agreement": max(agreements, default=None),
        "latency_ratio": ratio.ratio if ratio else None,
        "latency_interval": [ratio.low, ratio.high] if ratio else None,
        "verdict": ratio.verdict if ratio else None,
        "left_alone": len(run.refusals),
    }


def table(rows: list[dict[str, object]], bits: int) -> str:
    columns = (
        "model", "kB before", "kB after", "ratio", "bits/weight", "output error (relative ℓ2)", "cosine",
        "agreement", "latency ratio [95 %]", "verdict",
    )  # fmt: skip
    head = (
        f"`onnxcompress MODEL.onnx --method lc-quant --bits {bits}`, no data: direct compression, "
        f"{2**bits} entries a tensor.\nOutput error: worst output, on seeded random inputs. "
        "Agreement: written file against the torch model, relative ℓ2.\n\n"
        f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|\n"
    )
    return head + "".join(line(row) for row in rows)


def line(row: dict[str, object]) -> str:
    if row["exit"] != 0:
        return f"| {row['model']} | exit {row['exit']}: {row['error']} |" + " |" * 8 + "\n"
    before, after = row["bytes_before"], row["bytes_after"]
    assert isinstance(before, int)
    assert isinstance(after, int)
    low, high = row["latency_interval"] or (None, None)  # type: ignore[misc]
    cells = [
        row["model"],
        f"{before / 1000:.0f}",
        f"{after / 1000:.0f}",
        f"{before / after:.1f}",
        number(row["bits_per_weight"], ".2f"),
        number(row["worst_relative_l2"], ".2g"),
        number(row["worst_cosine"], ".4f"),
        number(row["torch_agreement"], ".0e"),
        f"{number(row['latency_ratio'], '.3f')} [{number(low, '.3f')}, {number(high, '.3f')}]",
        row["verdict"],
    ]
    return "| " + " | ".join(str(cell) for cell in cells) + " |\n"


def number(value: object, form: str) -> str:
    return "–" if value is None else format(value, form)


if __name__ == "__main__":
    sys.exit(main())
