"""VIB beside magnitude pruning on real models: half the multiply-accumulates, the same passes over the data.

Usage: ``python benchmarks/vib_models.py --shared ../shared [--only mnist_cntk] [--methods vib] [--seeds 1]``

Both methods have the same examples, the same passes over them, and two tries, of which the validation split
chooses the one with the smaller loss. ``--method vib --target macs=0.5`` spends half of the passes with
gates, its gamma scaled by what channels cost, or a quarter, its gamma scaled by the size of feature maps as
in the paper. ``--method magnitude --target macs=0.5 --method finetune`` spends all of them on fine-tuning,
cut by one ranking for the whole network or by the same share of every layer; "taylor" is the same with
``--importance taylor``, which knows the data as VIB does. What is told is measured once,
on the file of the chosen try. A seed draws the validation split, the order of the examples and the noise.

Digits and CIFAR-10 have labels: the test error is told. The audio models have none and the original teaches:
coloured noise with a random envelope stands for sound, and it is told, on examples that were not trained on,
how often the decision is the original's and the relative error of the outputs. They have few examples:
batches of 16 instead of 64, and 12 passes instead of 9. ``speech_recog`` reads spectra with their first and
second differences.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
LABELLED = {"mnist_cntk": "mnist.npz", "cifar_cnn_tutorial": "cifar10_subset.npz"}
AUDIO = {"speech_recog": 600, "dnsmos_sig_bak_ovr": 24}
"""Model -> number of examples made."""
MODELS = (*LABELLED, *AUDIO)
SLOW = ("dnsmos_sig_bak_ovr",)
"""Hours on one core: only when asked for by name."""


METHODS = ("vib", "magnitude", "taylor")


def tries(method: str, epochs: float, batch_size: int) -> list[dict[str, Any]]:
    """Return the options of each try of a method."""
    common = {"target": "macs=0.5", "round_to": 1, "batch_size": batch_size}
    if method == "vib":
        return [
            {**common, "epochs": share * epochs, "after": (1 - share) * epochs, "scaling": scaling}
            for share, scaling in ((0.5, "cost"), (0.25, "map"))
        ]
    importance = {"importance": "taylor"} if method == "taylor" else {}
    return [{**common, **importance, "scope": scope, "epochs": epochs} for scope in ("joint", "layer")]


def main() -> None:
    """Run the models asked for and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--shared", type=Path, default=Path("../shared"), help="folder with models/ and data/"
    )
    parser.add_argument(
        "--only",
        nargs="*",
        choices=MODELS,
        default=[m for m in MODELS if m not in SLOW],
    )
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=float, default=None, help="passes over the examples")
    parser.add_argument(
        "--limit", type=int, help="examples to train on, where there are labels; default: all"
    )
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    stored = RESULTS / "vib_models.json"
    for name, method, seed in itertools.product(arguments.only, arguments.methods, arguments.seeds):
        found = measure(name, method, seed, arguments)
        rows = json.loads(stored.read_text()) if stored.exists() else []
        rows = [r for r in rows if (r["model"], r["method"], r["seed"]) != (name, method, seed)] + [found]
        rows.sort(key=lambda r: (MODELS.index(r["model"]), METHODS.index(r["method"]), r["seed"]))
        RESULTS.mkdir(exist_ok=True)
        stored.write_text(json.dumps(rows, indent=1) + "\n")
        stored.with_suffix(".md").write_text(table(rows))
        print(found, flush=True)


