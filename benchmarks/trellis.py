"""What a trellis gains over a plain codebook of as many bits: distortion of weights, direct compression.

Usage: ``python benchmarks/trellis.py [--shared ../shared]``

Random numbers (100,000, normal and Laplace) and, with ``--shared``, the weights of real models that are large
enough for a trellis. Distortion is Σ(w − decoded)² / Σw² of each weight, averaged over weights, in decibels;
bits are all that is stored, by the number of weights. Seconds are of one CPU thread, on a machine that did
other work as well.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results"
MODELS = ("mnist_cntk", "espcn_nn_resize")
LEAST_BYTES = 512


def weights_of(path: Path, bits: int) -> list[np.ndarray]:
    """Return the weights of layers that a trellis of so many bits is for."""
    from onnxcompress import importer
    from onnxcompress.engine.layers import layers

    model = importer.load(path)
    arrays = [model.array(layer.weight) for layer in layers(model)]
    return [a for a in arrays if a.dtype == np.float32 and a.size * bits // 8 >= LEAST_BYTES]


def measured(weights: list[np.ndarray], bits: int) -> dict[str, tuple[float, float, float]]:
    """Return for each kind of codebook: decibels, bits a weight, seconds."""
    from onnxcompress.encodings.codebook import AdaptiveCodebook
    from onnxcompress.encodings.trellis import TrellisCodebook

    found = {}
    count = sum(w.size for w in weights)
    for name, projection in (("plain", AdaptiveCodebook(1 << bits)), ("trellis", TrellisCodebook(bits))):
        began, error, stored = time.process_time(), 0.0, 0
        for weight in weights:
            (encoding,) = projection.project([weight])
            lost = np.square(encoding.decode() - weight, dtype=np.float64).sum()
            error += weight.size * lost / np.square(weight, dtype=np.float64).sum()
            stored += encoding.stored_bits()
        found[name] = (10 * np.log10(count / error), stored / count, time.process_time() - began)
    return found


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, help="folder with models/")
    arguments = parser.parse_args()
    generator = np.random.default_rng(0)
    numbers = {
        "normal numbers": generator.normal(size=100_000).astype(np.float32),
        "Laplace numbers": generator.laplace(size=100_000).astype(np.float32),
    }
    lines = [
        "# Trellis beside plain codebooks",
        "",
        "Written by `python benchmarks/trellis.py --shared ../shared`; see there for how it is measured.",
        "",
        "| weights | bits | plain: dB | bits stored | s | trellis: dB | bits stored | s | dB gained |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for bits in (1, 2, 3, 4):
        cases = {name: [array] for name, array in numbers.items()}
        if arguments.shared is not None:
            cases |= {name: weights_of(arguments.shared / "models" / f"{name}.onnx", bits) for name in MODELS}
        for name, weights in cases.items():
            if not weights:  # none is large enough for so few bits
                continue
            row = measured(weights, bits)
            told = " | ".join(f"{d:.2f} | {b:.2f} | {s:.1f}" for d, b, s in row.values())
            gained = row["trellis"][0] - row["plain"][0]
            size = sum(w.size for w in weights)
            lines.append(f"| {name} ({size:,}) | {bits} | {told} | {gained:.2f} |")
            print(lines[-1], flush=True)
    (RESULTS / "trellis.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
