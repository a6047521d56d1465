"""Options that say how to read data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


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
        color: channel order of the model's image input; image files are read as RGB.
        image_size: (height, width) of the model's image input; None: from the model.
    """

    labels: str | None = None
    scale: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    layout: Literal["auto", "nchw", "nhwc"] = "auto"
    color: Literal["rgb", "bgr"] = "rgb"
    image_size: tuple[int, int] | None = None
