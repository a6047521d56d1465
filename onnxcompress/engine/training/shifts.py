"""Shifts of images while training: as far as the original itself hardly notices.

A picture moved a little is another example, of which the original itself is asked for the answer; its class
is the same (Simard, Steinkraus, Platt 2003, Best practices for convolutional neural networks applied to
visual document analysis, section 2). Few examples become many that way, and they stay pictures, which
mixtures and noise do not; turned, stretched and sheared ones are more different still. The distance is
found, not set: the largest at which shifts, drawn evenly along both axes, move the original's outputs by no
more than ``SHARE`` of their variance. An original that notices
the least shift (its inputs are no pictures, whatever their shape) is shown none.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from onnxcompress.core.encoding import Array
from onnxcompress.core.task import Task
from onnxcompress.engine.data.feeding import Feeding
from onnxcompress.engine.graph.torchgraph import TorchGraph
from onnxcompress.engine.training.noise import EXAMPLES, moved_share

SHARE = 0.1
"""Share of the variance of the original's outputs; LeNet300 errs on 2 % of its training examples then.

Chosen on 10,000 held-out examples of MNIST with 500 unlabelled ones to train on (4 entries): without shifts
2.78 % are wrong, with shifts of this share 2.60 %; at 0.3 the outputs are further from the original's. With
the labels of 50,000 (2 entries): 2.23 % without, 2.15 % with shifts, a cross-entropy of 0.080 and 0.070.
That was with fractions of pixels; by whole ones another 4 % lower (0.098 against 0.103, another 50,000)."""

LEAST_PIXELS = 0.5
"""A shift of no more than this moves by no whole pixel; it would but blur."""

FARTHEST = 0.1
"""Largest distance, as share of the shorter side of a picture."""

_HALVINGS = 7
_LEAST_SIDE = 8
_MOST_CHANNELS = 4

Drawn = tuple[torch.Tensor, torch.Tensor | None]
"""Directions, −1 to 1: of shifts (N, 2), and of linear maps (N, 2, 2) where pictures are turned."""


@dataclass(frozen=True)
class Shift:
    """How far examples of one input are moved.

    Attributes:
        pixels: largest distance along each axis.
        channels_last: the stack is N H W C, otherwise N C H W.
        turned: pictures are turned, stretched and sheared, too: each of the four numbers of the linear map
            moves points of the edge by up to ``pixels``.
        whole: move by whole pixels only, the nearest to what was drawn: examples that would move by less than
            half a pixel stay as they are, and nothing is blurred, which what is seen later never is.
    """

    pixels: float
    channels_last: bool
    turned: bool = False
    whole: bool = False

    def draw(self, count: int, device: torch.device) -> Drawn:
        """Return directions for so many examples, from torch's generator: of the shift, of the linear map."""
        directions = 2 * torch.rand(count, 2, device=device) - 1
        if self.whole or not self.turned:
            return directions, None
        return directions, 2 * torch.rand(count, 2, 2, device=device) - 1

    def apply(self, stack: torch.Tensor, drawn: Drawn | None = None) -> torch.Tensor:
        """Return the stack, every example moved by itself; what comes in at an edge repeats the edge.

        ``drawn`` are directions that another input was moved in.
        """
        images = stack.movedim(-1, 1) if self.channels_last else stack
        directions, linear = self.draw(len(images), images.device) if drawn is None else drawn
        if self.whole:
            moved = rolled(images, (directions * self.pixels).round().long())
        else:
            map_ = None if linear is None else linear * self.pixels
            moved = shifted(images, directions * self.pixels, map_)
        return moved.movedim(1, -1) if self.channels_last else moved


def words(shifts: Mapping[str, Shift]) -> str:
    """Return what is done to pictures, "shifted by up to 2 whole pixels"."""
    how = "shifted, turned and stretched" if any(s.turned for s in shifts.values()) else "shifted"
    if all(shift.whole for shift in shifts.values()):
        most = max(round(shift.pixels) for shift in shifts.values())
        return f"{how} by up to {most} whole pixel{'s' if most != 1 else ''}"
    return f"{how} by up to {max(s.pixels for s in shifts.values()):.1f} pixels"


