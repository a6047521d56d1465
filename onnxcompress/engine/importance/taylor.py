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
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from onnxcompress.core.channels import Group, Site
from onnxcompress.core.encoding import Array
from onnxcompress.core.errors import UsageError
from onnxcompress.engine.channels import site_key, tapped
from onnxcompress.engine.importance._base import IMPORTANCES, Evidence, Importance, Scores, by_channel, named
from onnxcompress.engine.importance._norms import importance

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

_Kind = Literal["loss", "outputs", "others"]
"""What changes: with labels "outputs" is the one that they are for."""


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
        found, reached = effects(groups, evidence)
        unreached = [g.name for g in groups if g.name not in reached]
        for group in groups:
            if group.name in unreached:
                found[group.name] = importance(group, evidence.channels, 2)
        told = f"no gradient reaches the channels of {named(unreached)}; they are judged by ℓ2 norms"
        return Scores(found, (told,) if unreached else ())


def effects(
    groups: Sequence[Group], evidence: Evidence, looks: int = EXAMPLES * DRAWS
) -> tuple[dict[str, Array], set[str]]:
    """Return the root of the summed squares for each group, and the groups that a gradient reached.

    With labels the squares are means: of an example those of the loss sum to 1 over all groups' channels,
    those of its output and of other outputs likewise, or to 0 where nothing has a gradient.

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
    sums: defaultdict[_Kind, _Squares] = defaultdict(lambda: _Squares(groups))
    reached: set[str] = set()
    for start in range(0, count, _AT_ONCE):
        for kind, scalar, fed in _scalars(
            evaluator, some[start : start + _AT_ONCE], task.labelled, draws, rng
        ):
            products = listener.products(scalar, sites, taps, fed)
            reached |= products.keys()
            sums[kind].add(products, fed, alike=task.labelled)
    parts = [s.means() if task.labelled else s.of for s in sums.values()]
    roots = {g.name: np.sqrt(sum((part[g.name] for part in parts), np.zeros(g.size))) for g in groups}
    return roots, {g.name for g in groups if any(site_key(s) in reached for s in g.sites)}


class _Squares:
    """Squares of the changes along each channel, summed over examples."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self._groups = groups
        self._count = 0
        self.of = {g.name: np.zeros(g.size) for g in groups}

    def add(self, products: Mapping[str, Array], fed: int, *, alike: bool) -> None:
        """Add examples.

        Args:
            products: site key -> Σ a·g, (examples, positions) or (1, positions).
            fed: examples.
            alike: whether every example is to weigh alike.
        """
        self._count += fed
        found: dict[str, Array] = {}
        for group in self._groups:
            parts = [
                by_channel(products[site_key(s)], s.channel_of, group.size)
                for s in group.sites
                if site_key(s) in products
            ]
            if parts:
                found[group.name] = np.square(sum(parts))
        if alike and found:
            found = _alike(found, fed)
        for name, squares in found.items():
            self.of[name] += squares.sum(axis=0)

    def means(self) -> dict[str, Array]:
        """Return the means over examples."""
        return {name: squares / max(1, self._count) for name, squares in self.of.items()}


def _alike(squares: Mapping[str, Array], fed: int) -> dict[str, Array]:
    """Return squares, (examples, channels) each, that sum to 1 over all channels for every example.

    Where some group cannot tell the examples apart they sum to their number instead, all together.
    """
    apart = {len(s) for s in squares.values()} == {fed}
    rows = squares if apart else {name: s.sum(axis=0, keepdims=True) for name, s in squares.items()}
    wholes = sum(s.sum(axis=1, keepdims=True) for s in rows.values())
    weights = np.divide(1 if apart else fed, wholes, out=np.zeros_like(wholes), where=wholes > 0)
    return {name: s * weights for name, s in rows.items()}


def _scalars(
    evaluator: Evaluator, indices: Array, labelled: bool, draws: int, rng: np.random.Generator
) -> Iterator[tuple[_Kind, torch.Tensor, int]]:
    """Yield what is to be differentiated: of which kind, a sum over its examples, and the number of those."""
    from onnxcompress.engine.training.signs import signed_sum  # noqa: PLC0415

    execution, facts = evaluator.execution, evaluator.facts
    divisors: dict[_Kind, dict[str, float]] = {"outputs": facts.divisors}
    if labelled:
        divisors = {"outputs": {n: d for n, d in facts.divisors.items() if n == facts.labelled}}
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
