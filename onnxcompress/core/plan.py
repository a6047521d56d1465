"""Plan: what a method decided, as data. Surgery and the exporter carry it out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from onnxcompress.core.encoding import Array, Encoding
from onnxcompress.core.quantization import Quantization, QuantizationFacts
from onnxcompress.core.refusal import Refusal
from onnxcompress.core.run import Training
from onnxcompress.core.simplification import Simplification


@dataclass(frozen=True)
class Plan:
    """The decision of one method.

    Attributes:
        weights: weight name -> encoding it is to be stored as.
        values: further tensors that training changed and that stay dense (biases, normalisation), as
            :class:`~onnxcompress.core.encoding.Encoding` of the dense kind.
        keep: group name -> which of its channels stay (bool, ``group.size``); groups not named stay whole.
        constants: site key (:func:`onnxcompress.engine.channels.site_key`) -> the value each position along
            its axis has for every input, 0 where it stays or is not constant: surgery adds what a cut
            constant contributed to the consumer's bias.
        refusals: weights and nodes left alone, with the reason.
        warnings: sentences the user must see.
        training: how the values were found, None where nothing was trained.
        quantization: which nodes compute with 8 bits: the graph is rewritten for them, and ``weights`` says
            how the quantiser stores theirs.
        quantized: why that was decided, for the report.
        simplification: what may be simplified without loss; surgery finds out where.
    """

    weights: Mapping[str, Encoding] = field(default_factory=dict)
    values: Mapping[str, Encoding] = field(default_factory=dict)
    keep: Mapping[str, Array] = field(default_factory=dict)
    constants: Mapping[str, Array] = field(default_factory=dict)
    refusals: tuple[Refusal, ...] = ()
    warnings: tuple[str, ...] = ()
    training: Training | None = None
    quantization: Quantization | None = None
    quantized: QuantizationFacts | None = None
    simplification: Simplification | None = None
