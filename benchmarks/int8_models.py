"""Channel pruning and 8-bit arithmetic on real models: how much faster, at which output error, by which step.

Usage: ``python benchmarks/int8_models.py [--models NAME …] [--keep 0.5] [--write results/int8_models.md]``

Every model is made from random inputs, and the table says so: speed hardly depends on them, errors do.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import onnxcompress
from onnxcompress import report
from onnxcompress.core.errors import OnnxCompressError
from onnxcompress.core.run import Run
from onnxcompress.engine.measures import facts

MODELS = Path(__file__).resolve().parents[2] / "shared" / "models"
NAMES = ("ultraface_rfb320_nopost", "yolox_nano", "ppocr_det_v3", "speech_recog", "dnsmos_sig_bak_ovr")
STEPS: tuple[tuple[str, ...], ...] = (("int8",), ("magnitude",), ("magnitude", "int8"))
HEAD = (
    "| model | steps | times faster | 95 % interval | 8 bits alone | cleaned up alone | output error | bytes "
    "| report |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


def row(name: str, steps: tuple[str, ...], run: Run, page_bytes: int) -> str:
    assert run.benchmark is not None
    ratio = run.benchmark.ratios[0]
    ways = {way.name: way for facts_ in run.quantizations for way in facts_.ways}
    chosen = next((way for way in ways.values() if way.chosen), None)
    eight = f"{1 / chosen.ratio:.2f} × ({chosen.name})" if chosen and chosen.ratio else "—"
    plain = f"{1 / ways['float'].ratio:.2f} ×" if "float" in ways and ways["float"].ratio else "—"
    errors = [o.relative_l2 for o in run.comparisons[0].outputs if o.relative_l2 is not None]
    size = run.models[1].size_bytes / run.models[0].size_bytes
    cells = (
        name,
        " + ".join(steps),
        f"{1 / ratio.ratio:.2f} ×",
        f"{1 / ratio.high:.2f} to {1 / ratio.low:.2f}",
        eight,
        plain,
        f"{max(errors, default=0):.2g}",
        f"{100 * size:.0f} %",
        f"{page_bytes // 1000} kB",
    )
    return f"| {' | '.join(cells)} |"


def measured(name: str, steps: tuple[str, ...], keep: float) -> str:
    options = {"keep": keep} if "magnitude" in steps else {}
    try:
        run = onnxcompress.compress(
            MODELS / f"{name}.onnx",
            method=steps,
            random_data=True,
            data_options={"limit": 48},
            benchmark=True,
            **options,
        ).run
    except OnnxCompressError as error:
        return f"| {name} | {' + '.join(steps)} | {error} | | | | | | |"
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        report.write(run, page)
        return row(name, steps, run, page.stat().st_size)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", nargs="*", default=NAMES)
    parser.add_argument("--keep", type=float, default=0.5)
    parser.add_argument("--write", type=Path)
    asked = parser.parse_args()
    machine = facts.environment()
    lines = [
        f"{machine.cpu}, 1 thread, onnxruntime {machine.packages['onnxruntime']}; random inputs; "
        f"--keep {asked.keep:g}",
        "",
        HEAD,
    ]
    for name in asked.models:
        for steps in STEPS:
            lines.append(measured(name, steps, asked.keep))
            print(lines[-1], flush=True)
    if asked.write:
        asked.write.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