def shifted(images: torch.Tensor, pixels: torch.Tensor, linear: torch.Tensor | None = None) -> torch.Tensor:
    """Return images N C H W moved by ``pixels`` (N, 2: along W, along H), bilinear between pixels.

    ``linear`` (N, 2, 2), in pixels that points of the edge are moved by, is what a linear map of the picture
    differs from the identity by.
    """
    # Places are counted from −1 to 1 along each side.
    sides = torch.tensor([images.shape[3], images.shape[2]], device=images.device)
    matrices = torch.eye(2, 3, device=images.device).repeat(len(images), 1, 1)
    if linear is not None:
        matrices[:, :, :2] += 2 * linear / sides[:, None]
    matrices[:, :, 2] = -2 * pixels / sides
    grid = F.affine_grid(matrices.to(images.dtype), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def rolled(images: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """Return images N C H W moved by whole ``pixels`` (N, 2: along W, along H); edges are repeated."""
    examples, channels, height, width = images.shape
    columns = (torch.arange(width, device=images.device) - pixels[:, :1]).clamp(0, width - 1)
    rows = (torch.arange(height, device=images.device) - pixels[:, 1:]).clamp(0, height - 1)
    # One number a pixel: an index of several axes is looked up much more slowly.
    places = (rows[:, :, None] * width + columns[:, None, :]).reshape(examples, 1, height * width)
    found = images.flatten(2).gather(2, places.expand(-1, channels, -1))
    return found.reshape(examples, channels, height, width)


def channels_last(shape: tuple[int, ...]) -> bool | None:
    """Return whether a stack of this shape is N H W C (True) or N C H W (False); None: no pictures."""
    if len(shape) != 4:
        return None
    for last, (channels, *sides) in ((False, shape[1:]), (True, (shape[3], shape[1], shape[2]))):
        if channels <= _MOST_CHANNELS and min(sides) >= _LEAST_SIDE:
            return last
    return None


def may_shift(task: Task) -> bool:
    """Return whether examples may be shown shifted: what is wanted of a shifted one must be the same.

    It is where the original teaches alone, and where each example has one class.
    """
    if task.random:
        return False
    if not task.labelled:
        return True
    labels = task.samples.labels(task.train[:1])
    return task.loss == "ce" and labels is not None and labels.ndim == 1


def fitting_shifts(
    graph: TorchGraph,
    task: Task,
    share: float = SHARE,
    *,
    turned: bool = False,
    until: float = math.inf,
) -> dict[str, Shift]:
    """Return the shift for each input that holds pictures; empty where none fits.

    Args:
        graph: holds the original's weights.
        task: the data; training examples are used.
        share: see the top of this file.
        turned: turn, stretch and shear them, too.
        until: moment of ``time.monotonic`` after which what is found by then is returned.
    """
    feeding = getattr(task.samples, "feeding", None) or Feeding(False, None)
    if feeding.whole:
        return {}
    generator = np.random.default_rng([task.seed, 0x541F7])
    some = generator.permutation(task.train)[:EXAMPLES]
    stack = task.samples.inputs(some)
    layouts = {
        name: last
        for name, array in stack.items()
        if array.dtype.kind == "f" and (last := channels_last(array.shape)) is not None
    }
    if not layouts:
        return {}
    graph.leave_out(task.left_out)
    clean = feeding.predict(graph.run, stack)
    directions = torch.from_numpy(generator.uniform(-1, 1, (len(some), 2, 3)).astype(np.float32))

    def moved(pixels: float) -> float:
        seen = {
            name: _moved_array(array, directions * pixels, layouts[name], turned)
            if name in layouts
            else array
            for name, array in stack.items()
        }
        return moved_share(clean, feeding.predict(graph.run, seen))

    sides = [min(stack[n].shape[1:3] if last else stack[n].shape[2:]) for n, last in layouts.items()]
    pixels = _largest(lambda distance: moved(distance) <= share, FARTHEST * min(sides), until)
    if pixels <= LEAST_PIXELS:
        return {}
    return {name: Shift(pixels, last, turned=turned, whole=not turned) for name, last in layouts.items()}


def no_farther(shifts: Mapping[str, Shift], pixels: float | None) -> dict[str, Shift]:
    """Return the shifts with a largest distance; below half a pixel they are not of whole pixels any more."""
    if pixels is None:
        return dict(shifts)
    return {
        name: replace(shift, pixels=min(shift.pixels, pixels), whole=shift.whole and pixels > LEAST_PIXELS)
        for name, shift in shifts.items()
    }


def _largest(good: Callable[[float], bool], most: float, until: float) -> float:
    """Return the largest distance up to ``most`` that is known to be good, by halving; 0 where none is."""
    low, high = 0.0, most
    if good(high):
        return high
    for _ in range(_HALVINGS):
        if time.monotonic() >= until:
            break
        middle = (low + high) / 2
        low, high = (middle, high) if good(middle) else (low, middle)
    return low


def _moved_array(array: Array, pixels: torch.Tensor, last: bool, turned: bool) -> Array:
    images = torch.from_numpy(np.ascontiguousarray(array, np.float32))
    images = images.movedim(-1, 1) if last else images
    found = shifted(images, pixels[:, :, 0], pixels[:, :, 1:] if turned else None)
    return (found.movedim(1, -1) if last else found).numpy().astype(array.dtype)
