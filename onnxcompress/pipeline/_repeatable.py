"""The first thing asked of a model: does it compute the same each time it runs?"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxcompress.core.errors import UnsupportedError, VerificationError
from onnxcompress.engine import feeds, runtime
from onnxcompress.engine.measures.differences import Difference
from onnxcompress.engine.randomness import may_draw
from onnxcompress.pipeline._original import Original


def check_repeatable(original: Original, seed: int) -> None:
    """Raise UnsupportedError where two runs on the same inputs give different outputs.

    Nothing can be said of what compression does to such a model, and nothing could be proven of its result.
    Only models with operators that may draw random numbers are run for it; unoptimised, because optimisation
    takes a Dropout out even where it is in training mode: the file then computes one thing or the other.
    """
    drawing = [node for node in original.model.ir.graph.all_nodes() if may_draw(node)]
    if not drawing:
        return
    session = runtime.open_session(original.file, optimization="none")
    inputs = feeds.random_feeds(
        original.session.inputs, seed=seed, shapes=original.shapes, examples=1, model=original.model
    )
    for feed in inputs:
        first, second = session.run(feed), session.run(feed)
        for name, value in first.items():
            difference = Difference(name, same_types=True)
            try:
                difference.add(value, second[name])
                alike = difference.result().equal
            except VerificationError:  # even of another shape
                alike = False
            if not alike:
                raise _unrepeatable(original.model.source.path, name, drawing)


def _unrepeatable(path: str | None, output: str, drawing: Sequence[ir.Node]) -> UnsupportedError:
    told = [f"'{node.name or node.outputs[0].name}' ({node.op_type})" for node in drawing[:3]]
    more = f" and {len(drawing) - 3} more" if len(drawing) > 3 else ""
    return UnsupportedError(
        "the model gives other outputs each time it runs on the same inputs: nothing could be proven of a "
        "compressed one",
        where=path,
        why=f"output '{output}' hangs on what {', '.join(told)}{more} draws",
        fix="export it in evaluation mode (Dropout), or with the random numbers as an input",
    )
