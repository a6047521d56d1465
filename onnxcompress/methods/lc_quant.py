"""lc-quant: weights from small learned codebooks, trained by the LC algorithm where there is data."""

# ruff: noqa: RUF009  `option` returns a dataclass field

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from onnxcompress.core.errors import UsageError
from onnxcompress.methods._base import METHODS, Needs, option
from onnxcompress.methods._lc import Chosen, LcMethod, untrained_advice

if TYPE_CHECKING:
    from onnxcompress.core.encoding import Array, Encoding
    from onnxcompress.core.refusal import Refusal
    from onnxcompress.encodings._base import Projection
    from onnxcompress.engine.layers import Layer
    from onnxcompress.engine.lc.loop import Part

Codebook = Literal["adaptive", "trellis", "binary", "ternary", "pow2", "int"]
Granularity = Literal["tensor", "channel", "group"]

_MORE_NODES = 250
"""What the nodes that decode codes take in the file besides those of a sparse weight."""

DEFAULT_BITS = 4
"""Bits where neither bits nor entries are given: what direct compression usually survives."""


@METHODS.register("lc-quant")
@dataclass(frozen=True)
class LcQuant(LcMethod):
    """Codebook quantisation. With data: learning-compression; without: the closest codebook.

    Of weights that are stored sparse the zeros stay, and the codebook is of the others.

    See the options' own texts; None is "found automatically".

    Raises:
        UsageError: options that contradict each other or are out of range.
    """

    name: ClassVar[str] = "lc-quant"
    source: ClassVar[str] = (
        "Carreira-Perpiñán (2017), Model compression as constrained optimization, part I, eqs. 7–10 and 17; "
        "Carreira-Perpiñán and Idelbayev (2017), part II: quantization"
    )
    needs: ClassVar[Needs] = Needs.NOTHING
    summary: ClassVar[str] = "weights from learned codebooks of 1 to 8 bits, stored bit-packed"

    bits: int | None = option(
        None, f"Bits a weight, 1 to 8: codebooks of 2^bits entries. [default: {DEFAULT_BITS}]"
    )
    entries: int | None = option(None, "Entries of a codebook, 2 to 256, instead of --bits.")
    codebook: Codebook = option(
        "adaptive",
        "Kind of codebook: learned entries, one for each code (adaptive) or one for each sequence of codes "
        "(trellis: nearer to the weights at the same bits, 1 to 4; takes longer), or fixed ones times a "
        "learned scale.",
        choices=("adaptive", "trellis", "binary", "ternary", "pow2", "int"),
    )
    learn_scale: bool = option(True, "Learn the scale of fixed codebooks; otherwise it is 1.")
    pin_zero: bool = option(False, "Keep one entry of an adaptive codebook at exactly 0.")
    granularity: Granularity = option(
        "tensor",
        "One codebook for each weight tensor, output channel, or group of weights in a channel.",
        choices=("tensor", "channel", "group"),
    )
    group_size: int | None = option(None, "Weights in a group; implies --granularity group.")
    joint: bool = option(
        False, "One codebook for all weights together; of a trellis each weight has a scale of its own."
    )

    def __post_init__(self) -> None:
        self._check_codebook()
        self._check_granularity()
        super().__post_init__()

    def _check_codebook(self) -> None:
        if self.bits is not None and self.entries is not None:
            raise UsageError("--bits and --entries exclude each other", fix="give one of them")
        if self.bits is not None and not 1 <= self.bits <= 8:
            raise UsageError("--bits must be 1 to 8", why=f"found {self.bits}")
        if self.entries is not None and not 2 <= self.entries <= 256:
            raise UsageError("--entries must be 2 to 256", why=f"found {self.entries}")
        fixed = {"binary": (1, 2), "ternary": (2, 3)}.get(self.codebook)
        if fixed is not None and (self.bits not in (None, fixed[0]) or self.entries not in (None, fixed[1])):
            raise UsageError(
                f"a {self.codebook} codebook has {fixed[1]} entries",
                fix="leave --bits and --entries out, or choose another --codebook",
            )
        if self.codebook == "pow2" and self.size < 3:
            raise UsageError("a pow2 codebook needs at least 3 entries", why=f"found {self.size}")
        if self.pin_zero and self.codebook != "adaptive":
            raise UsageError("--pin-zero is for adaptive codebooks", why=f"the codebook is {self.codebook}")
        if not self.learn_scale and self.codebook in ("adaptive", "trellis"):
            raise UsageError(
                "--no-learn-scale is for fixed codebooks", why=f"the entries are learned ({self.codebook})"
            )
        if self.codebook == "trellis":
            self._check_trellis()

    def _check_trellis(self) -> None:
        if self.entries is not None:
            raise UsageError("--codebook trellis takes --bits, not --entries")
        if self.bits is not None and self.bits > 4:
            raise UsageError("--codebook trellis has codes of 1 to 4 bits", why=f"found --bits {self.bits}")
        if self.granularity != "tensor" or self.group_size is not None:
            raise UsageError("--codebook trellis has one codebook for a weight tensor, none for its parts")

    def _check_granularity(self) -> None:
        if self.granularity == "group" and self.group_size is None:
            raise UsageError("--granularity group needs --group-size")
        if self.group_size is not None:
            if self.group_size < 1:
                raise UsageError("--group-size must be positive", why=f"found {self.group_size}")
            if self.granularity == "channel":
                raise UsageError("--group-size contradicts --granularity channel")
            object.__setattr__(self, "granularity", "group")
        if self.joint and self.granularity != "tensor":
            raise UsageError("--joint means one codebook for all weights", why="and not one for each part")
        if not self.learn_scale and self.granularity != "tensor":
            raise UsageError("--no-learn-scale leaves nothing to choose for each channel or group")

    @property
    def size(self) -> int:
        """Number of entries of one codebook."""
        if self.codebook in ("binary", "ternary"):
            return 2 if self.codebook == "binary" else 3
        return self.entries if self.entries is not None else 2 ** (self.bits or DEFAULT_BITS)

    def _kept(self, encoding: Encoding) -> str | None:
        """Return why a weight that is encoded already stays so; None where it is to be encoded anew."""
        choices = encoding.choices()
        if encoding.kind == "dense" or choices is None or choices > self.size:
            return None
        return (
            f"is stored as {encoding.kind} of {choices} codes already, no more than the {self.size} asked for"
        )

    def _parts(self, chosen: Chosen) -> tuple[list[Part], list[Refusal]]:
        from onnxcompress.encodings.trellis import TrellisCodebook  # noqa: PLC0415
        from onnxcompress.engine.lc.loop import Part  # noqa: PLC0415

        sparse, refusals = self._sparse_parts(chosen)
        refused = {refusal.where for refusal in refusals} | {n for part in sparse for n in part.weights}
        layers = [layer for layer in chosen.layers if layer.weight not in refused]
        trellis = TrellisCodebook(self.bits or DEFAULT_BITS) if self._is_trellis(chosen) else None
        if self.joint:
            groups = _by_type(chosen, [layer.weight for layer in layers])
            return [*sparse, *(Part(g, trellis or self._projection(None)) for g in groups)], refusals
        parts = (Part((layer.weight,), trellis or self._projection(layer)) for layer in layers)
        return [*sparse, *parts], refusals

    def _is_trellis(self, chosen: Chosen) -> bool:
        """Whether a trellis is wanted, and the model can be raised to an operator set that decodes it."""
        from onnxcompress.encodings.trellis import Trellis  # noqa: PLC0415
        from onnxcompress.engine.opset import reaches  # noqa: PLC0415

        wanted = self.codebook == "trellis"
        return wanted and reaches(chosen.model, Trellis.least_opset, chosen.resources.input_shapes)

    def _sparse_parts(self, chosen: Chosen) -> tuple[list[Part], list[Refusal]]:
        """Return the parts of weights that are stored sparse: their zeros stay, the others get a codebook."""
        from onnxcompress.core.refusal import Refusal  # noqa: PLC0415
        from onnxcompress.encodings.sparse_codebook import OnNonzeros, SparseCodebook  # noqa: PLC0415
        from onnxcompress.engine.lc.loop import Part  # noqa: PLC0415
        from onnxcompress.engine.opset import reaches  # noqa: PLC0415

        stays, refusals, non_zeros = {}, [], _non_zeros(chosen)
        if not non_zeros:
            return [], []
        # Below that operator set no sparse form can be decoded: zero becomes an entry.
        apart = reaches(chosen.model, SparseCodebook.least_opset, chosen.resources.input_shapes)
        codebook = self._projection(None, most=256 if apart else 255)
        for name, stay in non_zeros.items():
            direct = OnNonzeros(codebook, (stay,), apart).project([chosen.arrays[name]])[0]
            now = chosen.model.encodings[name].stored_bits() // 8
            before = now if apart else int(chosen.arrays[name].nbytes)
            after = -(-direct.stored_bits() // 8) + (_MORE_NODES if apart else self.node_bytes)
            if after < before:
                stays[name] = stay
            else:
                why = f"would not get smaller: {before} bytes now, about {after} with a codebook"
                refusals.append(Refusal(name, why))
        groups = _by_type(chosen, list(stays)) if self.joint else [(name,) for name in stays]
        return [Part(g, OnNonzeros(codebook, tuple(stays[n] for n in g), apart)) for g in groups], refusals

    def _projection(self, layer: Layer | None, most: int = 256) -> Projection:
        """Return Π for one weight, or for several jointly; ``most`` entries of a learned codebook.

        Of a trellis: that of the weights that get none, a plain codebook of as many entries as codes.
        """
        from onnxcompress.encodings.codebook import AdaptiveCodebook  # noqa: PLC0415
        from onnxcompress.encodings.scaled import Binary, IntGrid, PowersOfTwo, Ternary  # noqa: PLC0415

        axis = layer.out_axis if layer is not None else None  # of no layer: one codebook for all
        where: dict[str, Any] = {"granularity": "tensor"}
        if axis is not None and self.granularity != "tensor":
            where = {"granularity": self.granularity, "axis": axis, "group_size": self.group_size}
        if self.codebook in ("adaptive", "trellis"):
            return AdaptiveCodebook(min(self.size, most), pin_zero=self.pin_zero, **where)
        if self.codebook == "binary":
            return Binary(scaled=self.learn_scale, **where)
        if self.codebook == "ternary":
            return Ternary(scaled=self.learn_scale, **where)
        kind = PowersOfTwo if self.codebook == "pow2" else IntGrid
        return kind(entries=self.size, scaled=self.learn_scale, **where)

    def _warnings(self, chosen: Chosen, encodings: Mapping[str, Encoding]) -> list[str]:
        told = []
        sparse = _non_zeros(chosen)
        unknown = [la.weight for la in chosen.layers if la.out_axis is None and la.weight not in sparse]
        if self.granularity != "tensor" and unknown:
            names = ", ".join(f"'{name}'" for name in unknown[:3])
            told.append(f"the output channels of {names} cannot be told; they have one codebook each")
        if self.granularity != "tensor" and sparse:
            told.append(
                f"{len(sparse)} sparse weights have one codebook each: channels have few weights left"
            )
        if self.codebook == "trellis" and sparse:
            told.append(f"{len(sparse)} sparse weights have a plain codebook: a trellis is for whole ones")
        if self.codebook == "trellis" and not self._is_trellis(chosen):
            told.append(
                "plain codebooks: a trellis needs operator set 10, to which the model cannot be raised"
            )
        if self.joint and sparse and len(sparse) < len(chosen.layers):
            told.append("sparse and other weights have a joint codebook each")
        return told

    def _untrained_warnings(self, chosen: Chosen, encodings: Mapping[str, Encoding]) -> list[str]:
        advice, what = untrained_advice(chosen.task), f"codebooks of {self.size} entries"
        if any(encoding.kind == "trellis" for encoding in encodings.values()):
            bits = self.bits or DEFAULT_BITS
            what = f"trellises of {bits} bit{'' if bits == 1 else 's'} a weight"
        if self.size <= 8:
            return [f"{what} without training usually make a model unusable; {advice}"]
        if self.size <= 16:
            return [f"{what} without training are marginal; {advice}"]
        return []


def _non_zeros(chosen: Chosen) -> dict[str, Array]:
    """Return where the weights that are stored sparse are not zero, those of zeros alone left out."""
    from onnxcompress.encodings.sparse import Sparse  # noqa: PLC0415
    from onnxcompress.encodings.sparse_codebook import SparseCodebook  # noqa: PLC0415

    found = {}
    for name, array in chosen.arrays.items():
        encoding = chosen.model.encodings.get(name)
        if isinstance(encoding, (Sparse, SparseCodebook)) and array.any():
            found[name] = encoding.mask()
    return found


def _by_type(chosen: Chosen, names: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the weights in groups of one type: one codebook has one type."""
    types = dict.fromkeys(chosen.arrays[name].dtype for name in names)
    return [tuple(n for n in names if chosen.arrays[n].dtype == t) for t in types]
