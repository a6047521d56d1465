"""Encoded weights in training: what changes are the numbers they are made of, and their form stays.

Each run of the graph makes the weights of the numbers (entries, scales, non-zero weights), so that gradients
reach those. A number is held as if it were a weight of typical size, a scale for example times the root mean
square of its levels (the power of two next to it, so that nothing is rounded): one learning rate then fits
all. Weights that share one codebook (equal entries) go on sharing it, each at its own scale.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from onnxcompress.core.encoding import Array, Encoding, Numbers
from onnxcompress.engine.graph.torchgraph import TorchGraph


@dataclass(frozen=True, eq=False)
class _Made:
    """Part of a weight: the parameter its numbers are held in, and what it takes to make it of them."""

    key: str
    unit: torch.Tensor | None
    places: torch.Tensor | None
    factors: torch.Tensor | None
    stored: torch.dtype | None


class TrainedNumbers:
    """The numbers of encoded weights as parameters of a graph, which from now on makes the weights of them.

    Args:
        graph: the graph, holding the decoded weights, on its device.
        encodings: weight name -> encoding with numbers.
    """

    def __init__(self, graph: TorchGraph, encodings: Mapping[str, Encoding]) -> None:
        self._encodings = dict(encodings)
        self._held = nn.ParameterDict()
        self._made: dict[str, list[_Made]] = {}
        self._units: dict[str, torch.Tensor | None] = {}
        shared: dict[bytes, str] = {}
        for name, encoding in encodings.items():
            weight = graph.weight(name)
            self._made[name] = []
            for numbers in encoding.numbers():
                key = str(len(self._held))
                if numbers.codebook:
                    key = shared.setdefault(_identity(numbers), key)
                self._made[name].append(self._hold(key, numbers, weight))
            graph.hooks[name] = self._hook(name)
        graph.add_module("numbers", self._held)  # so that checkpoints hold them, too

    def parameters(self) -> list[nn.Parameter]:
        """Return what training changes."""
        return list(self._held.values())

    def arrays(self) -> dict[str, Array]:
        """Return the numbers as they are now, for :meth:`set_arrays`."""
        return {key: held.detach().cpu().numpy().copy() for key, held in self._held.items()}

    @torch.no_grad()
    def set_arrays(self, arrays: Mapping[str, Array]) -> None:
        """Set the numbers."""
        for key, array in arrays.items():
            self._held[key].copy_(torch.from_numpy(np.array(array, order="C")))

    @torch.no_grad()
    def encodings(self, keys: Collection[str]) -> dict[str, Encoding]:
        """Return the weights made of these numbers (by their names in :meth:`arrays`), as they are now."""
        found = {}
        for name, encoding in self._encodings.items():
            if not any(made.key in keys for made in self._made[name]):
                continue
            values = [
                self._numbers(made).cpu().numpy().astype(numbers.values.dtype)
                for made, numbers in zip(self._made[name], encoding.numbers(), strict=True)
            ]
            found[name] = encoding.with_numbers(values)
        return found

    def weight(self, name: str) -> torch.Tensor:
        """Return a weight as its numbers make it, with gradient."""
        total: torch.Tensor | None = None
        encoding = self._encodings[name]
        narrow = _narrow(encoding.dtype)
        for made in self._made[name]:
            numbers = self._numbers(made)
            if made.places is not None:
                numbers = _taken(numbers, made.places)
            part = numbers.reshape(encoding.shape)
            if made.factors is not None:
                part = part * made.factors
            part = _rounded(part, narrow)
            total = part if total is None else total + part
        assert total is not None
        return _rounded(total, narrow)

    def _hold(self, key: str, numbers: Numbers, weight: nn.Parameter) -> _Made:
        def tensor(array: Array) -> torch.Tensor:
            return torch.tensor(array.astype(np.float64), dtype=weight.dtype, device=weight.device)

        if key not in self._held:
            # Of several weights with one codebook the first says how it is held.
            unit = None if numbers.factors is None else _typical(numbers)
            held = numbers.values.astype(np.float64) * (1.0 if unit is None else unit)
            self._held[key] = nn.Parameter(tensor(held))
            self._units[key] = None if unit is None else tensor(unit)
        factors = None if numbers.factors is None else tensor(numbers.factors)
        places = None
        if numbers.places is not None:
            # What is made of no number is made of a zero behind the last one.
            flat = np.where(numbers.places < 0, len(numbers.values), numbers.places).reshape(-1)
            places = torch.from_numpy(flat).to(weight.device)
        return _Made(key, self._units[key], places, factors, _narrow(numbers.values.dtype))

    def _hook(self, name: str) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda stale: self.weight(name)

    def _numbers(self, made: _Made) -> torch.Tensor:
        held: torch.Tensor = self._held[made.key]
        return _rounded(held if made.unit is None else held / made.unit, made.stored)


def _identity(numbers: Numbers) -> bytes:
    return str(numbers.values.dtype).encode() + numbers.values.tobytes()


def _typical(numbers: Numbers) -> Array:
    """Return for each number the power of two next to the root mean square of its factors; 1 for zeros."""
    assert numbers.factors is not None
    squares = np.square(numbers.factors.astype(np.float64)).reshape(-1)
    if numbers.places is None:
        found = np.sqrt(squares)
    else:
        places = numbers.places.reshape(-1)
        used, count = places >= 0, len(numbers.values)
        sums = np.bincount(places[used], squares[used], count)
        found = np.sqrt(sums / np.maximum(np.bincount(places[used], minlength=count), 1))
    return np.exp2(np.rint(np.log2(np.where(found > 0, found, 1.0))))


def _taken(numbers: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    zero = numbers.new_zeros(1)
    return torch.cat([numbers, zero]).index_select(0, places)


def _narrow(dtype: np.dtype[np.generic]) -> torch.dtype | None:
    """Return the torch type that values have to be rounded to, None for those that hold single precision."""
    return {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(dtype.name)


def _rounded(values: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    """Round to a storage type; gradients pass as if nothing was rounded."""
    if dtype is None:
        return values
    return values + (values.detach().to(dtype).to(values.dtype) - values.detach())
