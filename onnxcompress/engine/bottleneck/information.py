"""Mutual information between a gated layer and what comes into its gates, estimated along training.

The gates make h̃_j = (μ_j + ε σ_j) h_j of every channel, with noise of their own. What passes is therefore at
most the sum of what passes through each gate, I(h̃; h) ≤ Σ_j I(h̃_j; h_j), the same step by which the paper's
loss bounds it (Dai et al., 2018, eq. 6 to 10). Each term is a pair of numbers, of which Kraskov's
k-nearest-neighbour estimator (Kraskov, Stögbauer, Grassberger, 2004, eq. 8, as in scikit-learn) needs no
more than some hundred examples. Of a feature map one place is looked at, drawn for each example.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from onnxcompress.core.channels import Group
from onnxcompress.core.encoding import Array
from onnxcompress.core.errors import UsageError
from onnxcompress.engine.bottleneck.gates import Gates

EXAMPLES = 500
"""Examples that each estimate is made of."""

MOST_CHANNELS = 48
"""Channels of a group that are looked at; the sum over them is scaled to the group."""

LOOKS = 20
"""How often it is estimated in one training."""

_NEIGHBOURS = 3


def check(examples: int) -> None:
    """Raise UsageError where the library that estimates is missing, or there are too few examples for it."""
    if examples <= _NEIGHBOURS:
        raise UsageError(
            f"--information needs {_NEIGHBOURS + 1} validation examples or more",
            why=f"there are {examples}",
            fix="set more apart with --val, or give more examples",
        )
    try:
        import sklearn  # noqa: F401, PLC0415
    except ImportError:
        raise UsageError(
            "--information needs scikit-learn, which is not installed",
            fix="pip install 'onnxcompress[information]'",
        ) from None


def passing(gates: Gates, groups: Sequence[Group], look: Callable[[], object], seed: int) -> dict[str, float]:
    """Return what the gates let through now, see :func:`information`; ``look`` runs the network."""
    seen: dict[str, list[torch.Tensor]] = {}
    with gates.watched(seen):
        look()
    values = {name: torch.cat(parts).float().numpy() for name, parts in seen.items()}
    held = {group.name: gates[group.name] for group in groups}
    means = {n: gate.mean.detach().cpu().numpy() for n, gate in held.items()}
    deviations = {n: (gate.log_variance.detach() / 2).exp().cpu().numpy() for n, gate in held.items()}
    return information(groups, values, means, deviations, seed)


def information(
    groups: Sequence[Group],
    values: Mapping[str, Array],
    means: Mapping[str, Array],
    deviations: Mapping[str, Array],
    seed: int,
) -> dict[str, float]:
    """Return Σ_j I(h̃_j; h_j) in nats by group name, for one place of the feature map.

    Args:
        groups: those with gates.
        values: group name -> what comes into the gates, examples × channels; groups may be missing.
        means: group name -> μ of each channel.
        deviations: group name -> σ of each channel.
        seed: of the noise and of the choice of channels.
    """
    generator = np.random.default_rng([seed, 0x1F0])
    found = {}
    for group in groups:
        if group.name not in values:
            continue
        chosen = generator.permutation(group.size)[:MOST_CHANNELS]
        noise = generator.standard_normal((len(values[group.name]), len(chosen)))
        total = 0.0
        for k, channel in enumerate(chosen):
            before = values[group.name][:, channel].astype(np.float64)
            factors = means[group.name][channel] + noise[:, k] * deviations[group.name][channel]
            total += pair(before, before * factors)
        found[group.name] = total * group.size / max(len(chosen), 1)
    return found


def pair(one: Array, other: Array) -> float:
    """Return the mutual information of two numbers in nats, from joint samples; 0 where one is constant."""
    from sklearn.feature_selection import mutual_info_regression  # noqa: PLC0415

    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    estimates = mutual_info_regression(
        one[:, None], other, discrete_features=False, n_neighbors=_NEIGHBOURS, random_state=0
    )
    return float(estimates[0])