def measure(name: str, method: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Compress one model one way, try by try, and return the row of the try that validates best."""
    import torch

    torch.set_num_threads(1)
    import onnxcompress

    began, cpu = time.perf_counter(), time.process_time()
    source, found = arguments.shared / "models" / f"{name}.onnx", []
    with tempfile.TemporaryDirectory() as folder:
        if name in LABELLED:
            data = arguments.shared / "data" / LABELLED[name]
            data_options = {} if arguments.limit is None else {"limit": arguments.limit}
        else:
            data, data_options = Path(folder) / "sound.npz", {}
            np.savez(data, **made(source, AUDIO[name]))
        epochs, batch_size = (9.0, 64) if name in LABELLED else (12.0, 16)
        for number, options in enumerate(tries(method, arguments.epochs or epochs, batch_size)):
            out = Path(folder) / f"{number}.onnx"
            result = onnxcompress.compress(
                source,
                method=["vib"] if method == "vib" else ["magnitude", "finetune"],
                output=out,
                data=data,
                data_options=data_options,
                seed=seed,
                **options,
            )
            losses = [point.compressed_loss for point in result.run.methods[-1].training.points]
            # Fine-tuning keeps its best state; points of the other method are of uncut networks, too.
            loss = losses[-1] if method == "vib" else min(losses)
            found.append((loss, number, options, result.run, out.stat().st_size))
    _, _, options, run, size = min(found, key=lambda one: one[0])
    before, after = run.models
    facts = run.methods[-1].training
    cost = next(c for c in run.comparisons if c.reference == "original")
    return {
        "model": name,
        "method": method,
        "seed": seed,
        "options": options,
        "validation_losses": [one[0] for one in found],
        "examples": facts.train_examples + facts.validation_examples,
        "macs": (after.macs or 0) / max(before.macs or 1, 1),
        "bytes": [before.size_bytes, size],
        "metric": run.accuracy.metric if run.accuracy else None,
        "before": run.accuracy.before if run.accuracy else None,
        "after": run.accuracy.after if run.accuracy else None,
        "relative_l2": max((o.relative_l2 for o in cost.outputs if o.relative_l2 is not None), default=None),
        "agreement": next((o.top1_agreement for o in cost.outputs), None),
        "inputs": cost.inputs,
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - cpu,
    }


def made(source: Path, count: int) -> dict[str, np.ndarray]:
    """Return examples for a model of sound, by the name of its input."""
    from onnxcompress.engine.runtime import open_session

    first = open_session(source).inputs[0]
    shape = tuple(d if isinstance(d, int) and d > 0 else 1 for d in first.shape)[1:]
    return {first.name: sounds(count, shape) if len(shape) == 1 else spectra(count, *shape[1:])}


def spectra(count: int, bands: int, frames: int) -> np.ndarray:
    """Return logarithms of spectra of made sounds over time, with first and second differences in time."""
    waves = sounds(count, (frames * 2 * bands,)).reshape(count, frames, 2 * bands)
    power = np.abs(np.fft.rfft(waves * np.hanning(2 * bands), axis=-1))[..., 1 : bands + 1] ** 2
    levels = np.log(power + 1e-6).swapaxes(1, 2)
    levels = (levels - levels.mean()) / levels.std()
    slopes = np.gradient(levels, axis=-1)
    return np.stack([levels, slopes, np.gradient(slopes, axis=-1)], 1).astype(np.float32)


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
    """Return the table: means over seeds and, where there are several, what each came to."""
    lines = [
        "# VIB and magnitude pruning on real models",
        "",
        "Written by `python benchmarks/vib_models.py --shared ../shared`; see there for how it is measured.",
        "Means over seeds, what each came to in brackets.",
        "",
        "| model | examples | method | seeds | MACs left | metric | before | after | same decision "
        "| relative error of outputs | CPU s |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (model, method), group in itertools.groupby(rows, key=lambda r: (r["model"], r["method"])):
        same = list(group)
        cells = [
            model,
            str(same[0]["examples"] or "all"),
            method,
            ", ".join(str(r["seed"]) for r in same),
            _mean(same, "macs", 3, each=False),
            same[0]["metric"] or "",
            _mean(same, "before", 4, each=False),
            _mean(same, "after", 4),
            _mean(same, "agreement", 4),
            _mean(same, "relative_l2", 3),
            _mean(same, "cpu_seconds", 0, each=False),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _mean(rows: list[dict[str, Any]], key: str, digits: int, *, each: bool = True) -> str:
    values = [r[key] for r in rows if r[key] is not None]
    if not values:
        return ""
    words = f"{sum(values) / len(values):.{digits}f}"
    if each and len(values) > 1:
        words += f" ({', '.join(f'{v:.{digits}f}' for v in values)})"
    return words


if __name__ == "__main__":
    main()
