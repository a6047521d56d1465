"""Low rank on the CIFAR-10 subset: ranks learned for a share of the work, against the best uniform rank.

Usage: ``python benchmarks/lc_lowrank.py --shared ../shared [--share 0.25] [--modes lc dc] [--steps 10]``

A network of five convolutions and two dense layers (13.6 million multiply-accumulates) is trained here on
12,000 pictures. Then, each with the same path of LC and at no more than the share of its work:

* ranks learned: ``--rank auto --target macs=SHARE``;
* for both schemes of convolutions the largest rank that is the same in every layer;
* and the same without training (direct compression).

A tenth of the training pictures chooses the state that is kept. Accuracy is measured once, on the 4,000 test
pictures, in onnxruntime on the file that was written; so is latency. Results: ``results/lc_lowrank.md``, of
other shares than a quarter ``results/lc_lowrank_SHARE.md``.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

RESULTS = Path(__file__).parent / "results"
EPOCHS, STEPS, LC_EPOCHS = 14, 10, 1.0
SHARE = 0.25


@dataclass(frozen=True)
class Row:
    """One compressed network: what it is, and what was measured of it."""

    what: str
    ranks: str
    macs: int
    parameters: int
    accuracy: float
    latency: float
    cpu_s: float


def train(shared: Path, path: Path, seed: int) -> None:
    """Train the network and write it, with pictures as N×3×32×32 in 0…1."""
    import numpy as np
    import torch
    from torch import nn
    from torch.nn import functional as F

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    data = np.load(shared / "data" / "cifar10_subset.npz")
    pictures = torch.from_numpy(data["x_train"]).permute(0, 3, 1, 2).float() / 255
    labels = torch.from_numpy(data["y_train"])
    network = nn.Sequential(
        nn.Conv2d(3, 32, 5, stride=2, padding=2), nn.ReLU(),
        nn.Conv2d(32, 48, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(48, 96, 3, padding=1), nn.ReLU(),
        nn.Conv2d(96, 96, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(96, 96, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Dropout(0.3), nn.Linear(1536, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=1e-2)
    batch, count = 100, len(pictures)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=EPOCHS * count // batch)
    for _ in range(EPOCHS):
        for some in torch.randperm(count).split(batch):
            x = F.pad(pictures[some], (3, 3, 3, 3), mode="reflect")
            top, left = (int(i) for i in torch.randint(0, 7, (2,)))
            x = x[:, :, top : top + 32, left : left + 32]
            x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)
            optimizer.zero_grad()
            F.cross_entropy(network(x - 0.5), labels[some]).backward()
            optimizer.step()
            schedule.step()
    save(network.eval(), path)


def save(network: Any, path: Path) -> None:
    """Write the network as ONNX, by hand: the picture minus a half, then its layers."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    from torch import nn

    nodes = [helper.make_node("Sub", ["picture", "half"], ["v0"], "centre")]
    tensors = [numpy_helper.from_array(np.float32(0.5), "half")]
    made = {"Conv2d": 0, "Linear": 0}
    for layer in network:
        kind, before, after = type(layer).__name__, f"v{len(nodes) - 1}", f"v{len(nodes)}"
        name = kind.lower()
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            made[kind] += 1
            name = f"{'conv' if isinstance(layer, nn.Conv2d) else 'fc'}{made[kind]}"
            for part in ("weight", "bias"):
                array = getattr(layer, part).detach().numpy()
                tensors.append(numpy_helper.from_array(array, f"{name}.{part}"))
        inputs = [before, f"{name}.weight", f"{name}.bias"]
        if isinstance(layer, nn.Conv2d):
            pads = [layer.padding[0]] * 4
            nodes.append(
                helper.make_node("Conv", inputs, [after], name, pads=pads, strides=list(layer.stride))
            )
        elif isinstance(layer, nn.Linear):
            nodes.append(helper.make_node("Gemm", inputs, [after], name, transB=1))
        elif isinstance(layer, nn.MaxPool2d):
            nodes.append(
                helper.make_node("MaxPool", [before], [after], "", kernel_shape=[2, 2], strides=[2, 2])
            )
        elif not isinstance(layer, nn.Dropout):
            nodes.append(helper.make_node({"ReLU": "Relu"}.get(kind, kind), [before], [after]))
    graph = helper.make_graph(
        nodes,
        "cifar",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, ("N", 3, 32, 32))],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, ("N", 10))],
        tensors,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def uniform_rank(path: Path, scheme: str, most: float) -> int:
    """Return the largest rank, the same for every layer, whose work is at most this many MACs."""
    from onnxcompress.core.model import Model
    from onnxcompress.encodings._layout import most_useful
    from onnxcompress.encodings.lowrank import FixedRank
    from onnxcompress.engine.factors import ways
    from onnxcompress.engine.layers import layers
    from onnxcompress.engine.measures.costs import count_macs
    from onnxcompress.importer import load
    from onnxcompress.surgery.factoring import factor

    model: Model = load(path)
    best = 0
    for rank in range(1, 97):
        encodings = {}
        for layer in layers(model):
            found = ways(model.weights[layer.weight], scheme)  # type: ignore[arg-type]
            assert not isinstance(found, str)
            if rank <= most_useful(layer.shape, found.layouts[0]):
                array = model.array(layer.weight)
                encodings[layer.weight] = FixedRank(rank, layouts=found.layouts).project([array])[0]
        factored = factor(model.with_encodings(encodings, "uniform")).model
        if count_macs(factored, {"picture": (1, 3, 32, 32)}).total <= most:
            best = rank
    return best


