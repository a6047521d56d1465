"""Packing a model into an archive for transport, and unpacking it: nothing appears before all is checked."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from onnxcompress import exporter, importer
from onnxcompress.core.errors import OutputError, UnsupportedError, UsageError
from onnxcompress.engine import archive
from onnxcompress.engine.measures.facts import gzip_bytes

SUFFIX = ".zst"

LEVEL = 19
"""Level of zstandard, unless told otherwise: small rather than fast, for what is packed once."""

LARGEST = 1 << 34
"""Bytes that an archive may unpack to, unless told otherwise."""

Tell = Callable[[float, str], None]
"""Told of the fraction done and what is being done."""


@dataclass(frozen=True)
class Packed:
    """An archive that was written: its files by name, bytes before and after, and what gzip makes of them."""

    path: Path
    files: tuple[str, ...]
    size_bytes: int
    packed_bytes: int
    gzip_bytes: int


@dataclass(frozen=True)
class Unpacked:
    """A model that was unpacked: where it is, its files, bytes of the archive and of the files."""

    path: Path
    files: tuple[Path, ...]
    packed_bytes: int
    size_bytes: int


def pack(
    source: str | Path,
    output: str | Path | None = None,
    *,
    level: int = LEVEL,
    plain: bool = False,
    overwrite: bool = False,
    tell: Tell = lambda fraction, what: None,
) -> Packed:
    """Pack a model and its external data into an archive, and read it again as a proof.

    Args:
        source: the model's file.
        output: where to; None: ``FILE.onnx.zst`` beside it.
        level: of zstandard, 1 (fast) to 22 (small).
        plain: do without the filter, so that ``zstd -d`` unpacks a model of one file too.
        overwrite: an existing archive may be replaced.
        tell: progress.

    Raises:
        OnnxCompressError: one of its tree; nothing has been written then.
    """
    path = Path(source)
    target = Path(output) if output is not None else path.with_name(path.name + SUFFIX)
    if level not in archive.LEVELS:
        raise UsageError("--level must be 1 to 22", why=f"found {level}")
    names = importer.files_of(path)
    for name in names:
        if not archive.is_inside(name):
            raise UnsupportedError("a file of the model has a name that other systems refuse", where=name)
        if target.exists() and target.samefile(path.parent / name):
            raise OutputError(
                "the output is a file of the model", where=str(target), fix="choose another name"
            )
    exporter.check_target(target, path, overwrite=overwrite)
    tell(0.0, "looking at the files")
    entries = tuple(archive.entry_of(path.parent / name, name) for name in names)
    contents = archive.Contents(entries, filtered=not plain)
    total = max(1, contents.size_bytes)
    with exporter.staging(target) as folder:
        staged = folder / target.name
        try:
            with staged.open("wb") as file:
                archive.write(
                    file,
                    contents,
                    path.parent,
                    level=level,
                    progress=lambda done: tell(0.9 * done / total, "packing"),
                )
            size = staged.stat().st_size
        except OSError as error:
            raise OutputError("cannot write the archive", where=str(target), why=error.strerror) from error
        with staged.open("rb") as file:
            found = archive.read_contents(file)
            assert found == contents, "an archive says what was put into it"
            reader = archive.Reader(file, found, lambda done: tell(0.9 + 0.1 * done / total, "checking"))
            for entry in found.files:
                for _ in reader.file(entry):
                    pass
            reader.end()
        exporter.place(staged, target)
    zipped = gzip_bytes(_blocks(path.parent / name for name in names))
    return Packed(target, names, contents.size_bytes, size, zipped)


def unpack(
    source: str | Path,
    output: str | Path | None = None,
    *,
    overwrite: bool = False,
    limit_bytes: int = LARGEST,
    tell: Tell = lambda fraction, what: None,
) -> Unpacked:
    """Unpack a model and its external data, to the bytes that were packed.

    Args:
        source: the archive.
        output: the model's file; None: the archive's name without ``.zst``, beside it. External data lies in
            the same folder, under the names by which the model refers to it.
        overwrite: existing files may be replaced.
        limit_bytes: an archive that says it holds more is refused.
        tell: progress.

    Raises:
        OnnxCompressError: one of its tree; nothing has been written then.
    """
    path = Path(source)
    try:
        with path.open("rb") as file:
            contents = archive.read_contents(file)
            target = Path(output) if output is not None else _default(path, contents)
            targets = _targets(target, contents)
            _check(path, contents, targets, overwrite=overwrite, limit_bytes=limit_bytes)
            with exporter.staging(target) as folder:
                _unpack(file, contents, folder, targets, tell)
                for entry, place in reversed(list(zip(contents.files, targets, strict=True))):
                    place.parent.mkdir(parents=True, exist_ok=True)
                    exporter.move(folder / entry.name, place)
    except FileNotFoundError as error:
        raise UsageError("cannot read the archive", where=str(path), why="there is no such file") from error
    except OSError as error:
        raise OutputError("cannot unpack the archive", where=str(path), why=error.strerror) from error
    return Unpacked(target, tuple(targets), path.stat().st_size, contents.size_bytes)


def _unpack(
    file: io.BufferedReader, contents: archive.Contents, folder: Path, targets: list[Path], tell: Tell
) -> None:
    total = max(1, contents.size_bytes)
    reader = archive.Reader(file, contents, lambda done: tell(done / total, "unpacking"))
    for entry in contents.files:
        staged = folder / entry.name
        staged.parent.mkdir(parents=True, exist_ok=True)
        with staged.open("wb") as out:
            for block in reader.file(entry):
                out.write(block)
    reader.end()


def _default(path: Path, contents: archive.Contents) -> Path:
    return path.with_suffix("") if path.suffix == SUFFIX else path.with_name(contents.files[0].name)


def _targets(target: Path, contents: archive.Contents) -> list[Path]:
    """Return where the files go: the model under the name asked for, the others beside it under their own."""
    return [target, *(target.parent / entry.name for entry in contents.files[1:])]


def _check(
    path: Path, contents: archive.Contents, targets: list[Path], *, overwrite: bool, limit_bytes: int
) -> None:
    """Raise where files are too large or must not be written."""
    if contents.size_bytes > limit_bytes:
        raise UnsupportedError(
            "the archive holds more than is allowed",
            where=str(path),
            why=f"{contents.size_bytes} bytes, the limit is {limit_bytes}",
            fix="allow more with --limit-bytes if you trust it",
        )
    folder = targets[0].parent
    for target in targets:
        exporter.check_target(
            target if target.parent.exists() else folder / target.name, path, overwrite=overwrite
        )
        if not target.parent.resolve().is_relative_to(folder.resolve()):
            raise OutputError(
                "cannot unpack the archive", where=str(target), why="a link leads out of the folder"
            )
        if target.is_symlink():
            raise OutputError("cannot unpack the archive", where=str(target), why="it is a link")
    if len({t.resolve() for t in targets}) < len(targets):
        raise OutputError(
            "cannot unpack the archive",
            where=str(targets[0]),
            why="its data has this name",
            fix="choose another",
        )
    free = shutil.disk_usage(folder).free
    if contents.size_bytes > free:
        raise OutputError(
            "there is not enough space",
            where=str(folder),
            why=f"{contents.size_bytes} bytes are needed, {free} are free",
        )


def _blocks(paths: Iterator[Path]) -> Iterator[bytes]:
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(archive.BLOCK_BYTES):
                yield block
