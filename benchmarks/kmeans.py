"""One-dimensional k-means against scikit-learn: CPU time, and distortion above the exact optimum.

    OMP_NUM_THREADS=1 python benchmarks/kmeans.py [--large] [--write benchmarks/results/kmeans.md]

The weights are a mixture with heavy tails. The exact optimum is dynamic programming over all weights
(onnxcompress.csteps.segmentation), run where it takes seconds; elsewhere the column is empty.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
from sklearn.cluster import KMeans

from onnxcompress.csteps.kmeans import kmeans
from onnxcompress.csteps.nearest import nearest
from onnxcompress.csteps.segmentation import segment

SEED = 0


def weights(n: int) -> np.ndarray:
    rng = np.random.default_rng(SEED)
    parts = [rng.normal(0, 0.02, n // 2), rng.laplace(0, 0.015, n - n // 2 - n // 100)]
    return np.concatenate([*parts, rng.normal(0, 0.15, n // 100)]).astype(np.float32)


def distortion(values: np.ndarray, entries: np.ndarray) -> float:
    entries = np.sort(entries)
    total = 0.0
    for part in np.array_split(values, max(1, len(values) >> 20)):
        total += float(np.square(part - entries[nearest(part, entries)]).sum())
    return total


def exact(values: np.ndarray, entries: int) -> float:
    distinct, counts = np.unique(values.astype(np.float64), return_counts=True)
    _, gain = segment(counts.astype(np.float64), counts * distinct, entries)
    return float(np.square(values.astype(np.float64)).sum() - gain)


def timed(call: object) -> tuple[float, np.ndarray]:
    began = time.process_time()
    found = call()  # type: ignore[operator]
    return time.process_time() - began, found


def row(n: int, entries: int, *, peer: bool, optimum: bool) -> str:
    values = weights(n)
    ours_s, ours = min((timed(lambda: kmeans(values, entries)) for _ in range(3)), key=lambda r: r[0])
    mine = distortion(values, ours)
    cells = [f"{n:,}", f"{entries}", f"{1e3 * ours_s:.1f}"]
    if peer:
        model = KMeans(entries, random_state=SEED)
        theirs_s, _ = timed(lambda: model.fit(values[:, None]))
        theirs = distortion(values, model.cluster_centers_[:, 0].astype(np.float64))
        cells += [f"{1e3 * theirs_s:.1f}", f"{theirs_s / ours_s:.0f}×", f"{theirs / mine - 1:+.2e}"]
    else:
        cells += ["", "", ""]
    cells.append(f"{mine / exact(values, entries) - 1:.1e}" if optimum else "")
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true", help="also 25 million weights")
    parser.add_argument("--write", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    lines = [
        "# One-dimensional k-means",
        "",
        f"Against scikit-learn {version('scikit-learn')} on {platform.machine()}, NumPy {np.__version__}, "
        f"one thread, CPU time (ours the best of three); {_load()} processes wanted a core at the start. "
        "Written by `python benchmarks/kmeans.py`; see there for what is measured.",
        "",
        "| weights | K | ours ms | scikit-learn ms | faster | its distortion vs ours | ours above optimum |",
        "|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines))
    sizes = [(n, entries) for n in (1_000, 10_000, 100_000, 1_000_000) for entries in (2, 4, 16, 256)]
    for n, entries in [*sizes, *((25_000_000, k) for k in (4, 16, 256) if options.large)]:
        work = n * entries
        lines.append(row(n, entries, peer=work <= 100_000 * 256, optimum=work <= 100_000 * 16))
        print(lines[-1], flush=True)
    if options.write:
        options.write.parent.mkdir(exist_ok=True)
        options.write.write_text("\n".join(lines) + "\n")


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown numbers of"


if __name__ == "__main__":
    main()
