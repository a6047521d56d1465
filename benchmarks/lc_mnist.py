"""LC compression of LeNet300 on MNIST, from the authors' own reference network: the table of the papers.

Usage: ``python benchmarks/lc_mnist.py --shared ../shared [--rows K2 K4 …] [--seeds 0 1] [--jobs 2]``

Every row is one call of ``onnxcompress.compress`` with these options and no other; training sees the 60,000
training examples (a part of them as validation split, which alone chooses the state kept), the test error
is measured once, on the 10,000 test examples, by onnxruntime on the file that was written. Rows are added to
``benchmarks/results/lc_mnist.json`` as they finish; ``lc_mnist.md`` is the table of that file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PRUNE = ("lc-prune",)
UNLABELLED = {"limit": 500, "labels": "none"}
SHORT = {"epochs": 1.0, "augment": False}
"""40 epochs on the pictures as they are: for LC beside iterated DC, with the same effort for both."""


@dataclass(frozen=True)
class Row:
    """One compression: methods in turn, their options, those of the data, the published error, our target."""

    name: str
    what: str
    options: dict[str, Any]
    data: dict[str, Any] = field(default_factory=dict)
    published: float | None = None
    target: float | None = None
    methods: tuple[str, ...] = ("lc-quant",)


ROWS = (
    Row("K2", "K=2 (1 bit), each layer", {"entries": 2}, published=2.56, target=2.2),
    Row("K2-13", "K=2 on layers 1 and 3", {"entries": 2, "exclude": ("fc2",)}, published=2.26, target=2.1),
    Row("K4", "K=4 (2 bits), each layer", {"entries": 4}, target=2.1),
    Row("K8", "K=8 (3 bits), each layer", {"entries": 8}),
    Row("K16", "K=16 (4 bits), each layer", {"entries": 16}),
    Row("K4-500", "K=4, 500 examples without labels", {"entries": 4}, UNLABELLED, target=2.4),
    *(
        Row(f"K{k}-{m}", f"K={k}, {m}, short path", {"entries": k, "mode": m.lower(), **SHORT})
        for k in (2, 4, 8, 16)
        for m in ("LC", "iDC")
    ),
    Row("keep5", "keep 5 % (ℓ0, joint)", {"keep": 0.05}, published=2.18, target=2.0, methods=PRUNE),
    Row(
        "K2+1%",
        "one K=2 for all + 1 % corrections",
        {"part": ("*=codebook(entries=2, joint=true)+prune(keep=0.01)",)},
        published=2.17,
        target=2.0,
        methods=("lc",),
    ),
    Row(
        "mixed",
        "5000 weights on layer 1, rank 10 on layer 2, K=2 on layer 3",
        {"part": ("fc1=prune(count=5000)", "fc2=low-rank(rank=10)", "fc3=codebook(entries=2)")},
        published=2.13,
        target=2.0,
        methods=("lc",),
    ),
    Row(
        "rank",
        "learned ranks, α = 1e-6",
        {"rank": "auto", "alpha": 1e-6},
        published=1.90,
        target=1.8,
        methods=("lc-lowrank",),
    ),
    Row(
        "keep1",
        "keep 1 % (ℓ0, joint), survivors retrained",
        {"keep": 0.01},
        published=3.17,
        target=3.0,
        methods=(*PRUNE, "finetune"),
    ),
    *(
        Row(
            f"keep{k}-{m}",
            f"keep {k} %, {m}, short path",
            {"keep": k / 100, "mode": m.lower(), **SHORT},
            methods=PRUNE,
        )
        for k in (5, 1)
        for m in ("LC", "iDC")
    ),
    *(Row(f"keep{k}-DC", f"keep {k} %, DC", {"keep": k / 100, "mode": "dc"}, methods=PRUNE) for k in (5, 1)),
    *(Row(f"K{k}-DC", f"K={k}, DC", {"entries": k, "mode": "dc"}) for k in (2, 4, 8, 16)),
)


def run(row: Row, seed: int, shared: Path) -> dict[str, Any]:
    """Compress, and return what the table shows."""
    import torch

    torch.set_num_threads(1)
    import onnxcompress

    source = shared / "models" / "lenet300_lc_reference.onnx"
    began, cpu = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "compressed.onnx"
        result = onnxcompress.compress(
            source,
            method=row.methods,
            output=target,
            data=shared / "data" / "mnist.npz",
            data_options=row.data or None,
            seed=seed,
            threads=1,
            **row.options,
        )
        size, error = target.stat().st_size, test_error(target, shared)
    trained = [m.training for m in result.run.methods if m.training is not None]
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    return {
        "row": row.name,
        "seed": seed,
        "what": row.what,
        "published_error": row.published,
        "target_error": row.target,
        "error": error,
        "size_bytes": size,
        "size_ratio": source.stat().st_size / size,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "epochs": sum(t.epochs for t in trained),
        "stopped": "; ".join(t.stopped for t in trained) or None,
        "points": sum(len(t.points) for t in trained),
    }


def test_error(model: Path, shared: Path) -> float:
    """Return the error of a file on the 10,000 test examples in percent, in onnxruntime."""
    import numpy as np

    from onnxcompress.engine.runtime import open_session

    data = np.load(shared / "data" / "mnist.npz")
    session = open_session(model)
    images = data["x_test"].reshape(-1, 1, 28, 28).astype(np.float32) / 255
    (scores,) = session.run({session.inputs[0].name: images}).values()
    return float(100 * (scores.argmax(1) != data["y_test"]).mean())


def write(results: list[dict[str, Any]], reference: float) -> None:
    """Write the JSON file and the table."""
    order = {row.name: i for i, row in enumerate(ROWS)}
    results = sorted(results, key=lambda r: (order[r["row"]], r["seed"]))
    RESULTS.mkdir(exist_ok=True)
    held = {"reference_error": reference, "results": results}
    (RESULTS / "lc_mnist.json").write_text(json.dumps(held, indent=1) + "\n")
    lines = [
        "# LC compression of LeNet300 on MNIST",
        "",
        f"Reference: the authors' network, {reference:.2f} % test error, 32-bit weights. "
        "Written by `python benchmarks/lc_mnist.py --shared ../shared`; see there for how it is measured.",
        "",
        "| compression | seed | test error % | published % | target % | bytes | ratio | epochs | s | CPU s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        lines.append(
            f"| {r['what']} | {r['seed']} | {_number(r['error'], 2)} | {_number(r['published_error'], 2)} "
            f"| {_number(r['target_error'], 1)} | {r['size_bytes']} | ×{r['size_ratio']:.1f} "
            f"| {r['epochs']:.0f} | {r['seconds']:.0f} | {r['cpu_seconds']:.0f} |"
        )
    lines += ["", f"Measured on {platform.processor() or platform.machine()}, one thread a row.", ""]
    (RESULTS / "lc_mnist.md").write_text("\n".join(lines))


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--shared", type=Path, default=Path("../shared"), help="folder with models/ and data/"
    )
    parser.add_argument("--rows", nargs="+", choices=[row.name for row in ROWS], help="default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--jobs", type=int, default=2, help="rows at a time, one thread each")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    chosen = [row for row in ROWS if not arguments.rows or row.name in arguments.rows]
    stored = RESULTS / "lc_mnist.json"
    reference = test_error(arguments.shared / "models" / "lenet300_lc_reference.onnx", arguments.shared)
    with ProcessPoolExecutor(arguments.jobs) as pool:
        waiting = [
            pool.submit(run, row, seed, arguments.shared) for row in chosen for seed in arguments.seeds
        ]
        for future in as_completed(waiting):
            found = future.result()
            results = json.loads(stored.read_text())["results"] if stored.exists() else []
            results = [r for r in results if (r["row"], r["seed"]) != (found["row"], found["seed"])]
            write([*results, found], reference)
            print(
                f"{found['what']}: {found['error']} % in {found['seconds']:.0f} s, ×{found['size_ratio']:.1f}"
            )


if __name__ == "__main__":
    main()
