"""half: weights rounded to 16 bits, in half of the bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from onnxcompress.core.errors import UsageError
from onnxcompress.methods._base import METHODS, Method, Needs, option

if TYPE_CHECKING:
    from onnxcompress.core.encoding import Array
    from onnxcompress.core.model import Model
    from onnxcompress.core.plan import Plan
    from onnxcompress.core.resources import Resources
    from onnxcompress.core.task import Task

_NODE_BYTES = 60
"""What the Cast and its names take in the file, about."""

_LOST = 1e-3
"""Share of a weight's numbers that may become zero before the user is told."""


@METHODS.register("half")
@dataclass(frozen=True)
class HalfWeights(Method):
    """Rounds the weights of layers to float16 or bfloat16; they are cast back when the model is loaded.

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
        from onnxcompress.engine.layers import layers, left_alone, select  # noqa: PLC0415
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
        refusals += left_alone(model, found)
        return Plan(encodings, refusals=tuple(refusals), warnings=tuple(warnings))

    def _refusal(self, array: Array, stored_bytes: int) -> str | None:
        """Return why a weight is left alone, which is stored in so many bytes."""
        import numpy as np  # noqa: PLC0415

        from onnxcompress.encodings.half import LARGEST  # noqa: PLC0415

        if array.dtype.itemsize <= 2:
            return "has 16 bits already"
        if stored_bytes - 2 * array.size <= _NODE_BYTES:
            return "would not get smaller"
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
