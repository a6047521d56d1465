"""What ``--method lossless`` alone does to the latency of real models.

    python benchmarks/lossless_latency.py --shared ../shared [--budget 20] [--only yolox_nano ...]

The original, the lossless file, and the lossless file with ``--freeze-inputs`` where weights are inputs of
the graph too, take turns on one seeded random input, one thread, CPU time. The original takes part a second
time, under another name, to show what the comparison says of equal files. onnxruntime optimises every file it
loads, so that much of what lossless does is saved work at loading, not at each run. Writes
results/lossless_latency.md and .json beside this file; with --only the rows of the other models stay as they
are in the .json.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import onnxcompress
from onnxcompress import bench, importer
from onnxcompress.core.errors import NothingChangedError, OnnxCompressError
from onnxcompress.core.run import LatencyRatio
from onnxcompress.engine import feeds, runtime
from onnxcompress.engine.measures import facts, stats

RESULTS = Path(__file__).parent / "results"
ORIGINAL, AGAIN, LOSSLESS, FROZEN = "original", "the original again", "lossless", "lossless, inputs frozen"


def main() -> int:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with models/")
    parser.add_argument("--budget", type=float, default=20.0, help="seconds a model")
    parser.add_argument("--only", nargs="*", default=None, help="names of models, without .onnx")
    arguments = parser.parse_args()
    stem = RESULTS / "lossless_latency"
    rows: dict[str, Any] = {}
    if arguments.only and stem.with_suffix(".json").exists():
        rows = json.loads(stem.with_suffix(".json").read_text())
    for model in sorted((arguments.shared / "models").glob("*.onnx")):
        if arguments.only and model.stem not in arguments.only:
            continue
        rows[model.stem] = measured(model, arguments.budget)
        print(*lines(model.stem, rows[model.stem]), sep="\n", flush=True)
        stem.with_suffix(".json").write_text(json.dumps(dict(sorted(rows.items())), indent=1) + "\n")
        stem.with_suffix(".md").write_text(table(rows))
    return 0


def measured(model: Path, budget_s: float) -> dict[str, Any]:
    """Return the file sizes and latencies of a model's files; what stands in the way where there are none."""
    with tempfile.TemporaryDirectory(prefix="onnxcompress-") as folder:
        files = {ORIGINAL: model, AGAIN: model}
        frozen = bool(_overridable(model))
        for name, freeze in ((LOSSLESS, False), *(((FROZEN, True),) if frozen else ())):
            target = Path(folder) / f"{len(files)}.onnx"
            try:
                onnxcompress.compress(model, method="lossless", output=target, freeze_inputs=freeze)
            except NothingChangedError:
                continue
            except OnnxCompressError as error:
                return {"error": f"{error.what}: {error.why}" if error.why else error.what}
            files[name] = target
        if len(files) == 2:
            return {"error": "nothing to simplify"}
        session = runtime.open_session(model)
        loaded = importer.load(model)
        shapes = feeds.resolve_shapes(loaded, session, {})
        single = feeds.random_feeds(session.inputs, seed=0, shapes=shapes, model=loaded)[0]
        found = bench.compare_latency(files, single, budget_s=budget_s, memory=False)
        return {
            "median_ms": found.latencies[0].median_ms,
            "sessions": found.sessions,
            "load": round(os.getloadavg()[0], 1),
            "bytes": {name: path.stat().st_size for name, path in files.items()},
            "ratios": {r.name: [r.ratio, r.low, r.high, r.verdict] for r in found.ratios},
        }


def _overridable(model: Path) -> list[str]:
    """Return the weights that are inputs of the graph too."""
    return [v.name or "" for v in importer.load(model).ir.graph.inputs if v.is_initializer()]


def table(rows: dict[str, Any]) -> str:
    """Return the results file."""
    environment = facts.environment()
    loads = [row["load"] for row in rows.values() if "load" in row]
    busy = f"{min(loads):g} to {max(loads):g}" if loads else "not known"
    version, margin = environment.packages["onnxruntime"], f"{100 * stats.MARGIN:g} %"
    head = [
        "# Latency of lossless files",
        "",
        "Written by `python benchmarks/lossless_latency.py`; see there. One seeded random input, one thread, "
        f"{environment.cpu}, {environment.cores} cores that other work kept busy (load while measuring "
        f"{busy}), onnxruntime {version}. A ratio below 1 is faster than the original; an interval that "
        f'reaches within {margin} of 1 is "no measurable difference".',
        "",
        "| model | original | file | bytes | ratio | 95 % interval | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *(line for name in sorted(rows) for line in lines(name, rows[name])), ""])


def lines(name: str, row: dict[str, Any]) -> list[str]:
    """Return the lines of one model."""
    if "error" in row:
        return [f"| {name} | | {row['error']} | | | | |"]
    before = row["bytes"][ORIGINAL]
    found = []
    for file, values in row["ratios"].items():
        ratio = LatencyRatio(file, *values)
        size = f"{(row['bytes'][file] - before) / before:+.1%}".replace("%", " %") if file != AGAIN else ""
        found.append(
            f"| {name} | {row['median_ms']:.3g} ms | {file} | {size} | {ratio.ratio:.3f} "
            f"| {ratio.low:.3f} to {ratio.high:.3f} | {ratio.verdict} |"
        )
    return found


if __name__ == "__main__":
    raise SystemExit(main())
