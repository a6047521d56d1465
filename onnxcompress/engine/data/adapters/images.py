"""Data in a folder of images, with sub-folders as classes; files are decoded when asked for.

``train``, ``val`` and ``test`` folders may hold the class folders. A class is the folder's number where all
folder names are numbers; the file's number where every folder holds one file and all are numbers;
otherwise the folder's place in sorted order. Images without sub-folders have no labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from onnxcompress.core.encoding import Array
from onnxcompress.core.errors import DataError
from onnxcompress.engine.data.adapters._base import Store, adapter
from onnxcompress.engine.data.adapters.folder import array_files, natural
from onnxcompress.engine.data.columns import ArrayColumn, Column
from onnxcompress.engine.data.feeding import TensorLike
from onnxcompress.engine.data.keys import SPLITS
from onnxcompress.engine.data.options import DataOptions

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"})
CROP = 0.875
"""Side of the centre crop over the image's shorter side, as in the usual ImageNet evaluation (224 of 256)."""


def _accepts(spec: Any) -> bool:
    return isinstance(spec, Path) and spec.is_dir() and not array_files(spec)


@dataclass(frozen=True)
class ImageColumn:
    """Image files as a column of uint8 examples H W C.

    An image of the wanted size is taken as it is; any other is resized, bilinear, so that the wanted size
    is the centre crop of ``CROP`` of its shorter side.
    """

    files: tuple[Path, ...]
    height: int
    width: int
    mode: str
    channels: int
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
        try:
            with Image.open(file) as opened:
                image = opened.convert(self.mode)
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError) as error:
            raise DataError("cannot read the image", where=file.name, why=str(error)) from None
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
    folders = {SPLITS[f.name.lower()]: f for f in _folders(spec) if f.name.lower() in SPLITS}
    found = {split: _scan(folder) for split, folder in folders.items()} if folders else {"train": _scan(spec)}
    if all(not files for files, _, _ in found.values()):
        raise DataError("the folder holds no images and no arrays", where=spec.name or str(spec))
    first = next(files[0] for files, _, _ in found.values() if files)
    height, width, channels = _geometry(inputs[0], options, first)
    mode = "L" if channels == 1 or options.color == "gray" else "RGB"
    columns: dict[str, Column] = {}
    notes = []
    for split, (files, classes, note) in found.items():
        columns[f"{split}/images"] = ImageColumn(tuple(files), height, width, mode, channels)
        if classes is not None:
            columns[f"{split}/labels"] = ArrayColumn(classes)
        if note:
            notes.append(note)
    return Store(columns, spec.name, tuple(dict.fromkeys(notes)))


def _folders(folder: Path) -> list[Path]:
    return sorted((f for f in folder.iterdir() if f.is_dir()), key=lambda f: f.name)


def _images(folder: Path) -> list[Path]:
    files = (f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and f.is_file())
    return sorted(files, key=lambda f: natural(f.name))


def _scan(folder: Path) -> tuple[list[Path], Array | None, str]:
    """Return (files, their classes or None, how the classes were found)."""
    held = [(f.name, _images(f)) for f in _folders(folder)]
    held = [(name, files) for name, files in held if files]
    if not held:
        return _images(folder), None, ""
    files = [file for _, group in held for file in group]
    names = [name for name, _ in held]
    sizes = [len(group) for _, group in held]
    stems = [file.stem for file in files]
    if all(_number(n) for n in names):
        return files, np.repeat([int(n) for n in names], sizes), "classes are the numbers of the folders"
    if len(held) > 1 and max(sizes) == 1 and all(map(_number, stems)) and len(set(stems)) == len(stems):
        return (
            files,
            np.asarray([int(s) for s in stems]),
            "classes are the numbers of the files, one in each folder",
        )
    return files, np.repeat(np.arange(len(held)), sizes), "classes are the folders in sorted order"


def _number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _geometry(item: TensorLike, options: DataOptions, first: Path) -> tuple[int, int, int]:
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
        with Image.open(first) as image:
            width, height = image.size
    return height, width, 1 if channels == 1 else 3
