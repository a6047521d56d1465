"""Data in a folder of images, with sub-folders as classes; files are decoded when asked for.

``train``, ``val`` and ``test`` folders may hold the class folders, which ``_class_folders`` reads. Images
without sub-folders have no labels.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from onnxcompress.core.encoding import Array
from onnxcompress.core.errors import DataError
from onnxcompress.engine.data.adapters._base import Store, adapter
from onnxcompress.engine.data.adapters._class_folders import (
    NO_CLASS,
    classes_in,
    folders_in,
    images_beside,
    numbered,
)
from onnxcompress.engine.data.adapters.folder import array_files
from onnxcompress.engine.data.columns import ArrayColumn, Column
from onnxcompress.engine.data.feeding import TensorLike
from onnxcompress.engine.data.keys import SPLITS
from onnxcompress.engine.data.options import DataOptions

CROP = 0.875
"""Side of the centre crop over the image's shorter side, as in the usual ImageNet evaluation (224 of 256)."""

_SIXTEEN_BITS = ("PNG", "PPM")
"""Formats without numbers of 32 bits: what is opened as such, in some versions of Pillow, has 16."""


def _accepts(spec: Any) -> bool:
    return isinstance(spec, Path) and spec.is_dir() and not array_files(spec)


@dataclass(frozen=True)
class ImageColumn:
    """Image files as a column of uint8 examples H W C.

    An image of the wanted size is taken as it is; any other is resized, bilinear, so that the wanted size
    is the centre crop of ``CROP`` of its shorter side. Messages name files from ``root`` on.
    """

    files: tuple[Path, ...]
    height: int
    width: int
    mode: str
    channels: int
    root: Path
    channels_last: ClassVar[bool] = True
    dtype: ClassVar[np.dtype[Any]] = np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, ...]:
        """N H W C."""
        return len(self.files), self.height, self.width, self.channels

    def take(self, indices: Array) -> Array:
        """Decode the images at ``indices``."""
        result = np.empty((len(indices), *self.shape[1:]), np.uint8)
        for position, index in enumerate(np.asarray(indices).tolist()):
            pixels = self._decode(self.files[index])
            result[position] = pixels if pixels.ndim == 3 else pixels[:, :, None]
        return result

    def _decode(self, file: Path) -> Array:
        with _readable(file, self.root), Image.open(file) as opened:
            image = _eight_bits(opened, file, self.root).convert(self.mode)
        if image.size != (self.width, self.height):
            scale = max(self.width / image.width, self.height / image.height) / CROP
            size = (
                max(round(image.width * scale), self.width),
                max(round(image.height * scale), self.height),
            )
            image = image.resize(size, Image.Resampling.BILINEAR)
            left, top = (size[0] - self.width) // 2, (size[1] - self.height) // 2
            image = image.crop((left, top, left + self.width, top + self.height))
        return np.asarray(image, np.uint8)


@adapter("images", _accepts, "folder of images, with class sub-folders")
def open_images(spec: Path, inputs: Sequence[TensorLike], options: DataOptions) -> Store:
    """Open a folder of images for a model with one image input."""
    if len(inputs) != 1:
        raise DataError(
            "a folder of images can feed only a model with one input", why=f"this model has {len(inputs)}"
        )
    try:
        folders = {SPLITS[f.name.lower()]: f for f in folders_in(spec) if f.name.lower() in SPLITS}
        folders = folders or {"train": spec}
        held = {split: classes_in(folder) for split, folder in folders.items()}
    except OSError as error:
        where = str(error.filename or spec)
        raise DataError("cannot look into the folder", where=where, why=error.strerror) from error
    first = next((file for classes in held.values() for files in classes.values() for file in files), None)
    if first is None:
        raise DataError("the folder holds no images and no arrays", where=spec.name or str(spec))
    height, width, channels = _geometry(inputs[0], options, first, spec)
    mode = "L" if channels == 1 or options.color == "gray" else "RGB"
    numbers, notes = numbered(held, spec)
    columns: dict[str, Column] = {}
    for split, classes in held.items():
        files = tuple(itertools.chain.from_iterable(classes.values()))
        columns[f"{split}/images"] = ImageColumn(files, height, width, mode, channels, spec)
        if NO_CLASS in classes:
            continue
        columns[f"{split}/labels"] = ArrayColumn(np.asarray([numbers[file] for file in files], np.int64))
        beside = images_beside(folders[split])
        if beside:
            notes.append(
                f"images beside the class folders of '{folders[split].name}' were left out: {beside}"
            )
    return Store(columns, spec.name, tuple(notes))


@contextmanager
def _readable(file: Path, root: Path) -> Iterator[None]:
    """Tell what cannot be read as what is wrong with that image."""
    try:
        yield
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError) as error:
        where = str(file.relative_to(root))
        raise DataError("cannot read the image", where=where, why=str(error)) from None


def _eight_bits(image: Image.Image, file: Path, root: Path) -> Image.Image:
    """Return the image with numbers of at most 8 bits, which is all that ``convert`` does not cut off.

    Raises:
        DataError: its numbers have no greatest one.
    """
    deep = image.mode.startswith("I;16") or (image.mode == "I" and image.format in _SIXTEEN_BITS)
    if deep:
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise DataError(
            "cannot read the image",
            where=str(file.relative_to(root)),
            why="its pixels are numbers of 32 bits, whose range is not known",
            fix="store 8 or 16 bits, or arrays",
        )
    return image


def _geometry(item: TensorLike, options: DataOptions, first: Path, root: Path) -> tuple[int, int, int]:
    """Return (height, width, channels) of the model's image input."""
    dims = item.shape[1:] if len(item.shape) == 4 else item.shape
    if len(dims) not in (2, 3):
        raise DataError(f"input '{item.name}' is not an image", why=f"its shape is {item.shape}")
    channels: int | str | None = 1
    area = dims
    if len(dims) == 3:
        few = (1, 3)
        last = options.layout == "nhwc" or (
            options.layout == "auto" and dims[0] not in few and dims[2] in few
        )
        channels, area = (dims[2], dims[:2]) if last else (dims[0], dims[1:])
    if isinstance(channels, int) and channels not in (1, 3):
        raise DataError(f"input '{item.name}' has {channels} channels", why="images have 1 or 3")
    height, width = options.image_size or area
    if not isinstance(height, int) or not isinstance(width, int):
        with _readable(first, root), Image.open(first) as image:
            width, height = image.size
    return height, width, 1 if channels == 1 else 3
