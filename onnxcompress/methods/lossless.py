"""lossless: what the graph does not need goes, and it computes the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from onnxcompress.methods._base import METHODS, Method, Needs, option

if TYPE_CHECKING:
    from onnxcompress.core.model import Model
    from onnxcompress.core.plan import Plan
    from onnxcompress.core.resources import Resources
    from onnxcompress.core.task import Task


@METHODS.register("lossless")
@dataclass(frozen=True)
class Lossless(Method):
    """Removes what is there twice or for nothing, and lets layers take in what scales and shifts beside them.

    No data is needed. What is found, and the proof that outputs stay equal, is in the report.
    """

    name: ClassVar[str] = "lossless"
    source: ClassVar[str] = (
        "a (W x + b) + s = (a W) x + (a b + s), and equality bit by bit for everything else"
    )
    needs: ClassVar[Needs] = Needs.NOTHING
    folds: ClassVar[bool] = True
    summary: ClassVar[str] = "removes what the graph does not need; it computes the same"
    idle: ClassVar[str] = "the graph holds nothing twice or for nothing, and nothing that a layer can take in"

    bitwise: bool = option(
        False, "Only changes after which outputs are equal bit by bit; normalisations stay where they are."
    )
    freeze_inputs: bool = option(
        False,
        "Let weights that a caller may replace, being inputs of the graph too, be constants; onnxruntime is "
        "often much faster with them.",
    )

    def plan(self, model: Model, task: Task | None, resources: Resources) -> Plan:
        """Decide what may be done; surgery finds out where."""
        from onnxcompress.core.model import constant_of  # noqa: PLC0415
        from onnxcompress.core.plan import Plan  # noqa: PLC0415
        from onnxcompress.core.refusal import Refusal  # noqa: PLC0415
        from onnxcompress.core.simplification import Simplification  # noqa: PLC0415

        inputs = [v.name for v in model.ir.graph.inputs if v.is_initializer() and constant_of(v) is not None]
        decision = Simplification(rounding=not self.bitwise, freeze_inputs=self.freeze_inputs)
        if not inputs or self.freeze_inputs:
            return Plan(simplification=decision)
        why = (
            f"{len(inputs)} weights are inputs of the graph too, which a caller may replace: they are left "
            "alone; --freeze-inputs makes them constants, with which onnxruntime is often much faster"
        )
        return Plan(simplification=decision, refusals=(Refusal("inputs", why),), warnings=(why,))
