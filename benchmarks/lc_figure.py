"""Error against compression for every scheme on LeNet300, one picture: ``results/lc_mnist.svg``.

Usage: ``python benchmarks/lc_figure.py``, after ``lc_mnist.py``, whose ``results/lc_mnist.json`` it draws
(needs matplotlib: ``pip install ".[benchmarks]"``). Seeds of one compression are one mark, at their mean.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

RESULTS = Path(__file__).parent / "results"
SCHEMES = {
    "codebook": ("o", "tab:blue"),
    "pruning": ("s", "tab:orange"),
    "low rank": ("^", "tab:green"),
    "sums and mixtures": ("D", "tab:red"),
}
WAYS = {"LC": 1.0, "LC, short path": 0.7, "iDC, short path": 0.45, "DC": 0.25}
"""How strongly each way is drawn; others are like LC, unconnected."""


def scheme(row: str) -> tuple[str, str]:
    """Return scheme and way of a row of ``lc_mnist.py``, by its name."""
    ways = {"LC": "LC, short path", "iDC": "iDC, short path", "DC": "DC"}
    way = ways.get(row.rpartition("-")[2], "LC")
    if row.startswith("keep"):
        return "pruning", way
    if row.startswith("rank"):
        return "low rank", way
    if row.startswith("mixed") or "+" in row:
        return "sums and mixtures", way
    return "codebook", (
        "500 unlabelled" if row.endswith("-500") else "layers 1, 3" if row == "K2-13" else way
    )


def draw(held: dict[str, Any], target: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "onnxcompress"  # the same picture for the same numbers
    import matplotlib.pyplot as plt

    seeds: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for result in held["results"]:
        seeds[result["row"]].append(result)
    figure, axes = plt.subplots(figsize=(7.5, 4.8))
    lines: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for row, results in seeds.items():
        point = fmean(r["size_ratio"] for r in results), fmean(r["error"] for r in results)
        lines[scheme(row)].append(point)
        published = results[0]["published_error"]
        if published is not None:
            marker, colour = SCHEMES[scheme(row)[0]]
            axes.plot(point[0], published, marker, mfc="none", mec=colour, ms=9, alpha=0.6)
    for (name, way), points in sorted(lines.items()):
        marker, colour = SCHEMES[name]
        x, y = zip(*sorted(points), strict=True)
        style = "-" if name in ("codebook", "pruning") and way in WAYS else ""
        marker = marker if way in WAYS else {"500 unlabelled": "x", "layers 1, 3": "*"}[way]
        strength = WAYS.get(way, 1.0)
        axes.plot(x, y, style + marker, color=colour, alpha=strength, ms=6, lw=1, label=f"{name}, {way}")
    axes.plot([], [], "ko", mfc="none", ms=9, alpha=0.6, label="published")
    axes.axhline(held["reference_error"], color="gray", lw=1, ls=":", label="reference, 32 bits")
    axes.set(xscale="log", yscale="log", xlabel="times smaller (bytes of the file)", ylabel="test error %")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("{x:g}")
    axes.tick_params(labelsize=8, which="both")
    axes.legend(fontsize=8, ncols=2)
    axes.set_title("LeNet300 on MNIST: error against compression", fontsize=10)
    figure.tight_layout()
    figure.savefig(target, metadata={"Date": None})


def main() -> None:
    held = json.loads((RESULTS / "lc_mnist.json").read_text(encoding="utf-8"))
    draw(held, RESULTS / "lc_mnist.svg")


if __name__ == "__main__":
    main()