def compress(path: Path, shared: Path, what: str, seed: int, mode: str, *, steps: int, **options: Any) -> Row:
    """Compress, and measure once; ``steps`` is the number of L steps of one epoch each."""
    import onnxcompress
    from onnxcompress.core.run import Run

    began = time.process_time()
    training = {} if mode == "dc" else {"steps": steps, "epochs": LC_EPOCHS}
    with tempfile.TemporaryDirectory() as folder:
        found = onnxcompress.compress(
            path,
            method="lc-lowrank",
            output=Path(folder) / "compressed.onnx",
            data=shared / "data" / "cifar10_subset.npz",
            data_options={"scale": 1 / 255, "val": 0.1},
            seed=seed,
            benchmark=True,
            mode=mode,
            **training,
            **options,
        )
    run: Run = found.run
    assert run.accuracy is not None
    assert run.benchmark is not None
    ranks = {w.name.removesuffix(".weight"): w.rank for w in run.weights if w.rank is not None}
    return Row(
        f"{what}, {'direct' if mode == 'dc' else 'LC'}",
        ", ".join(f"{name} {rank}" for name, rank in ranks.items()),
        run.models[1].macs or 0,
        run.models[1].parameters,
        100 * run.accuracy.after,
        run.benchmark.ratios[0].ratio,
        time.process_time() - began,
    )


def write(rows: list[Row], reference: Row, arguments: argparse.Namespace) -> None:
    lines = [
        "# Low rank on the CIFAR-10 subset",
        "",
        f"Learned ranks and uniform ones at no more than {arguments.share:g} of the multiply-accumulates. "
        f"Written by `python benchmarks/lc_lowrank.py --shared ../shared --share {arguments.share:g}` (seed "
        f"{arguments.seed}); see there for how it is measured. Accuracy is that of the 4,000 test pictures, "
        "latency relative to the original in onnxruntime, one thread. "
        f"LC: {arguments.steps} L steps of one epoch.",
        "",
        "| network | ranks | MACs | parameters | test accuracy % | latency | CPU s |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in [reference, *rows]:
        lines.append(
            f"| {r.what} | {r.ranks or '—'} | {r.macs / 1e6:.2f} M | {r.parameters:,} | {r.accuracy:.2f} "
            f"| {r.latency:.2f} × | {r.cpu_s:.0f} |"
        )
    RESULTS.mkdir(exist_ok=True)
    name = "lc_lowrank" if arguments.share == SHARE else f"lc_lowrank_{arguments.share:g}"
    (RESULTS / f"{name}.md").write_text("\n".join([*lines, ""]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with data/")
    parser.add_argument("--share", type=float, default=SHARE, help="of the multiply-accumulates that stays")
    parser.add_argument(
        "--modes", nargs="+", choices=("lc", "dc"), default=["lc", "dc"], help="in this order"
    )
    parser.add_argument("--steps", type=int, default=STEPS, help="L steps of every path, of one epoch each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", type=Path, help="where the trained network is kept, to use it again")
    arguments = parser.parse_args()
    seed, shared = arguments.seed, arguments.shared
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.model or Path(folder) / "cifar.onnx"
        began = time.process_time()
        if not path.exists():
            train(shared, path, seed)
        reference = measure(path, shared, time.process_time() - began)
        print(f"trained: {reference.accuracy:.2f} % in {reference.cpu_s:.0f} CPU s", flush=True)
        settings: list[tuple[str, dict[str, Any]]] = [
            ("learned ranks", {"target": f"macs={arguments.share}", "round_to": 1})
        ]
        for scheme in ("2", "1"):
            rank = uniform_rank(path, scheme, arguments.share * reference.macs)
            settings.append((f"rank {rank} everywhere, scheme {scheme}", {"rank": rank, "scheme": scheme}))
        rows = []
        for mode in arguments.modes:
            for what, options in settings:
                rows.append(compress(path, shared, what, seed, mode, steps=arguments.steps, **options))
                print(rows[-1], flush=True)
                write(rows, reference, arguments)


def measure(path: Path, shared: Path, cpu_s: float) -> Row:
    """Return what is known of the network as it was trained."""
    import numpy as np

    from onnxcompress.engine.measures.facts import model_facts
    from onnxcompress.engine.runtime import open_session
    from onnxcompress.importer import load

    data = np.load(shared / "data" / "cifar10_subset.npz")
    pictures = data["x_test"].transpose(0, 3, 1, 2).astype(np.float32) / 255
    (scores,) = open_session(path).run({"picture": pictures}).values()
    facts = model_facts(path, load(path), {"picture": (1, 3, 32, 32)})
    accuracy = float(100 * (scores.argmax(1) == data["y_test"]).mean())
    return Row("original", "", facts.macs or 0, facts.parameters, accuracy, 1.0, cpu_s)


if __name__ == "__main__":
    main()
