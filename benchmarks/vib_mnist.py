"""VIB on LeNet-300-100 and LeNet-5-Caffe, MNIST: the first two rows of the paper's tables.

Usage: ``python benchmarks/vib_mnist.py --shared ../shared [--nets lenet5] [--parts vib quantised]``

Each row trains a reference network the usual way, writes it as ONNX, compresses that file with the recipe
below and nothing else, and measures the file that was written. Compression sees the 60,000 training examples,
1,000 of them as validation split; test errors are measured once, on the 10,000 test examples, by onnxruntime.

``--parts quantised`` looks for the smallest file at no more error than the reference: stages that cut less,
then LC quantisation to 2 bits a weight (LeNet-5: 4, 5 in convolutions), and biases in 16 bits. ``--parts vib
quantised`` does both; a row keeps what the other part has measured. Everything was chosen by errors and
losses on 5,000 examples held out from training.

r_W: weights of layers left, biases aside; the weights of LeNet-300-100 include those of its pixels.
r_N: elements of feature maps left, before pooling (LeNet-300-100: inputs and hidden units).
MFLOP: multiplications of one inference, as the paper counts them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import onnx

RESULTS = Path(__file__).parent / "results"
NETS = ("lenet300", "lenet5")
PARTS = ("vib", "quantised")
TARGETS = {
    "lenet300": {"r_w": 3.0, "r_n": 15.0, "mflop": None, "error": 1.6},
    "lenet5": {"r_w": 0.64, "r_n": 14.0, "mflop": 0.080, "error": 1.0},
}
PUBLISHED = {
    "lenet300": {"r_w": 3.59, "r_n": 16.98, "mflop": None, "error": 1.6},
    "lenet5": {"r_w": 0.83, "r_n": 15.55, "mflop": 0.094, "error": 1.0},
}
VALIDATION = 1000
"""Examples that compression does not train on: enough to see that nothing went wrong; choosing takes more."""
REFERENCE_EPOCHS = {"lenet300": 12, "lenet5": 3}

COMMON: dict[str, Any] = {
    "normalise": True,
    "round_to": 1,
    "batch_size": 256,
    "lr": 3e-3,
    "farthest": 1.2,
    "teacher": 0.0,
}
PIXELS = {**COMMON, "gate_inputs": True}
RECIPES: dict[str, tuple[dict[str, Any], ...]] = {
    # Each stage works on the network that the one before has cut, which makes most epochs cheap.
    "lenet300": (
        {**PIXELS, "target": "params=0.12", "epochs": 8.0, "after": 0.0},
        {**PIXELS, "target": "params=0.45", "epochs": 15.0, "after": 0.0},
        {
            **PIXELS,
            "target": "params=7986,elements=177",
            "scaling": "constant",
            "epochs": 40.0,
            "after": 200.0,
            "weight_decay": 4e-4,
        },
    ),
    "lenet5": (
        {**COMMON, "target": "macs=0.25", "epochs": 1.5, "after": 0.0},
        {**COMMON, "target": "macs=0.25", "epochs": 4.0, "after": 0.0},
        {
            **COMMON,
            "target": "params=2740,macs=79k,elements=546",
            "epochs": 10.0,
            "after": 80.0,
            "weight_decay": 4e-4,
        },
    ),
}


LESS: dict[str, tuple[dict[str, Any], ...]] = {
    "lenet300": (
        RECIPES["lenet300"][0],
        {
            **PIXELS,
            "target": "params=15k,elements=260",
            "epochs": 10.0,
            "after": 60.0,
            "weight_decay": 2e-4,
        },
    ),
    "lenet5": (
        RECIPES["lenet5"][0],
        {**COMMON, "target": "params=12k", "epochs": 5.0, "after": 40.0, "weight_decay": 2e-4},
    ),
}
"""The stages before quantisation."""
LABELS: dict[str, Any] = {"teacher": 0.0, "noise": 0.0}
TRELLIS: dict[str, Any] = {**LABELS, "bits": 2, "codebook": "trellis", "joint": True}
QUANTISATION: dict[str, tuple[str, dict[str, Any]]] = {
    "lenet300": ("lc-quant", {**TRELLIS, "steps": 80, "epochs": 5.0, "lr": 0.015}),
    "lenet5": (
        "lc",
        {
            **LABELS,
            "part": ("op:Gemm=trellis(bits=4, joint=true)", "op:Conv=codebook(bits=5)"),
            # Long paths overfit: without the normalisation that vib lends, nothing keeps the weights small.
            "steps": 20,
            "epochs": 0.5,
            "lr": 0.001,
        },
    ),
}


def reference(net: str, seed: int, images: Any, labels: Any, target: Path) -> None:
    """Train a reference network the usual way, on the pictures as they are, and write it folded."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    torch.manual_seed(seed)
    layers: list[nn.Module] = {
        "lenet300": [
            nn.Flatten(), nn.Linear(784, 300), nn.BatchNorm1d(300), nn.ReLU(), nn.Dropout(0.1),
            nn.Linear(300, 100), nn.BatchNorm1d(100), nn.ReLU(), nn.Linear(100, 10),
        ],
        "lenet5": [
            nn.Conv2d(1, 20, 5), nn.BatchNorm2d(20), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(20, 50, 5), nn.BatchNorm2d(50), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(800, 500), nn.BatchNorm1d(500), nn.ReLU(), nn.Dropout(0.3), nn.Linear(500, 10),
        ],
    }[net]  # fmt: skip
    model, batch, epochs = nn.Sequential(*layers), 128, REFERENCE_EPOCHS[net]
    x, y = torch.from_numpy(images)[:, None], torch.from_numpy(labels)
    steps = len(x) // batch
    optimizer = torch.optim.Adam(model.parameters(), weight_decay=5e-5)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=epochs * steps)
    for _ in range(epochs):
        order = torch.randperm(len(x))
        for k in range(steps):
            rows = order[k * batch : (k + 1) * batch]
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
            schedule.step()
    onnx.save(_as_onnx([m for m in _folded(model.eval()) if not isinstance(m, nn.Dropout)]), target)


