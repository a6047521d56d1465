"""half: weights rounded to 16 bits, in half of the bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from onnxcompress.core.errors import UsageError
from onnxcompress.methods._base import METHODS, Method, Needs, option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxcompress.core.encoding import Array, Encoding
    from onnxcompress.core.model import Model, Weight
    from onnxcompress.core.plan import Plan
    from onnxcompress.core.refusal import Refusal
    from onnxcompress.core.resources import Resources
    from onnxcompress.core.task import Task

_NODE_BYTES = 60
"""What the Cast and its names take in the file, about."""

SHORT, SMALL = "has 16 bits already", "would not get smaller"
"""Why a weight is left alone."""

_LOST = 1e-3
"""Share of a weight's numbers that may become zero before the user is told."""


@METHODS.register("half")
@dataclass(frozen=True)
class HalfWeights(Method):
    """Rounds the weights of layers to float16 or bfloat16; they are cast back when the model is loaded.

    Biases and scales are next to nothing of most files, but not of one whose weights were quantised before.

    What is computed stays in the model's own type: the file gets smaller, the model not faster.

    Raises:
        UsageError: an option is out of range.
    """

    name: ClassVar[str] = "half"
    source: ClassVar[str] = "IEEE 754, 4.3.1: rounding to nearest, ties to even"
    needs: ClassVar[Needs] = Needs.NOTHING
    summary: ClassVar[str] = "weights of 16 bits: half the file at the same speed, hardly any error"

    precision: Literal["fp16", "bf16"] = option(
        "fp16",
        "fp16: 11 significant bits, numbers up to 65504; bf16: 8 bits, all numbers (needs operator set 13).",
        choices=("fp16", "bf16"),
    )
    biases: bool = option(
        False, "Round biases, and scales and shifts of normalisation, too, where their bytes get fewer."
    )
    include: tuple[str, ...] = option((), "Compress only weights whose name, or whose node's name, matches.")
    exclude: tuple[str, ...] = option((), "Leave weights uncompressed whose name, or node's name, matches.")

    def __post_init__(self) -> None:
        if self.precision not in ("fp16", "bf16"):
            raise UsageError("--precision must be fp16 or bf16", why=f"found {self.precision!r}")
        for name in ("include", "exclude"):
            if isinstance(getattr(self, name), str):
                object.__setattr__(self, name, (getattr(self, name),))

    def plan(self, model: Model, task: Task | None, resources: Resources) -> Plan:
        """Round the weights; raises UsageError where a glob matches nothing."""
        from onnxcompress.core.plan import Plan  # noqa: PLC0415
        from onnxcompress.core.refusal import Refusal  # noqa: PLC0415
        from onnxcompress.encodings.half import HalfPrecision  # noqa: PLC0415
        from onnxcompress.engine.layers import companions, layers, left_alone, select  # noqa: PLC0415
        from onnxcompress.engine.proto import plain_bytes  # noqa: PLC0415

        found = layers(model)
        selected = set(select(found, self.include, self.exclude, others=model.weights))
        rounding = HalfPrecision(self.precision)
        encodings, refusals, warnings = {}, [], []
        for layer in found:
            name, why = layer.weight, None
            encoding = model.encodings.get(name)
            if layer not in selected:
                why = "excluded by --exclude" if self.exclude else "not named by --include"
            elif encoding is not None and encoding.kind != "dense":
                why = f"is stored as {encoding.kind} already"
            else:
                array = model.array(name)
                why = self._refusal(array, plain_bytes(model.weights[name]))
            if why is not None:
                refusals.append(Refusal(name, why))
                continue
            encodings[name] = rounding.project([array])[0]
            lost = _lost(array, encodings[name].decode())
            if lost > _LOST:
                warnings.append(
                    f"{lost:.1%} of the numbers of '{name}' are too small for {self.precision} and vanish"
                    + ("; --precision bf16 keeps them" if self.precision == "fp16" else "")
                )
        if self.biases:
            rounded, kept = self._vectors(model, companions(model, found))
            encodings |= rounded
            refusals += kept
        refusals += left_alone(model, found)
        return Plan(encodings, refusals=tuple(refusals), warnings=tuple(warnings))

    def _vectors(self, model: Model, names: Sequence[str]) -> tuple[dict[str, Encoding], list[Refusal]]:
        """Round biases and the like; those that would not get smaller, most of them, are not told."""
        from onnxcompress.core.refusal import Refusal  # noqa: PLC0415
        from onnxcompress.encodings.half import HalfPrecision  # noqa: PLC0415
        from onnxcompress.engine.proto import plain_bytes  # noqa: PLC0415

        encodings, refusals = {}, []
        for name in names:
            weight, before, array = model.weights[name], model.encodings.get(name), model.array(name)
            why = self._refusal(array, plain_bytes(weight))
            # What an earlier method of the chain trained along has an encoding: the dense one.
            encoded = before is not None and before.kind != "dense"
            if encoded or why in (SMALL, SHORT) or _is_of_a_grid(weight):
                continue
            if why is None:
                (rounded,) = HalfPrecision(self.precision).project([array])
                if not _lost(array, rounded.decode()):
                    encodings[name] = rounded
                    continue
                why = f"holds numbers too small for {self.precision}"  # a variance is divided by, maybe
            refusals.append(Refusal(name, why))
        return encodings, refusals

    def _refusal(self, array: Array, stored_bytes: int) -> str | None:
        """Return why a weight is left alone, which is stored in so many bytes."""
        import numpy as np  # noqa: PLC0415

        from onnxcompress.encodings.half import LARGEST  # noqa: PLC0415

        if array.dtype.itemsize <= 2:
            return SHORT
        if stored_bytes - 2 * array.size <= _NODE_BYTES:
            return SMALL
        largest = float(np.abs(array).max())
        if not np.isfinite(largest):
            return "holds infinite values"
        if largest > LARGEST[self.precision]:
            other = "; --precision bf16 has all numbers" if self.precision == "fp16" else ""
            limit = f"{LARGEST[self.precision]:.6g}"
            return f"holds {largest:.6g}, the largest number of {self.precision} is {limit}{other}"
        return None


def _lost(array: Array, rounded: Array) -> float:
    """Return the share of numbers that were not zero and are."""
    import numpy as np  # noqa: PLC0415

    return float(np.mean((array != 0) & (rounded == 0)))


def _is_of_a_grid(weight: Weight) -> bool:
    """Whether a vector says where the grid of a quantised value lies: integers are multiplied by it."""
    kinds = ("quant", "qlinear", "integer")
    return any(kind in node.op_type.lower() for node, _ in weight.value.uses() for kind in kinds)
