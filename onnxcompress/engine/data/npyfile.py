"""Reading .npy files and .npz members without unpickling and without loading them."""

from __future__ import annotations

import math
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.lib import format as npy

from onnxcompress.core.encoding import Array
from onnxcompress.core.errors import DataError
from onnxcompress.engine.data.columns import ArrayColumn, Column, FileColumn

_CHUNK_BYTES = 1 << 22


def open_npy(path: Path) -> Column:
    """Return the array of a .npy file as a column; raises DataError where it is not one."""
    return _column(_open(path), path.stat().st_size, path.name)


def open_npz(path: Path) -> dict[str, Column]:
    """Return the members of an .npz archive as columns.

    Members that are stored are read in place; compressed ones are unpacked, piece by piece, into an unnamed
    temporary file that the system removes when the program ends, however it ends.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if m.filename.endswith(".npy")]
            if not members:
                raise DataError("the archive holds no arrays", where=path.name)
            return {m.filename.removesuffix(".npy"): _member(path, archive, m) for m in members}
    except zipfile.BadZipFile as error:
        raise DataError(
            "cannot read the data", where=path.name, why=f"not an .npz archive ({error})"
        ) from None
    except OSError as error:
        raise DataError(
            "cannot read the data",
            where=path.name,
            why=error.strerror or str(error),
            fix="unpacking needs room in the folder for temporary files; TMPDIR names another one",
        ) from None


def spool(arrays: list[Array], file: BinaryIO) -> None:
    """Append arrays, in C order, to an open file."""
    for array in arrays:
        file.write(np.ascontiguousarray(array).data)


def _open(path: Path) -> BinaryIO:
    try:
        return cast(BinaryIO, path.open("rb", buffering=0))
    except OSError as error:
        raise DataError("cannot read the data", where=path.name, why=error.strerror) from None


def _member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Column:
    where = f"{path.name}, key '{member.filename.removesuffix('.npy')}'"
    if member.flag_bits & 1:
        raise DataError("cannot read the data", where=where, why="the archive is encrypted")
    if member.compress_type == zipfile.ZIP_STORED:
        file = _open(path)
        file.seek(member.header_offset + 26)
        lengths = np.frombuffer(file.read(4), "<u2")
        file.seek(member.header_offset + 30 + int(lengths.sum()))
        return _column(file, file.tell() + member.file_size, where)
    target = cast(BinaryIO, tempfile.TemporaryFile(buffering=0))  # noqa: SIM115  lives as long as the column
    with archive.open(member) as packed:
        shutil.copyfileobj(packed, target, _CHUNK_BYTES)
    target.seek(0)
    return _column(target, member.file_size, where)


def _column(file: BinaryIO, end: int, where: str) -> Column:
    """Return the array whose .npy header starts at the file's position; its bytes end before ``end``."""
    shape, fortran, dtype = _header(file, where)
    offset = file.tell()
    if offset + math.prod(shape) * dtype.itemsize > end:
        raise DataError(
            "the data file is cut", where=where, why=f"shape {shape} needs more bytes than it holds"
        )
    if fortran and len(shape) > 1 and 0 not in shape:
        return ArrayColumn(np.memmap(file, dtype, "r", offset, shape, "F"))
    if not shape:
        shape = (1,)
    return FileColumn(file, offset, shape, dtype)


def _header(file: BinaryIO, where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = npy.read_magic(file)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
        if read is None:
            raise ValueError(f"format version {version[0]}.{version[1]}")
        shape, fortran, dtype = read(file)
    except (ValueError, EOFError) as error:
        raise DataError(
            "cannot read the data", where=where, why=f"not a .npy array ({_line(error)})"
        ) from None
    if dtype.hasobject:
        raise DataError(
            "the data holds Python objects",
            where=where,
            why="objects would have to be unpickled, which can run code",
            fix="store plain arrays of numbers",
        )
    if dtype.names is not None or dtype.kind not in "biufUS":
        raise DataError(f"the data has type {dtype}", where=where, why="only numbers and strings can be fed")
    return shape, fortran, dtype


def _line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