def _folded(model: Any) -> list[Any]:
    """Return the modules with each BatchNormalization folded into the layer before it."""
    import torch
    from torch import nn

    kept: list[Any] = []
    for module in model:
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            layer = kept[-1]
            with torch.no_grad():
                scale = module.weight / (module.running_var + module.eps).sqrt()
                layer.weight.mul_(scale.reshape(-1, *[1] * (layer.weight.dim() - 1)))
                layer.bias.copy_((layer.bias - module.running_mean) * scale + module.bias)
        else:
            kept.append(module)
    return kept


def _as_onnx(modules: list[Any]) -> onnx.ModelProto:
    from torch import nn

    nodes, weights, value = [], [], "x"
    for k, module in enumerate(modules):
        after = "y" if k == len(modules) - 1 else f"v{k}"
        inputs = [value]
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            for part in ("weight", "bias"):
                array = getattr(module, part).detach().numpy()
                weights.append(onnx.numpy_helper.from_array(array, f"{part[0]}{k}"))
                inputs.append(f"{part[0]}{k}")
        kind, attributes = {
            "Linear": ("Gemm", {"transB": 1}),
            "Conv2d": ("Conv", {}),
            "ReLU": ("Relu", {}),
            "Flatten": ("Flatten", {}),
            "MaxPool2d": ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2]}),
        }[type(module).__name__]
        nodes.append(onnx.helper.make_node(kind, inputs, [after], f"n{k}", **attributes))
        value = after
    graph = onnx.helper.make_graph(
        nodes,
        "lenet",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 1, 28, 28])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 10])],
        weights,
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def run(net: str, seed: int, shared: Path, parts: tuple[str, ...]) -> dict[str, Any]:
    """Train, compress, and return what the table shows."""
    import torch

    torch.set_num_threads(1)
    from onnxcompress.methods._base import METHODS
    from onnxcompress.methods.half import HalfWeights
    from onnxcompress.methods.vib import Vib

    data = np.load(shared / "data" / "mnist.npz")
    facts: dict[str, Any] = {"net": net, "seed": seed}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, clock = folder / f"{net}.onnx", _Clock()
        # The validation examples are the compression's own; the reference may learn from all.
        reference(
            net, seed, data["x_train"].astype(np.float32) / 255, data["y_train"].astype(np.int64), source
        )
        facts |= {"reference_error": error(source, data), "reference_seconds": clock.seconds()}
        given = {"path": shared / "data" / "mnist.npz", "scale": 1 / 255, "val": VALIDATION}
        if "vib" in parts:
            clock, target = _Clock(), folder / "vib.onnx"
            done = _compress(source, tuple(Vib(**o) for o in RECIPES[net]), given, seed, target)
            facts |= measured(onnx.load(source), onnx.load(target))
            facts |= _told("", source, target, data, done) | {
                "seconds": clock.seconds(),
                "cpu_seconds": clock.cpu_seconds(),
            }
        if "quantised" in parts:
            clock, target = _Clock(), folder / "quantised.onnx"
            method, options = QUANTISATION[net]
            stages = (*(Vib(**o) for o in LESS[net]), METHODS[method](**options), HalfWeights(biases=True))
            done = _compress(source, stages, given, seed, target)
            facts |= _told("quantised_", source, target, data, done)
            facts |= {
                "quantised_cpu_seconds": clock.cpu_seconds(),
                "quantised_reference_error": facts["reference_error"],
            }
            if "vib" not in parts:  # the row may hold what VIB made of a reference trained elsewhere
                del facts["reference_error"], facts["reference_seconds"]
    return facts


