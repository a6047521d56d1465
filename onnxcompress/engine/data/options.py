"""Options that say how to read data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from onnxcompress.core.errors import UsageError

_CHOICES = {"layout": ("auto", "nchw", "nhwc"), "color": ("rgb", "bgr", "gray")}


@dataclass(frozen=True)
class DataOptions:
    """How data is read; ``None`` and ``"auto"`` mean: found from the data and the model.

    A number ``x`` of the data becomes ``(x · scale − mean) / std`` in the model's own type.

    Attributes:
        labels: key of the labels; ``"none"``: use no labels even where the data has some.
        scale: factor for the numbers of the data.
        mean: subtracted after scaling, one number or one a channel (in the model's channel order).
        std: divisor after that, one number or one a channel.
        layout: axis order of the model's image input.
        color: channel order of the model's image input; ``"gray"``: image files are read without colour.
        image_size: (height, width) of the model's image input; None: from the model.
    """

    labels: str | None = None
    scale: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    layout: Literal["auto", "nchw", "nhwc"] = "auto"
    color: Literal["rgb", "bgr", "gray"] = "rgb"
    image_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, tuple(float(v) for v in np.atleast_1d(value)))
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise UsageError(
                    f"--{name} cannot be '{getattr(self, name)}'", fix=f"known: {', '.join(choices)}"
                )
        if self.image_size is not None:
            size = tuple(int(v) for v in np.atleast_1d(self.image_size))
            if len(size) not in (1, 2) or min(size) < 1:
                raise UsageError(
                    f"--image-size cannot be {self.image_size}", fix="give one number, or height,width"
                )
            object.__setattr__(self, "image_size", (size[0], size[-1]))

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> DataOptions:
        """Return the options of these names; raises UsageError for a name that is not known."""
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = [name for name in options if name not in known]
        if unknown:
            raise UsageError(f"unknown data option '{unknown[0]}'", fix=f"known: {', '.join(known)}")
        return cls(**options)
