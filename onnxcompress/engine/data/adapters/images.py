"""Data in a folder of images, with sub-folders as classes; files are decoded when asked for.

``train``, ``val`` and ``test`` folders may hold the class folders; classes are numbered over all of them. A
class is the folder's number where all folder names are numbers; the file's number where every folder holds
one file and all are numbers; otherwise the folder's place in sorted order. Images without sub-folders have
no labels. What is hidden (``.ipynb_checkpoints``) is no class and no image.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
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

NO_CLASS = ""
"""Stands for the class of images that lie in no class folder."""


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
    root: Path = field(default_factory=Path)
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
                image = _eight_bits(opened).convert(self.mode)
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError) as error:
            where = str(file.relative_to(self.root))
            raise DataError("cannot read the image", where=where, why=str(error)) from None
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
    held = {split: _classes(folder) for split, folder in (folders or {"train": spec}).items()}
    first = next((file for classes in held.values() for files in classes.values() for file in files), None)
    if first is None:
        raise DataError("the folder holds no images and no arrays", where=spec.name or str(spec))
    height, width, channels = _geometry(inputs[0], options, first)
    mode = "L" if channels == 1 or options.color == "gray" else "RGB"
    named, note = _numbered([classes for classes in held.values() if NO_CLASS not in classes], spec)
    columns: dict[str, Column] = {}
    for split, classes in held.items():
        files = tuple(itertools.chain.from_iterable(classes.values()))
        columns[f"{split}/images"] = ImageColumn(files, height, width, mode, channels, spec)
        if NO_CLASS not in classes:
            columns[f"{split}/labels"] = ArrayColumn(np.asarray([named[file] for file in files], np.int64))
    return Store(columns, spec.name, tuple(filter(None, (note, *_left_out(held, folders or {"": spec})))))


def _folders(folder: Path) -> list[Path]:
    return sorted((f for f in _seen(folder) if f.is_dir()), key=lambda f: f.name)


def _images(files: Iterable[Path]) -> list[Path]:
    return [f for f in files if f.suffix.lower() in SUFFIXES and f.is_file()]


def _seen(folder: Path) -> list[Path]:
    """Return what is in a folder, in the order of names and numbers, but for what is hidden."""
    return sorted((f for f in folder.iterdir() if not f.name.startswith(".")), key=lambda f: natural(f.name))


def _below(folder: Path) -> list[Path]:
    """Return all files in a folder and the folders in it."""
    return [file for f in _seen(folder) for file in (_below(f) if f.is_dir() else [f])]


def _classes(folder: Path) -> dict[str, list[Path]]:
    """Return the images of each class folder; of a folder where no folder holds any, under ``NO_CLASS``."""
    held = {f.name: _images(_below(f)) for f in _folders(folder)}
    return held if any(held.values()) else {NO_CLASS: _images(_seen(folder))}


def _numbered(splits: Sequence[Mapping[str, Sequence[Path]]], root: Path) -> tuple[dict[Path, int], str]:
    """Return the number of each file's class, and how the numbers were found.

    Raises:
        DataError: folders are numbered in sorted order, and one holds no image in any split.
    """
    if not splits:
        return {}, ""
    names = sorted({name for classes in splits for name, files in classes.items() if files})
    of = {file: name for classes in splits for name, files in classes.items() for file in files}
    if all(map(_number, names)):
        return {file: int(name) for file, name in of.items()}, "classes are the numbers of the folders"
    if all(_one_number_each(list(classes.values())) for classes in splits):
        note = "classes are the numbers of the files, one in each folder"
        return {file: int(file.stem) for file in of}, note
    empty = sorted({name for classes in splits for name in classes} - set(names))
    if empty:
        raise DataError(
            f"the folder '{empty[0]}' holds no images",
            where=root.name or str(root),
            why="classes are numbered in the order of the folders' names, and it would be one",
            fix="remove it, or put its images there",
        )
    return {file: names.index(name) for file, name in of.items()}, "classes are the folders in sorted order"


def _one_number_each(groups: Sequence[Sequence[Path]]) -> bool:
    """Tell whether two or more folders hold one file each, called by different numbers."""
    stems = [file.stem for files in groups for file in files]
    one_each = len(stems) > 1 and all(len(files) == 1 for files in groups)
    return one_each and all(map(_number, stems)) and len(set(stems)) == len(stems)


def _left_out(held: Mapping[str, Mapping[str, Any]], folders: Mapping[str, Path]) -> Iterable[str]:
    """Yield which images are of no class although there are classes."""
    for classes, folder in zip(held.values(), folders.values(), strict=True):
        beside = [] if NO_CLASS in classes else _images(_seen(folder))
        if beside:
            yield f"{len(beside)} images beside the class folders of '{folder.name}' were left out"


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return the image with numbers of at most 8 bits, which is all that ``convert`` does not cut off.

    Raises:
        ValueError: its numbers have no greatest one.
    """
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.uint32) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(
            f"its pixels are {'32-bit' if image.mode == 'I' else 'floating-point'} numbers, whose "
            "range is not known; store 8 or 16 bits, or arrays"
        )
    return image


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
