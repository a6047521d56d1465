"""Half of the channels of every real model, and the speed of ResNets: tables from one run each.

Every model of ``../shared/models`` goes through ``onnxcompress MODEL.onnx --method magnitude
--keep 0.5``, and so do ResNet-18 and ResNet-50 (random weights, images of 224). What cannot be cut is listed
with its reason.

Usage: ``python benchmarks/pruning_models.py [MODEL …]``; models that are named replace their rows in
``results/pruning_models.json``. The names ``resnet18`` and ``resnet50`` are those of the zoo.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT.parent / "shared" / "models"
RESULTS = Path(__file__).resolve().parent / "results"
RESNETS = ("resnet18", "resnet50")
SIDE = 224


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="*", help="names without .onnx; default: all")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the table and the numbers")
    parser.add_argument("--no-latency", action="store_true", help="measure no latency (a third of the time)")
    options = parser.parse_args()
    target = options.out / "pruning_models.json"
    rows = {r["model"]: r for r in json.loads(target.read_text())} if target.exists() else {}
    known = [*(p.stem for p in sorted(MODELS.glob("*.onnx"))), *RESNETS]
    for name in options.models or known:
        with tempfile.TemporaryDirectory() as folder:
            source = exported(name, Path(folder)) if name in RESNETS else MODELS / f"{name}.onnx"
            rows[name] = measure(name, source, Path(folder), latency=not options.no_latency)
        print(line(rows[name]), flush=True)
        options.out.mkdir(parents=True, exist_ok=True)
        order = [rows[n] for n in known if n in rows]
        target.write_text(json.dumps(order, indent=1) + "\n")
        (options.out / "pruning_models.md").write_text(tables(order))
    return 0


def exported(name: str, folder: Path) -> Path:
    """Export a ResNet for images of 224 and return the file."""
    import onnx
    import torch
    import zoo

    torch.manual_seed(0)
    net, inputs = zoo.vision(name, SIDE)
    onnx.save(zoo.export(net.eval(), inputs, "torchscript", opset=17), folder / f"{name}.onnx")
    return folder / f"{name}.onnx"


def measure(name: str, source: Path, folder: Path, *, latency: bool) -> dict[str, Any]:
    """Return what became of one model, or why nothing did."""
    report, out = folder / "run.json", folder / "cut.onnx"
    command = [sys.executable, "-m", "onnxcompress", str(source), "-o", str(out), "--method", "magnitude"]
    command += ["--keep", "0.5", "--report", str(report), "--quiet"]
    command += [] if latency else ["--no-bench"]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    row: dict[str, Any] = {"model": name, "exit": done.returncode, "seconds": time.perf_counter() - began}
    row |= groups(source)
    if done.returncode:
        said = [text.strip() for text in done.stderr.splitlines() if text.strip()]
        # The sentence names the file, which a table need not repeat.
        told = next((text for text in said if text.lower().startswith("error")), said[-1] if said else "")
        return row | {"error": told.replace(f" ({source})", "")}
    run = json.loads(report.read_text())
    cut, proof = run["cuts"][0], run["cuts"][0]["proof"]
    before, after = run["models"]
    return (
        row
        | timing(run["benchmark"])
        | {
            "channels_cut": sum(g["of"] - g["kept"] for g in cut["groups"]),
            "parameters": [before["parameters"], after["parameters"]],
            "macs": [before["macs"], after["macs"]],
            "bytes": [before["size_bytes"], after["size_bytes"]],
            "proof": {
                k: proof[k] for k in ("places", "inputs", "float64_error", "float64_floor", "ort_error")
            },
            "mixed_difference": proof["mixed_difference"],
            "single_precision": proof["single_precision"],
            "silent_outputs": proof["silent_outputs"],
            "refusals": [[r["where"], r["why"]] for r in run["refusals"]],
            "warnings": run["warnings"],
        }
    )


def timing(benchmark: dict[str, Any] | None) -> dict[str, Any]:
    """Return medians and the ratio with its interval; None where no latency was measured."""
    if benchmark is None:
        return {"latency_ms": None, "latency_ratio": None, "verdict": None}
    ratio = benchmark["ratios"][-1]
    return {
        "latency_ms": [entry["median_ms"] for entry in benchmark["latencies"]],
        "latency_ratio": [ratio["low"], ratio["ratio"], ratio["high"]],
        "verdict": ratio["verdict"],
    }


def groups(source: Path) -> dict[str, Any]:
    """Return how many channels there are, and the frozen groups with their reasons."""
    from onnxcompress import importer
    from onnxcompress.core.errors import OnnxCompressError
    from onnxcompress.engine import feeds, runtime
    from onnxcompress.engine.channels import analyse

    try:
        model = importer.load(source)
        began = time.perf_counter()
        found = analyse(model, feeds.resolve_shapes(model, runtime.open_session(source), {}))
    except OnnxCompressError as error:
        return {
            "channels": None,
            "frozen": [],
            "problem": str(error).splitlines()[0].replace(f" ({source})", ""),
        }
    return {
        "analysis_seconds": time.perf_counter() - began,
        "channels": sum(g.size for g in found.free),
        "groups": len(found.free),
        "frozen": [[g.name, g.size, list(g.frozen), g.sliceable] for g in found.groups if not g.free],
        "without_rule": dict(found.unknown),
        "out_of_reach": [[r.where, r.why] for r in found.out_of_reach],
    }


def line(row: dict[str, Any]) -> str:
    if "error" in row:
        return f"{row['model']:24s} exit {row['exit']}  {row['error']}"
    return (
        f"{row['model']:24s} {row['channels_cut']}/{row['channels']} channels, "
        f"macs x{row['macs'][1] / max(row['macs'][0], 1):.3f}, latency x{(row['latency_ratio'] or '--')[1]}, "
        f"float64 {row['proof']['float64_error']:.0e}, onnxruntime {row['proof']['ort_error']:.0e}, "
        f"{row['seconds']:.0f} s"
    )


def tables(rows: list[dict[str, Any]]) -> str:
    names = [
        "model", "free channels", "cut", "frozen groups", "parameters", "MMAC", "kB", "ms (1 thread)",
        "latency ratio [95 %]", "silenced = cut (float64 / onnxruntime)",
    ]  # fmt: skip
    text = (
        "`onnxcompress MODEL.onnx --method magnitude --keep 0.5`, no data, widths rounded to 16 (and kept "
        "multiples of 4 below).\nSilenced = cut: largest relative difference in float64 over all places "
        "where channels are summed over / relative ℓ2 of the outputs in onnxruntime.\n\n"
        f"| {' | '.join(names)} |\n{'|---' * len(names)}|\n"
    )
    text += "".join(f"| {' | '.join(cells(row))} |\n" for row in rows)
    return text + speed(rows) + reasons(rows)


def cells(row: dict[str, Any]) -> list[str]:
    if "error" in row:
        return [row["model"], str(row["channels"]), f"exit {row['exit']}: {row['error']}", *[""] * 7]

    def pair(values: list[float], unit: float, form: str) -> str:
        return " → ".join(format(v / unit, form) for v in values)

    timed = ["–", "–"]
    if row["latency_ratio"] is not None:
        low, ratio, high = row["latency_ratio"]
        timed = [pair(row["latency_ms"], 1, ".3f"), f"{ratio:.3f} [{low:.3f}, {high:.3f}]"]
    return [
        row["model"],
        str(row["channels"]),
        f"{100 * row['channels_cut'] / max(row['channels'] or 0, 1):.1f} %",
        str(len(row["frozen"])),
        pair(row["parameters"], 1, ",.0f"),
        pair(row["macs"], 1e6, ".2f"),
        pair(row["bytes"], 1e3, ".0f"),
        *timed,
        f"{row['proof']['float64_error']:.0e} / {row['proof']['ort_error']:.0e}",
    ]


def speed(rows: list[dict[str, Any]]) -> str:
    """Return the speed-up of the ResNets beside that of their multiply-accumulates."""
    found = [r for r in rows if r["model"] in RESNETS and r.get("latency_ratio") is not None]
    text = "\nSpeed-up beside fewer multiply-accumulates (wanted: at least 0.9 of it)\n\n"
    text += "| model | fewer multiply-accumulates | speed-up [95 %] | share |\n|---|---|---|---|\n"
    for row in found:
        fewer = row["macs"][0] / row["macs"][1]
        low, ratio, high = (1 / r for r in reversed(row["latency_ratio"]))
        shown = [
            row["model"],
            f"{fewer:.2f} ×",
            f"{ratio:.2f} × [{low:.2f}, {high:.2f}]",
            f"{ratio / fewer:.2f}",
        ]
        text += f"| {' | '.join(shown)} |\n"
    return text if found else ""


def reasons(rows: list[dict[str, Any]]) -> str:
    """List, for each model, why groups are frozen."""
    text = "\nWhy groups are frozen (each is kept because it …)\n\n"
    for row in rows:
        counted: Counter[str] = Counter()
        for _name, size, whys, _sliceable in row["frozen"]:
            counted[whys[0]] += size
        told = "; ".join(f"{why} ({size} channels)" for why, size in counted.most_common(12))
        told += f"; … {len(counted) - 12} more reasons" if len(counted) > 12 else ""
        beyond = [f"{where}: {why}" for where, why in row.get("out_of_reach", [])[:6]]
        text += f"* {row['model']}: {'; '.join(filter(None, [told, *beyond])) or 'none'}\n"
    return text


if __name__ == "__main__":
    sys.exit(main())