class _Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._began, self._cpu = time.perf_counter(), time.process_time()

    def seconds(self) -> float:
        return time.perf_counter() - self._began

    def cpu_seconds(self) -> float:
        return time.process_time() - self._cpu


def _compress(source: Path, methods: tuple[Any, ...], given: dict[str, Any], seed: int, target: Path) -> Any:
    from onnxcompress import pipeline
    from onnxcompress.recipe import Recipe

    recipe = Recipe(methods, given, seed)
    done = pipeline.compress(
        pipeline.Request(source=source, recipe=recipe, output=target, benchmark=False, fold=False)
    )
    for facts in done.methods:
        # A target that is met before does not train either, and what is measured is another recipe.
        if facts.name == "vib" and facts.training is None:
            raise RuntimeError(f"seed {seed}: the stage to {facts.options['target']} did nothing")
    return done


def _told(prefix: str, source: Path, target: Path, data: Any, done: Any) -> dict[str, Any]:
    points = [p for m in done.methods for p in (m.training.points if m.training else ())]
    return {
        f"{prefix}error": error(target, data),
        f"{prefix}validation_error": 100 * (1 - points[-1].compressed_metric),
        f"{prefix}size_bytes": target.stat().st_size,
        f"{prefix}size_ratio": source.stat().st_size / target.stat().st_size,
    }


def measured(before: onnx.ModelProto, after: onnx.ModelProto) -> dict[str, Any]:
    """Return r_W, r_N in percent, MFLOP, and the widths left."""
    old, new = (shapes(model) for model in (before, after))
    first = len(next(iter(old.values()))) == 2
    widths = [int(s[1]) for s in list(new.values())[:1] if first] + [
        int(s[0]) for s in list(new.values())[:-1]
    ]

    def elements(layers: dict[str, tuple[int, ...]]) -> int:
        maps = {0: 24 * 24, 1: 8 * 8} if not first else {}
        made = sum(s[0] * maps.get(k, 1) for k, s in enumerate(list(layers.values())[:-1]))
        return made + (next(iter(layers.values()))[1] if first else 0)

    def products(layers: dict[str, tuple[int, ...]]) -> int:
        places = {0: 24 * 24, 1: 8 * 8} if not first else {}
        return sum(int(np.prod(s)) * places.get(k, 1) for k, s in enumerate(layers.values()))

    def count(layers: dict[str, tuple[int, ...]]) -> int:
        return sum(int(np.prod(s)) for s in layers.values())

    return {
        "widths": widths,
        "r_w": 100 * count(new) / count(old),
        "r_n": 100 * elements(new) / elements(old),
        "mflop": products(new) / 1e6,
    }


def shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the layers' weights in the order of their layers; ``out in`` for Gemm."""
    arrays = {t.name: tuple(t.dims) for t in model.graph.initializer}
    layers = [n for n in model.graph.node if n.op_type in ("Conv", "Gemm")]
    return {n.input[1]: arrays[n.input[1]] for n in layers}


def error(model: Path, data: Any) -> float:
    """Return the error of a file on the test examples in percent, in onnxruntime."""
    from onnxcompress.engine.runtime import open_session

    images = data["x_test"].reshape(-1, 1, 28, 28).astype(np.float32) / 255
    (scores,) = open_session(model).run({"x": images}).values()
    return float(100 * (scores.argmax(1) != data["y_test"]).mean())


def write(results: list[dict[str, Any]]) -> None:
    """Write the JSON file and the table."""
    results = sorted(results, key=lambda r: (NETS.index(r["net"]), r["seed"]))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "vib_mnist.json").write_text(json.dumps(results, indent=1) + "\n")
    lines = [
        "# VIB on MNIST",
        "",
        "Written by `python benchmarks/vib_mnist.py --shared ../shared`; see there for how it is measured.",
        "",
        "| net | | widths | r_W % | r_N % | MFLOP | test error % | reference % | file | s | CPU s |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for net in NETS:
        for name, row in (("published", PUBLISHED[net]), ("target", TARGETS[net])):
            lines.append(
                f"| {net} | {name} | | {row['r_w']} | {row['r_n']} | {row['mflop'] or ''} | {row['error']} "
                "| | | | |"
            )
        lines += [
            f"| {net} | seed {r['seed']} | {'-'.join(map(str, r['widths']))} | {r['r_w']:.2f} "
            f"| {r['r_n']:.2f} | {r['mflop']:.4f} | {r['error']:.2f} | {r['reference_error']:.2f} "
            f"| {r['size_bytes']} B, ×{r['size_ratio']:.0f} | {r['seconds']:.0f} | {r['cpu_seconds']:.0f} |"
            for r in results
            if r["net"] == net and "widths" in r
        ]
    lines += [
        "",
        "Cut less, then LC quantisation to 2 bits (LeNet-5: 4, 5 in convolutions), biases in 16 bits:",
        "",
        "| net | | file | test error % | reference % | CPU s |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['net']} | seed {r['seed']} | {r['quantised_size_bytes']} B, ×{r['quantised_size_ratio']:.0f} "
        f"| {r['quantised_error']:.2f} | {r['quantised_reference_error']:.2f} "
        f"| {r['quantised_cpu_seconds']:.0f} |"
        for r in results
        if "quantised_size_bytes" in r
    ]
    lines += ["", f"Measured on {platform.processor() or platform.machine()}, one thread a row.", ""]
    (RESULTS / "vib_mnist.md").write_text("\n".join(lines))


def main() -> None:
    """Run the rows asked for and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with data/")
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="rows at a time, one thread each")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["vib"])
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    stored = RESULTS / "vib_mnist.json"
    with ProcessPoolExecutor(arguments.jobs) as pool:
        # The slower net first, so that both cores are busy to the end.
        waiting = [
            pool.submit(run, net, seed, arguments.shared, tuple(arguments.parts))
            for net in sorted(arguments.nets, reverse=True)
            for seed in arguments.seeds
        ]
        for future in as_completed(waiting):
            found = future.result()
            results = json.loads(stored.read_text()) if stored.exists() else []
            same = [r for r in results if (r["net"], r["seed"]) == (found["net"], found["seed"])]
            write([*(r for r in results if r not in same), {**(same[0] if same else {}), **found}])
            print(found, flush=True)


if __name__ == "__main__":
    main()
