"""What a squared error of a low rank costs in the outputs, measured on data: the scale ranks are chosen by.

Squared errors of different weights are not comparable: a network of ReLUs computes the same if one layer is
multiplied by a number and the next divided by it, but its squared errors do not stay the same. What counts is
what leaving out the directions beyond rank r, a change δ_r of the weight, does to the outputs: to first order
J δ_r, J being their Jacobian, and E ‖J δ_r‖² over examples is estimated with random signs (``signs.py``).
Divided by ‖δ_r‖² it is what a unit of squared error costs there; that ratio varies slowly with r, and is
interpolated between a few ranks. It is measured once: along the path of LC the squared errors change.

First order says little of weights of which most is left out. So it is tried: ranks go by the damage only
where direct compression with them loses no more on training examples than with ranks by the energy kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.core.encoding import Array
from onnxcompress.core.errors import UnsupportedError
from onnxcompress.csteps.lowrank import decompose
from onnxcompress.encodings._layout import Layout, most_useful
from onnxcompress.encodings.lowrank import LearnedRank
from onnxcompress.engine.measures.costs import count_macs

if TYPE_CHECKING:
    from onnxcompress.core.model import Model
    from onnxcompress.core.resources import Resources
    from onnxcompress.core.task import Task
    from onnxcompress.engine.graph.torchgraph import TorchGraph
    from onnxcompress.engine.training.evaluation import Evaluator

DRAWS, AT_ONCE = 256, 2
"""Random signs, and training examples that share them: costs are then known to about a tenth."""
LEAST_DRAWS, MOST_WORK = 32, 3e11
"""Of large networks there are fewer draws: their inferences have about so many multiply-accumulates."""
POINTS = 8
"""Ranks at which the cost is measured, of each matrix."""

_MOST_ENTRIES = 2**28
"""Entries of all changes that are held at once; of large models fewer ranks are looked at."""
_LEAST_POINTS = 2
_CACHE_BYTES = 512 << 20


def judged(
    projection: LearnedRank, names: Sequence[str], model: Model, task: Task | None, resources: Resources
) -> LearnedRank:
    """Return the projection with what a squared error costs at each rank, where that chooses better ranks.

    It stays as it is without real examples; where a weight is out of reach of any gradient, for one measure
    must do for all; where no output has one; and where the changes of a very large model do not fit into
    memory.

    Args:
        projection: of the constraint form, with its options.
        names: the weights, in its order.
        model: the model.
        task: the data; a few training examples are looked at, no labels.
        resources: shapes of inputs, and the device.
    """
    if task is None or task.random or projection.penalised:
        return projection
    entries = sum(model.weights[n].size * len(o.ways) for n, o in zip(names, projection.options, strict=True))
    points = min(POINTS, _MOST_ENTRIES // max(1, entries))
    if points < _LEAST_POINTS:
        return projection
    ground = _ground(model, task, resources)
    if ground is None or not set(names) <= ground.reached:
        return projection
    changes = {
        name: [_changes(model.array(name), way.layout, points) for way in found.ways]
        for name, found in zip(names, projection.options, strict=True)
    }
    squares = _squared_effects(changes, ground)
    if not all(np.isfinite(s).all() for several in squares.values() for s in several):
        return projection
    options = []
    for name, found in zip(names, projection.options, strict=True):
        costs = [_cost(c, s) for c, s in zip(changes[name], squares[name], strict=True)]
        ways = tuple(replace(way, damage=cost) for way, cost in zip(found.ways, costs, strict=True))
        options.append(replace(found, ways=ways))
    informed = replace(projection, options=tuple(options))
    arrays = {name: model.array(name) for name in names}
    return informed if ground.loss(informed, arrays) <= ground.loss(projection, arrays) else projection


@dataclass(frozen=True, eq=False)
class _Ground:
    """The network, and the training examples that are looked at."""

    graph: TorchGraph
    evaluator: Evaluator
    some: Array
    draws: int
    rng: np.random.Generator

    @property
    def reached(self) -> set[str]:
        """The weights that a gradient reaches."""
        return set(self.graph.trainable) - {r.where for r in self.graph.without_gradient()}

    def loss(self, projection: LearnedRank, arrays: Mapping[str, Array]) -> float:
        """Return the loss on these examples where weights are replaced by their projections."""
        encodings = projection.project(list(arrays.values()))
        decoded = {name: e.decode() for name, e in zip(arrays, encodings, strict=True)}
        found = self.evaluator.evaluate(self.some, decoded).loss
        return found if np.isfinite(found) else np.inf


def _ground(model: Model, task: Task, resources: Resources) -> _Ground | None:
    """Return the network ready to be looked at; None where no output can be differentiated."""
    from onnxcompress.engine.graph.torchgraph import TorchGraph  # noqa: PLC0415
    from onnxcompress.engine.training.evaluation import Evaluator  # noqa: PLC0415
    from onnxcompress.engine.training.trainer import torch_device  # noqa: PLC0415

    where = torch_device(resources.device)
    work = count_macs(model, resources.input_shapes).total
    draws = int(np.clip(MOST_WORK / max(AT_ONCE * work, 1), LEAST_DRAWS, DRAWS))
    rng = np.random.default_rng([task.seed, 0x2A])
    some = rng.permutation(task.train)[: draws * AT_ONCE]
    few = replace(task, train=some, validation=some)
    try:
        graph = TorchGraph(model, device=where)
        return _Ground(graph, Evaluator(graph, few, where, cache_bytes=_CACHE_BYTES), some, draws, rng)
    except UnsupportedError:
        return None


@dataclass(frozen=True, eq=False)
class _Changes:
    """What some ranks leave out of a weight: (points, size) float32, the ranks, and how many there are."""

    left_out: Array
    ranks: Array
    count: int


def _changes(weight: Array, layout: Layout, points: int) -> _Changes:
    found = decompose(layout.matrix(weight))
    most = max(1, min(most_useful(weight.shape, layout), len(found.values) - 1))
    ranks = np.unique(np.rint(np.geomspace(1, most, points)).astype(np.int64))
    left_out = np.empty((len(ranks), weight.size), np.float32)
    for row, rank in zip(left_out, ranks, strict=True):
        left, right = found.truncated(int(rank))
        row[:] = layout.weight(found.matrix - left @ right, weight.shape).ravel()
    return _Changes(left_out, ranks, len(found.values) + 1)


def _squared_effects(changes: Mapping[str, Sequence[_Changes]], ground: _Ground) -> dict[str, list[Array]]:
    """Return Σ (rᵀ J δ)² over all draws, of each weight, way and rank that is looked at."""
    import torch  # noqa: PLC0415

    from onnxcompress.engine.training.signs import signed_sum  # noqa: PLC0415

    graph, evaluator, some = ground.graph, ground.evaluator, ground.some
    weights = [graph.weight(name) for name in changes]
    divisors = evaluator.teacher.facts(None).divisors
    left_out = [
        [torch.from_numpy(c.left_out).to(weights[0].device) for c in found] for found in changes.values()
    ]
    squares = [[torch.zeros(len(c), device=c.device) for c in found] for found in left_out]
    for start in range(0, ground.draws * AT_ONCE, AT_ONCE):
        # Few examples are looked at several times, each time with other signs.
        indices = np.take(some, range(start, start + min(AT_ONCE, len(some))), mode="wrap")
        stack = evaluator.batches.inputs(indices, evaluator.batches.rows(indices))
        for part in evaluator.execution.slices(len(indices), min(len(indices), evaluator.execution.at_once)):
            outputs = evaluator.execution.call({n: v[part] for n, v in stack.items()})
            scalar = signed_sum(outputs, divisors, ground.rng)
            gradients = torch.autograd.grad(scalar, weights, allow_unused=True)
            for gradient, found, sums in zip(gradients, left_out, squares, strict=True):
                if gradient is not None:
                    flat = gradient.detach().float().ravel()
                    for change, total in zip(found, sums, strict=True):
                        total.add_((change @ flat).square())
    return {
        name: [total.double().cpu().numpy() for total in sums]
        for name, sums in zip(changes, squares, strict=True)
    }


def _cost(changes: _Changes, squares: Array) -> tuple[float, ...]:
    """Return the cost of a unit of squared error for every rank from 0 on, interpolated over log r."""
    apart = np.square(changes.left_out.astype(np.float64)).sum(axis=1)
    cost = squares / np.where(apart > 0, apart, 1.0)
    if not cost.max() > 0:
        return (0.0,) * changes.count
    logs = np.log(np.maximum(cost, 1e-9 * cost.max()))
    wanted = np.log(np.maximum(np.arange(changes.count), 1))
    return tuple(np.exp(np.interp(wanted, np.log(changes.ranks), logs)).tolist())
