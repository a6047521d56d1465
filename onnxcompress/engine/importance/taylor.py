"""Taylor: what the loss, or the outputs, would change to first order if a channel were silenced.

At a site a channel's activation a meets the gradient g of a scalar; silencing it changes the scalar by −Σ a·g
to first order, summed over its positions and sites. The importance is the root mean square of Σ a·g over
examples (Molchanov et al. 2019, equation 8, one gate a channel); there, with labels, the scalar is the loss.

Without labels the loss would be the distance to the model's own outputs, whose gradient is zero. To second
order that distance is ‖J a‖², J the Jacobian of the outputs (each divided by its standard deviation), and
that is what is estimated: E (rᵀ J a)² = ‖J a‖² for random signs r (Hutchinson 1989), and rᵀ J a is Σ a·g with
the gradient of the scalar rᵀ y. So the unlabelled importance is the root mean square change of the outputs.

The loss alone ranks badly where the model has learned the labels: its gradient is next to nothing but for
the few examples that are decided wrongly, and they alone would rank the channels. So with labels the change
of the output they are for counts as much as that of the loss, and that of other outputs, which have to stay
as they are, likewise; in each of these every example weighs alike: its squares are divided by their sum over
all channels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from onnxcompress.core.channels import Group, Site
from onnxcompress.core.encoding import Array
from onnxcompress.core.errors import UsageError
from onnxcompress.engine.channels import site_key, tapped
from onnxcompress.engine.importance._base import IMPORTANCES, Evidence, Importance, Scores, named
from onnxcompress.engine.importance._norms import importance
from onnxcompress.engine.importance._squares import Squares, roots

if TYPE_CHECKING:
    import torch

    from onnxcompress.engine.graph.torchgraph import TorchGraph
    from onnxcompress.engine.training.evaluation import Evaluator

EXAMPLES = 256
"""Training examples that are looked at, drawn with the seed."""
DRAWS = 4
"""Random signs for each example where there are no labels."""
_AT_ONCE = 32
_CACHE_BYTES = 512 << 20

_Kind = Literal["loss", "output", "others"]
"""What changes: the loss of the labels and the output they are for; other outputs, or all without labels."""


@IMPORTANCES.register("taylor")
class Taylor(Importance):
    """Root mean square of activation times gradient at the sites."""

    needs_inputs: ClassVar[bool] = True
    summary: ClassVar[str] = "change of the outputs, and of the loss with labels, to first order; needs data"
    source: ClassVar[str] = (
        "Molchanov et al. (2019), Importance estimation for neural network pruning, equation 8, "
        "and Hutchinson's estimate of the change of the outputs"
    )

    def scores(self, groups: Sequence[Group], evidence: Evidence) -> Scores:
        """Return the estimates; groups that no gradient reaches are judged by ℓ2 norms.

        Raises:
            UsageError: no data was given.
        """
        told = effects(groups, evidence)
        found = dict(told.importances)
        unreached = [g.name for g in groups if g.name not in told.reached]
        for group in groups:
            if group.name in unreached:
                found[group.name] = importance(group, evidence.channels, 2)
        words = f"no gradient reaches the channels of {named(unreached)}; they are judged by ℓ2 norms"
        return Scores(found, (words,) if unreached else ())


@dataclass(frozen=True)
class Effects:
    """What silencing each channel does, to first order, by group.

    Attributes:
        curvatures: root of the curvature of the loss along each channel, as summed squares estimate it;
            without labels of the distance to the original's outputs.
        importances: with labels the loss and the outputs, every example alike: roots of means of squares,
            which sum to 1 for each of the two; else as ``curvatures``.
        reached: names of the groups that a gradient reached.
    """

    curvatures: dict[str, Array]
    importances: dict[str, Array]
    reached: set[str]


def effects(groups: Sequence[Group], evidence: Evidence, looks: int = EXAMPLES * DRAWS) -> Effects:
    """Return the effects of the channels of some groups.

    Args:
        groups: those to judge.
        evidence: the analysed model, and the data.
        looks: examples times draws, at most.

    Raises:
        UsageError: no data was given.
    """
    from onnxcompress.engine.graph.torchgraph import TorchGraph  # noqa: PLC0415
    from onnxcompress.engine.training.evaluation import Evaluator  # noqa: PLC0415
    from onnxcompress.engine.training.trainer import torch_device  # noqa: PLC0415

    task = evidence.task
    if task is None:
        raise UsageError("--importance taylor needs data", fix="give inputs with --data")
    if not groups:
        return Effects({}, {}, set())
    sites = {site_key(s): s for g in groups for s in g.sites}
    model, taps = tapped(evidence.channels, sites.values())
    device = torch_device(evidence.device)
    graph = TorchGraph(model, device=device)
    rng = np.random.default_rng([evidence.seed, 0x7A])
    count = min(EXAMPLES, len(task.train), looks)
    draws = 1 if task.labelled else max(1, min(DRAWS, looks // count))
    some = np.sort(rng.choice(task.train, count, replace=False))
    evaluator = Evaluator(graph, replace(task, train=some, validation=some), device, cache_bytes=_CACHE_BYTES)
    listener = _Listener(graph, taps.values())
    squares: defaultdict[_Kind, Squares] = defaultdict(lambda: Squares(groups))
    seen: set[str] = set()
    for start in range(0, count, _AT_ONCE):
        looked_at = some[start : start + _AT_ONCE]
        for kind, scalar, fed in _scalars(evaluator, looked_at, task.labelled, draws, rng):
            products = listener.products(scalar, sites, taps, fed)
            seen |= products.keys()
            squares[kind].add(products, fed)
    trained = [found.sums for kind, found in squares.items() if kind != "output"]
    curvatures = roots(groups, trained)
    importances = (
        roots(groups, (found.means() for found in squares.values())) if task.labelled else curvatures
    )
    reached = {g.name for g in groups if any(site_key(s) in seen for s in g.sites)}
    return Effects(curvatures, importances, reached)


def _scalars(
    evaluator: Evaluator, indices: Array, labelled: bool, draws: int, rng: np.random.Generator
) -> Iterator[tuple[_Kind, torch.Tensor, int]]:
    """Yield what is to be differentiated: of which kind, a sum over its examples, and the number of those."""
    from onnxcompress.engine.training.signs import signed_sum  # noqa: PLC0415

    execution, facts = evaluator.execution, evaluator.facts
    divisors: dict[_Kind, dict[str, float]] = {"others": facts.divisors}
    if labelled:
        divisors = {"output": {n: d for n, d in facts.divisors.items() if n == facts.labelled}}
        if evaluator.guarded:
            divisors["others"] = facts.others().divisors
    rows = evaluator.batches.rows(indices)
    stack, labels = evaluator.batches.inputs(indices, rows), evaluator.batches.labels(indices, rows)
    teacher = evaluator.teacher.outputs(indices, rows) if evaluator.loss.needs_teacher and labelled else None
    for part in execution.slices(len(indices), min(len(indices), execution.at_once)):
        fed = part.stop - part.start

        def outputs(part: slice = part) -> dict[str, torch.Tensor]:
            return execution.call({n: v[part] for n, v in stack.items()})

        if labelled:
            wanted = None if labels is None else labels[part]
            known = None if teacher is None else {n: v[part] for n, v in teacher.items()}
            yield "loss", evaluator.loss(outputs(), wanted, known) * fed, fed
        for kind, among in divisors.items():
            for _ in range(draws if among else 0):
                yield kind, signed_sum(outputs(), among, rng), fed


class _Listener:
    """Keeps what the taps of a graph saw in the latest run."""

    def __init__(self, graph: TorchGraph, names: Iterable[str]) -> None:
        self._seen: dict[str, torch.Tensor] = {}
        for name in set(names):
            graph.hooks[name] = self._hook(name)

    def _hook(self, name: str) -> Callable[[torch.Tensor], torch.Tensor]:
        def hook(value: torch.Tensor) -> torch.Tensor:
            tensor = value if value.requires_grad else value.detach().requires_grad_()
            self._seen[name] = tensor
            return tensor

        return hook

    def products(
        self, scalar: torch.Tensor, sites: Mapping[str, Site], taps: Mapping[str, str], fed: int
    ) -> dict[str, Array]:
        """Return site key -> Σ a·g, (examples, positions); (1, positions) where they cannot be told apart."""
        import torch  # noqa: PLC0415

        if not scalar.requires_grad:
            return {}
        names = list(self._seen)
        gradients = torch.autograd.grad(scalar, [self._seen[n] for n in names], allow_unused=True)
        by_tap = {
            n: (self._seen[n] * g).detach() for n, g in zip(names, gradients, strict=True) if g is not None
        }
        found: dict[str, Array] = {}
        for key, site in sites.items():
            product = by_tap.get(taps[key])
            if product is not None:
                apart = site.axis > 0 and product.shape[0] == fed
                kept = (0, site.axis) if apart else (site.axis,)
                rest = [d for d in range(product.dim()) if d not in kept]
                total = product.sum(rest) if rest else product
                found[key] = total.reshape(-1, product.shape[site.axis]).double().cpu().numpy()
        self._seen.clear()
        return found
