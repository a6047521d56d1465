"""Class folders: which images a folder of images holds, and which class each of them is of.

Classes are numbered over all splits. A class is the folder's number where all folder names are numbers; the
file's number where every folder holds one file and all are numbers; otherwise the folder's place in sorted
order. Images may lie at any depth in the folder of their class. What is hidden (``.ipynb_checkpoints``) is no
class and no image.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from onnxcompress.core.errors import DataError
from onnxcompress.engine.data.adapters.folder import natural

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"})

NO_CLASS = ""
"""Stands for the class of images that lie in no class folder."""

_MOST_DIGITS = 9
"""Of a number that may be a class; longer ones are names."""

Classes = Mapping[str, Sequence[Path]]
"""Class folder -> its images."""


def folders_in(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted by name, as classes are numbered."""
    return sorted((f for f in _seen(folder) if f.is_dir()), key=lambda f: f.name)


def classes_in(folder: Path) -> dict[str, list[Path]]:
    """Return the images of each class folder; of a folder where no folder holds any, under ``NO_CLASS``."""
    held = {f.name: _images(_below(f)) for f in folders_in(folder)}
    return held if any(held.values()) else {NO_CLASS: _images(_seen(folder))}


def images_beside(folder: Path) -> int:
    """Return how many images lie beside the folders in a folder."""
    return len(_images(_seen(folder)))


def numbered(splits: Mapping[str, Classes], root: Path) -> tuple[dict[Path, int], list[str]]:
    """Return the number of each file's class, and sentences on how the numbers were found.

    Args:
        splits: split -> its classes; one whose images lie in no class folder has no labels.
        root: for messages.

    Raises:
        DataError: folders are numbered in sorted order, and one holds no image in any split.
    """
    labelled = {split: classes for split, classes in splits.items() if NO_CLASS not in classes}
    of = {f: name for classes in labelled.values() for name, files in classes.items() for f in files}
    names = sorted(set(of.values()))
    if not names:
        return {}, []
    if all(map(_is_number, names)):
        return {file: int(name) for file, name in of.items()}, ["classes are the numbers of the folders"]
    if all(_one_number_each(list(classes.values())) for classes in labelled.values()):
        note = "classes are the numbers of the files, one in each folder"
        return {file: int(file.stem) for file in of}, [note]
    empty = sorted({name for classes in labelled.values() for name in classes} - set(names))
    if empty:
        raise DataError(
            f"the folder '{empty[0]}' holds no images",
            where=root.name or str(root),
            why="classes are numbered in the order of the folders' names, and it would be one",
            fix="remove it, or put its images there",
        )
    notes = ["classes are the folders in sorted order"]
    lacking = [name for name in names if not labelled.get("train", {}).get(name)]
    if lacking and "train" in labelled:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        notes.append(f"the training split has no images of class '{lacking[0]}'{more}")
    number = {name: k for k, name in enumerate(names)}
    return {file: number[name] for file, name in of.items()}, notes


def _images(files: Iterable[Path]) -> list[Path]:
    return [f for f in files if f.suffix.lower() in SUFFIXES and f.is_file()]


def _seen(folder: Path) -> list[Path]:
    """Return what is in a folder, in the order of names and numbers, but for what is hidden."""
    return sorted((f for f in folder.iterdir() if not f.name.startswith(".")), key=lambda f: natural(f.name))


def _below(folder: Path) -> list[Path]:
    """Return all files below a folder; links to folders are not followed, for they may lead in a circle."""
    found: list[Path] = []
    for path in _seen(folder):
        if not path.is_dir():
            found.append(path)
        elif not path.is_symlink():
            found += _below(path)
    return found


def _one_number_each(groups: Sequence[Sequence[Path]]) -> bool:
    """Tell whether two or more folders hold one file each, called by different numbers."""
    stems = [file.stem for files in groups for file in files]
    one_each = len(stems) > 1 and all(len(files) == 1 for files in groups)
    return one_each and all(map(_is_number, stems)) and len(set(stems)) == len(stems)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS
