"""VIB beside magnitude pruning on real models: half the multiply-accumulates, the same passes over the data.

Usage: ``python benchmarks/vib_models.py --shared ../shared [--only mnist_cntk …] [--epochs 9]``

``--method vib --target macs=0.5`` trains a third of the epochs with gates and two thirds without;
``--method magnitude --target macs=0.5 --method finetune`` spends all of them on fine-tuning. Digits and
CIFAR-10 have labels, whose test error is told. The audio models have none: coloured noise with a random
envelope stands for sound, the original is the teacher, and the relative error of the outputs is told.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
LABELLED = {"mnist_cntk": "mnist.npz", "cifar_cnn_tutorial": "cifar10_subset.npz"}
AUDIO = {"speech_recog": 600, "dnsmos_sig_bak_ovr": 60}
"""Model -> number of examples made."""


def main() -> None:
    """Run the models asked for and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--shared", type=Path, default=Path("../shared"), help="folder with models/ and data/"
    )
    parser.add_argument("--only", nargs="*", choices=[*LABELLED, *AUDIO], default=[*LABELLED, *AUDIO])
    parser.add_argument("--epochs", type=float, default=9.0)
    parser.add_argument(
        "--limit", type=int, default=None, help="examples to train on, where there are labels"
    )
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    stored = RESULTS / "vib_models.json"
    for name in arguments.only:
        for method in ("vib", "magnitude"):
            found = measure(name, method, arguments)
            rows = json.loads(stored.read_text()) if stored.exists() else []
            rows = [r for r in rows if (r["model"], r["method"]) != (name, method)] + [found]
            RESULTS.mkdir(exist_ok=True)
            stored.write_text(json.dumps(rows, indent=1) + "\n")
            stored.with_suffix(".md").write_text(table(rows))
            print(found, flush=True)


def measure(name: str, method: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Compress one model one way, and return its row."""
    import torch

    torch.set_num_threads(1)
    import onnxcompress
    from onnxcompress.engine.runtime import open_session

    source = arguments.shared / "models" / f"{name}.onnx"
    epochs, options = arguments.epochs, {"target": "macs=0.5", "round_to": 4}
    if method == "vib":
        options |= {"epochs": epochs / 3, "after": epochs * 2 / 3}
    else:
        options |= {"scope": "joint", "epochs": epochs}
    with tempfile.TemporaryDirectory() as folder:
        if name in LABELLED:
            data, data_options = arguments.shared / "data" / LABELLED[name], {"limit": arguments.limit}
        else:
            data, data_options = Path(folder) / "sound.npz", {}
            values = {i.name: i for i in open_session(source).inputs}
            first = next(iter(values.values()))
            shape = tuple(d if isinstance(d, int) and d > 0 else 1 for d in first.shape)
            np.savez(data, **{first.name: sounds(AUDIO[name], shape[1:])})
        out, began, cpu = Path(folder) / "cut.onnx", time.perf_counter(), time.process_time()
        result = onnxcompress.compress(
            source,
            method=["vib"] if method == "vib" else ["magnitude", "finetune"],
            output=out,
            data=data,
            data_options=data_options,
            **options,
        )
        run, size = result.run, out.stat().st_size
    before, after = run.models
    cost = next(c for c in run.comparisons if c.reference == "original")
    return {
        "model": name,
        "method": method,
        "examples": arguments.limit if name in LABELLED else AUDIO[name],
        "macs": (after.macs or 0) / max(before.macs or 1, 1),
        "bytes": [before.size_bytes, size],
        "metric": run.accuracy.metric if run.accuracy else None,
        "before": run.accuracy.before if run.accuracy else None,
        "after": run.accuracy.after if run.accuracy else None,
        "relative_l2": max((o.relative_l2 for o in cost.outputs if o.relative_l2 is not None), default=None),
        "inputs": cost.inputs,
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - cpu,
    }


def sounds(count: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return noise whose spectrum falls with the frequency, under an envelope that comes and goes."""
    rng = np.random.default_rng(0)
    length = shape[-1]
    spectrum = np.fft.rfft(rng.normal(size=(count, *shape)))
    slope = rng.uniform(0.2, 1.2, (count, *[1] * len(shape)))
    waves = np.fft.irfft(spectrum / np.arange(1, spectrum.shape[-1] + 1) ** slope, length)
    waves /= waves.std(-1, keepdims=True) + 1e-9
    points = rng.uniform(0, 1, (count, *[1] * (len(shape) - 1), 9))
    places = np.linspace(0, 8, length)
    low = places.astype(int).clip(0, 7)
    envelope = points[..., low] + (points[..., low + 1] - points[..., low]) * (places - low)
    return np.asarray(0.3 * waves * envelope, np.float32)


def table(rows: list[dict[str, Any]]) -> str:
    """Return the table of all rows."""
    lines = [
        "# VIB and magnitude pruning on real models",
        "",
        "Written by `python benchmarks/vib_models.py --shared ../shared`; see there for how it is measured.",
        "",
        "| model | examples | method | MACs left | metric | before | after | relative error of outputs "
        "| CPU s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        metric = [
            r["metric"] or "",
            *(f"{r[k]:.4f}" if r[k] is not None else "" for k in ("before", "after")),
        ]
        lines.append(
            f"| {r['model']} | {r['examples'] or 'all'} | {r['method']} | {r['macs']:.3f} "
            f"| {' | '.join(metric)} | {r['relative_l2']:.3f} | {r['cpu_seconds']:.0f} |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
