"""Facts of channel groups and of cuts, as a run tells them: plain data, part of the JSON schema."""

from __future__ import annotations

from dataclasses import dataclass, field

from onnxcompress.core.refusal import Refusal


@dataclass(frozen=True)
class MemberFacts:
    """One axis of one constant tensor that holds channels of a group.

    ``positions`` counts those along the axis that belong to the group. An axis that ``reads`` is summed
    over: the slice reads the channel; any other makes it.
    """

    tensor: str
    axis: int
    positions: int
    reads: bool


@dataclass(frozen=True)
class GroupFacts:
    """One channel group of a model: channels that are alike, each of which may be cut alone.

    ``parameters`` and ``macs`` are what would go if all its channels went: the elements of weights that
    belong to one of them, and the multiply-accumulates of one inference in which one takes part. What two
    groups share counts for both, so the numbers of several groups do not add up. ``frozen`` says why the
    channels cannot be cut, in words that follow "is kept because it"; it is empty for a free group.
    ``sliceable`` ones are frozen only because no layer makes them.
    """

    name: str
    size: int
    members: tuple[MemberFacts, ...]
    parameters: int
    macs: int
    mixed: bool = False
    frozen: tuple[str, ...] = ()
    sliceable: bool = False


@dataclass(frozen=True)
class NodeFacts:
    """One operator of the main graph that data reaches, as the picture of the network needs it.

    ``operator`` is ``"input"`` or ``"output"`` for the model's own. ``reads`` holds the places in
    ``ChannelFacts.nodes`` of the nodes whose results it takes, ``groups`` those in ``ChannelFacts.groups``
    of the groups whose channels lie along an axis of its first result.
    """

    name: str
    operator: str
    reads: tuple[int, ...] = ()
    groups: tuple[int, ...] = ()
    layer: bool = False
    macs: int | None = None


@dataclass(frozen=True)
class ChannelFacts:
    """The channel groups of a model, before any cut.

    ``free_parameters`` and ``free_macs`` are what would go if the channels of all free groups went: more
    than that no cut can save. ``without_rule`` counts, by operator, the nodes that kept what they touch
    because nothing is known of their channels. ``problem`` says why channels could not be traced; then
    everything else is empty.
    """

    groups: tuple[GroupFacts, ...] = ()
    nodes: tuple[NodeFacts, ...] = ()
    free_parameters: int | None = None
    free_macs: int | None = None
    without_rule: dict[str, int] = field(default_factory=dict)
    out_of_reach: tuple[Refusal, ...] = ()
    problem: str | None = None


@dataclass(frozen=True)
class GroupCut:
    """One channel group that was cut: how many of its channels were kept.

    ``mixed`` groups are looked at together by a normalisation: cutting them changes the channels that stay.
    """

    name: str
    kept: int
    of: int
    mixed: bool = False


@dataclass(frozen=True)
class CutProof:
    """Evidence that cutting did what silencing the same channels does, measured before anything is written.

    Where a normalisation looks at channels together, it is shown those that stay in the silenced model too.

    Errors are relative to the largest value of what is compared. ``float64_error`` is the largest over all
    outputs and all places where cut channels were summed over, computed in torch; ``float64_floor`` what
    rounding alone did there in trials. ``single_precision`` names operators that had to run in float32.
    ``ort_error`` is the relative ℓ2 difference of the outputs in onnxruntime. ``mixed_difference`` is how far
    the outputs move because a normalisation no longer sees what was cut (relative ℓ2): a real change, not an
    error. ``silent_outputs`` are outputs that were zero or no numbers on every input, ``drowned_outputs``
    those that rounding alone turns into something else, as it does decisions: both prove nothing.
    """

    inputs: int
    sizes: int
    places: int
    float64_error: float
    float64_floor: float
    ort_error: float
    ort_tolerance: float
    single_precision: tuple[str, ...] = ()
    mixed_difference: float | None = None
    silent_outputs: tuple[str, ...] = ()
    drowned_outputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class CutFacts:
    """What one method cut out of the network, and the proof that only that is gone.

    ``parameters_before`` and the like count the whole model. ``folded`` counts the sites at which constants
    of cut channels went into a bias.
    """

    method: str
    groups: tuple[GroupCut, ...]
    parameters_before: int
    parameters_after: int
    macs_before: int
    macs_after: int
    proof: CutProof
    folded: int = 0
