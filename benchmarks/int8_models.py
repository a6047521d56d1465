"""Channel pruning and 8-bit arithmetic on real models: how much faster, at which output error, by which step.

Usage: ``python benchmarks/int8_models.py --shared ../shared [--models NAME …] [--only chain]``

Two command lines a model: ``--method int8``, and the chain ``--method lossless --freeze-inputs``, ``--method
magnitude --target latency=…``, ``--method finetune`` with ``--max-time``, ``--method int8 --way fastest``,
which leaves the model float where 8 bits are not faster here. Models of pictures are trained, calibrated and
judged on the photographs of the shared data without labels; models of sound, for which there is no data, on
random numbers: speed hardly depends on them, errors do, and the table says which it was. Results are added
to ``benchmarks/results/int8_models.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PHOTOS: dict[str, dict[str, Any]] = {
    "ultraface_rfb320_nopost": {"mean": [127, 127, 127], "std": [128, 128, 128]},
    "yolox_nano": {"scale": 1.0},
    "ppocr_det_v3": {"scale": 1 / 255, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
}
"""How these models want their pictures."""

NAMES = (*PHOTOS, "speech_recog", "dnsmos_sig_bak_ovr")
CUT_FOR = {
    "ultraface_rfb320_nopost": 0.22,
    "yolox_nano": 0.39,
    "ppocr_det_v3": 0.36,
    "speech_recog": 0.5,
    "dnsmos_sig_bak_ovr": 0.8,
}
"""What cutting channels is to leave of the latency, where 8 bits will or will not take their share of it."""

EXAMPLES = 64
CHAIN = ("lossless", "magnitude", "finetune", "int8")


def measured(
    name: str, methods: tuple[str, ...], shared: Path, latency: float, seconds: float
) -> dict[str, Any]:
    """Compress once, and return what the table shows."""
    import onnxcompress
    from onnxcompress import report
    from onnxcompress.core.errors import OnnxCompressError
    from onnxcompress.core.resources import Resources

    row = {"model": name, "methods": " + ".join(methods)}
    options: dict[str, Any] = {}
    if methods == CHAIN:
        options = {"freeze_inputs": True, "target": f"latency={latency:g}", "way": "fastest"}
        options["resources"] = Resources(max_time_s=seconds)
    if name in PHOTOS:
        options["data"] = shared / "data" / "imagenet_sample"
    else:
        options["random_data"] = True
    data = {"limit": EXAMPLES, **({"labels": "none", **PHOTOS[name]} if name in PHOTOS else {})}
    try:
        run = onnxcompress.compress(
            shared / "models" / f"{name}.onnx",
            method=methods,
            data_options=data,
            benchmark=True,
            **options,
        ).run
    except OnnxCompressError as error:
        return {**row, "cut_for": latency, "failed": str(error)}
    assert run.benchmark is not None
    ratio = run.benchmark.ratios[0]
    (facts,) = run.quantizations
    ways = {way.name: way.ratio for way in facts.ways}
    chosen = next(way.name for way in facts.ways if way.chosen)
    errors = [o.relative_l2 for o in run.comparisons[0].outputs if o.relative_l2 is not None]
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        report.write(run, page)
        page_bytes = page.stat().st_size
    return {
        **row,
        "cut_for": latency if methods == CHAIN else None,
        "times_faster": 1 / ratio.ratio,
        "low": 1 / ratio.high,
        "high": 1 / ratio.low,
        "way": chosen,
        "last_step_ratio": ways[chosen],
        "eight_bit_ratio": min((r for w, r in ways.items() if w != "float" and r), default=None),
        "macs": run.models[1].macs / run.models[0].macs
        if run.models[0].macs and run.models[1].macs
        else None,
        "relative_l2": errors,
        "inputs": "photographs" if name in PHOTOS else "random numbers",
        "bytes": run.models[1].size_bytes / run.models[0].size_bytes,
        "page_bytes": page_bytes,
        "cpu": run.environment.cpu,
        "onnxruntime": run.environment.packages["onnxruntime"],
    }


def write(rows: list[dict[str, Any]], asked: argparse.Namespace) -> None:
    """Write the JSON file and the table."""
    rows = sorted(rows, key=lambda r: (NAMES.index(r["model"]), len(r["methods"])))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "int8_models.json").write_text(json.dumps(rows, indent=1) + "\n")
    last = next((r for r in reversed(rows) if "cpu" in r), None)
    lines = [
        "# Channel pruning and 8-bit arithmetic",
        "",
        "Written by `python benchmarks/int8_models.py --shared ../shared`; see there for how it is measured. "
        "The chain simplifies, cuts channels for a share of the latency, trains for at most "
        f"{asked.seconds:g} s and takes 8 bits where they are measurably faster. "
        '"8 bits" is the latency of the fastest 8-bit way divided by that before it.',
        "",
        "| model | methods | cut for | times faster | 95 % interval | computes | 8 bits | MACs left "
        "| error of each output (relative ℓ2) | judged on | bytes left | HTML report |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        if "failed" in r:
            lines.append(
                f"| {r['model']} | {r['methods']} | {r['cut_for']} | {r['failed']} | | | | | | | | |"
            )
            continue
        eight = "" if r["eight_bit_ratio"] is None else f"{r['eight_bit_ratio']:.2f} ×"
        macs = "" if r["macs"] is None else f"{r['macs']:.2f}"
        errors = ", ".join(f"{e:.2g}" for e in r["relative_l2"])
        lines.append(
            f"| {r['model']} | {r['methods']} | {r['cut_for'] or ''} | {r['times_faster']:.2f} "
            f"| {r['low']:.2f} to {r['high']:.2f} | {r['way']} | {eight} | {macs} | {errors} | {r['inputs']} "
            f"| {100 * r['bytes']:.0f} % | {r['page_bytes'] // 1000} kB |"
        )
    if last is not None:
        lines += ["", f"{last['cpu']}, one thread, onnxruntime {last['onnxruntime']}."]
    (RESULTS / "int8_models.md").write_text("\n".join([*lines, ""]))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--shared", type=Path, default=Path("../shared"), help="folder with models/ and data/"
    )
    parser.add_argument("--models", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--only", choices=("int8", "chain"), help="default: both")
    parser.add_argument(
        "--latency", type=float, help="what cutting channels is to leave of it; default: as in the table"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="for training after the cut")
    asked = parser.parse_args()
    stored = RESULTS / "int8_models.json"
    for name in asked.models:
        for methods in {"int8": [("int8",)], "chain": [CHAIN], None: [("int8",), CHAIN]}[asked.only]:
            found = measured(name, methods, asked.shared, asked.latency or CUT_FOR[name], asked.seconds)
            rows = json.loads(stored.read_text()) if stored.exists() else []
            key = (found["model"], found["methods"])
            write([*(r for r in rows if (r["model"], r["methods"]) != key), found], asked)
            print(found, flush=True)


if __name__ == "__main__":
    main()
