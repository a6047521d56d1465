"""Encoding: compressed parameters Θ of one weight, with their decompression Δ and their ONNX form."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    import onnx_ir as ir

Array = np.ndarray[Any, np.dtype[Any]]


class Site(ABC):
    """The place in a graph where a weight is decoded: an encoding emits its nodes and tensors through it.

    Names are made unique and collected by the exporter; tensors become initializers, or ``Constant``
    nodes where the file's IR version would force them to be graph inputs (IR < 4).
    """

    opset: int
    """Version of the default operator set of the model that is written."""

    @abstractmethod
    def tensor(self, role: str, array: Array) -> ir.Value:
        """Add a constant that belongs to this weight; ``role`` becomes part of its name."""

    @abstractmethod
    def shared(self, name: str, array: Array) -> ir.Value:
        """Add a constant that all weights of the model share (a digits table), once."""

    @abstractmethod
    def node(
        self, op_type: str, inputs: Sequence[ir.Value], attributes: Mapping[str, Any] | None = None
    ) -> ir.Value:
        """Add a node with one output and return that output."""

    @abstractmethod
    def shared_node(
        self, name: str, op_type: str, inputs: Sequence[ir.Value], attributes: Mapping[str, Any] | None = None
    ) -> ir.Value:
        """Add a node that all weights share (the cast of a digits table), once, and return its output."""


@dataclass(frozen=True, eq=False)
class Numbers:
    """Numbers of an encoding that training may change, and how the weight is made of them.

    An element of the weight is ``factors · values[places]``, and 0 where ``places`` is −1. What it is made
    of and with which factor (codes, positions of zeros, levels) stays as it is.

    Attributes:
        values: (n,) in the type they are stored in.
        places: which number an element is made of, int64 in the weight's shape; None: each its own, in order.
        factors: in the weight's shape and type; None: 1.
        codebook: they are the entries of one codebook for a whole weight, which others may share.
    """

    values: Array
    places: Array | None = None
    factors: Array | None = None
    codebook: bool = False


class Encoding(ABC):
    """Θ of one weight. Immutable; ``decode`` is Δ(Θ), exact to the bit in the weight's storage type.

    Attributes:
        kind: name of the encoding in files, reports and `onnxcompress list encodings`.
        shape: shape of the decoded weight.
        dtype: storage type of the decoded weight (float32, float16, float64 or ml_dtypes.bfloat16).
        least_opset: version of the default operator set that its nodes need.
    """

    kind: ClassVar[str]
    least_opset: ClassVar[int] = 1
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @abstractmethod
    def decode(self) -> Array:
        """Return the weight, of ``shape`` and ``dtype``."""

    @abstractmethod
    def stored_bits(self) -> int:
        """Return the bits this encoding's tensors take in the file: codes, codebooks, scales, shapes."""

    @abstractmethod
    def information_bits(self) -> float:
        """Return the information bound in bits: codes at their exact width plus codebooks, no padding."""

    @abstractmethod
    def take(self, axis: int, keep: Array) -> Encoding:
        """Return the encoding of ``decode().take(keep, axis)``; ``keep`` holds sorted indices."""

    @abstractmethod
    def emit(self, site: Site) -> ir.Value:
        """Emit the decoding subgraph of ``decode()`` and return its output value."""

    def emit_rows(self, site: Site, rows: ir.Value) -> ir.Value | None:
        """Emit ``Gather(decode(), rows, axis=0)`` without decoding other rows; None where not possible."""
        return None

    def codebook(self) -> Array | None:
        """Return the codebook for plots (entries, or entries per row), None where there is none."""
        return None

    def choices(self) -> int | None:
        """Return how many different codes there are, as many as entries but for a trellis; None: no codes."""
        entries = self.codebook()
        return None if entries is None else int(entries.shape[-1])

    def numbers(self) -> tuple[Numbers, ...]:
        """Return what training may change while the form stays; the weight is the sum of what they make.

        What each makes is rounded to the weight's type, and so is the sum. Empty where the encoding knows
        none: the weight is then left as it is.
        """
        return ()

    def with_numbers(self, values: Sequence[Array]) -> Encoding:
        """Return the encoding of the same form with other values for each of :meth:`numbers`.

        Rounded to the storage type, ``decode`` gives what the numbers make, to the last bit.
        """
        assert not values, f"{self.kind} has no numbers of its own"
        return self
