"""The archive of a model for transport: zstandard, over bytes put in an order that it compresses better.

A file begins with a *skippable frame* of the zstandard format, which holds a line of text and, as JSON,
names, sizes and checksums of the files; a frame with all files, one after the other, follows. In a model's
file, the bytes of a number stand side by side: sign and exponent, which repeat, beside bits of the mantissa,
which do not. So files are cut into blocks, and each block turned into planes, first the first bytes of all
numbers, then the second ones, for numbers of 1, 2 or 4 bytes, whichever a quick try compresses best; a byte
in front of each block says which. Without that filter, ``zstd -d`` unpacks the files as they are.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
import zstandard

from onnxcompress.core.errors import UnsupportedError, VerificationError

BLOCK_BYTES = 1 << 20
"""Bytes that are filtered together."""

WIDTHS = (1, 2, 4)
"""Bytes of the numbers that a block may consist of."""

LEVELS = range(1, 23)
"""Levels of zstandard, from fast to small."""

_WINDOW_LOG = 27
"""Repetitions are found over so many bytes (a power of 2); `zstd -d` takes no more unasked."""

_TRIAL_LEVEL = 3
_SKIPPABLE, _FRAME = 0x184D2A50, 0xFD2FB528
_HEAD = struct.Struct("<II")
_TITLE = b"onnxcompress archive\n"
_FORMAT = 1
_LONGEST_HEADER = 1 << 20
_MOST_FILES = 10_000

Progress = Callable[[int], None]
"""Called with the bytes done, of all files together."""


@dataclass(frozen=True)
class Entry:
    """One file of an archive: its name relative to the model's folder, with slashes."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Contents:
    """What an archive says of itself: its files, of which the first is the model, and whether bytes are in
    planes."""

    files: tuple[Entry, ...]
    filtered: bool

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(entry.size_bytes for entry in self.files)

    @property
    def blocks(self) -> int:
        """Number of blocks: the last one of each file may be shorter."""
        return sum(-(-entry.size_bytes // BLOCK_BYTES) for entry in self.files)


def entry_of(path: Path, name: str) -> Entry:
    """Return size and checksum of a file that is to go into an archive."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
            size += len(block)
    return Entry(name, size, digest.hexdigest())


def write(
    target: IO[bytes], contents: Contents, folder: Path, *, level: int, progress: Progress = lambda done: None
) -> None:
    """Write an archive of the files of a folder; memory does not grow with them.

    Args:
        target: where to.
        contents: the files; the first one's name may differ from that in the folder.
        folder: where the files are.
        level: of zstandard.
        progress: told of the bytes done.

    Raises:
        UnsupportedError: a file changed since it was looked at.
    """
    header = (
        _TITLE
        + json.dumps(
            {
                "format": _FORMAT,
                "filter": "planes" if contents.filtered else "none",
                "files": [{"name": e.name, "size": e.size_bytes, "sha256": e.sha256} for e in contents.files],
            },
            separators=(",", ":"),
        ).encode()
    )
    target.write(_HEAD.pack(_SKIPPABLE, len(header)) + header)
    stored = contents.size_bytes + (contents.blocks if contents.filtered else 0)
    try:
        stream = _compressor(level, stored).stream_writer(target, size=stored, closefd=False)
        _write_files(stream, contents, folder, progress)
        # Not where something failed: that bytes are missing would be told of instead.
        stream.flush(zstandard.FLUSH_FRAME)
    except zstandard.ZstdError as error:  # it was promised so many bytes, and got others
        raise UnsupportedError("a file changed while it was packed", where=str(folder)) from error


def _write_files(
    stream: zstandard.ZstdCompressionWriter, contents: Contents, folder: Path, progress: Progress
) -> None:
    done = 0
    for entry in contents.files:
        digest, left = hashlib.sha256(), entry.size_bytes
        with (folder / entry.name).open("rb") as file:
            while left and (block := file.read(min(BLOCK_BYTES, left))):
                left -= len(block)
                digest.update(block)
                stream.write(_filtered(block) if contents.filtered else block)
                done += len(block)
                progress(done)
            changed = left or file.read(1) or digest.hexdigest() != entry.sha256
        if changed:
            raise UnsupportedError("the file changed while it was packed", where=entry.name)


def _compressor(level: int, size: int) -> zstandard.ZstdCompressor:
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level,
        window_log=max(10, min(_WINDOW_LOG, size.bit_length())),
        enable_ldm=True,
        write_checksum=True,
        write_content_size=True,
    )
    return zstandard.ZstdCompressor(compression_params=parameters)


def read_contents(archive: IO[bytes]) -> Contents:
    """Read what an archive says of itself, up to its first file.

    Raises:
        UnsupportedError: it is no archive, or says what it must not: a name that leads out of a folder.
    """

    def foreign(why: str, fix: str | None = None) -> UnsupportedError:
        name = getattr(archive, "name", None)
        return UnsupportedError(
            "this is no archive of onnxcompress", where=None if name is None else str(name), why=why, fix=fix
        )

    head = archive.read(_HEAD.size)
    magic, length = _HEAD.unpack(head) if len(head) == _HEAD.size else (0, 0)
    if magic == _FRAME or head[:4] == struct.pack("<I", _FRAME):
        raise foreign("it was compressed by zstd alone", "`zstd -d` unpacks it")
    if magic != _SKIPPABLE or not len(_TITLE) < length <= _LONGEST_HEADER:
        raise foreign("it does not begin like one")
    header = archive.read(length)
    if len(header) < length:
        raise foreign("it is truncated")
    if not header.startswith(_TITLE):
        raise foreign("it does not begin like one")
    try:
        said = json.loads(header[len(_TITLE) :])
        version, filtered = said["format"], said["filter"]
        if version != _FORMAT:
            raise foreign(f"its format is {version!r}", "a newer onnxcompress may read it")
        if filtered not in ("planes", "none"):
            raise ValueError("its filter is not known")
        files = tuple(_entry(item) for item in said["files"])
        _check_names(files)
    except (ValueError, TypeError, KeyError) as error:
        why = str(error) if isinstance(error, ValueError) else "its table of contents is damaged"
        raise foreign(why) from error
    return Contents(files, filtered == "planes")


def _entry(item: Any) -> Entry:
    name, size, digest = item["name"], item["size"], item["sha256"]
    proper = isinstance(name, str) and isinstance(size, int) and not isinstance(size, bool) and size >= 0
    if not proper or not isinstance(digest, str) or len(digest) != 64:
        raise ValueError("its table of contents is damaged")
    return Entry(name, size, digest)


def _check_names(files: tuple[Entry, ...]) -> None:
    """Raise ValueError for names that must not be written, or would be written over one another."""
    if not 0 < len(files) <= _MOST_FILES:
        raise ValueError(f"it holds {len(files)} files")
    for entry in files:
        if not is_inside(entry.name):
            raise ValueError(f"the file name {entry.name!r} leads out of the folder, or is none")
    names = {entry.name.casefold() for entry in files}
    parents = {str(p) for name in names for p in PurePosixPath(name).parents}
    if len(names) < len(files) or names & parents:
        raise ValueError("two of its files have one name")
    if "/" in files[0].name:
        raise ValueError("the model does not lie in its own folder")


def is_inside(name: str) -> bool:
    """Tell whether a relative name, with slashes, stays inside its folder on every system.

    >>> [is_inside(n) for n in ("a.onnx", "data/w.bin", "../a", "/etc/x", "C:x", "a//b", "a\\\\b", "")]
    [True, True, False, False, False, False, False, False]
    """
    parts = name.split("/")
    printable = all(ord(c) >= 32 and c not in '\\\\:*?"<>|' for c in name)
    return printable and all(part not in ("", ".", "..") and part == part.rstrip(" .") for part in parts)


class Reader:
    """Reads the files of an archive one after the other; memory does not grow with their size.

    Args:
        archive: a file, positioned behind what ``read_contents`` read.
        contents: what it says of itself.
        progress: told of the bytes that were read, of all files together.
    """

    def __init__(
        self, archive: IO[bytes], contents: Contents, progress: Progress = lambda done: None
    ) -> None:
        decompressor = zstandard.ZstdDecompressor(max_window_size=1 << _WINDOW_LOG)
        self._stream = decompressor.stream_reader(archive, read_across_frames=True, closefd=False)
        self._contents, self._progress, self._done = contents, progress, 0

    def file(self, entry: Entry) -> Iterator[bytes]:
        """Yield the bytes of the next file, and check them.

        Raises:
            UnsupportedError: the archive is damaged.
            VerificationError: the bytes are not those that were packed.
        """
        digest, left = hashlib.sha256(), entry.size_bytes
        while left:
            width = self._exactly(1, entry)[0] if self._contents.filtered else 1
            if width not in WIDTHS:
                raise _damaged(entry, "its blocks are no blocks")
            block = _restored(self._exactly(min(BLOCK_BYTES, left), entry), width)
            digest.update(block)
            left -= len(block)
            self._done += len(block)
            self._progress(self._done)
            yield block
        if digest.hexdigest() != entry.sha256:
            raise VerificationError(
                "the archive does not hold what was packed",
                where=entry.name,
                why="its checksum is another one",
            )

    def end(self) -> None:
        """Check that nothing follows the last file; raises UnsupportedError."""
        entry = self._contents.files[-1]
        try:
            more = self._stream.read(1)
        except zstandard.ZstdError as error:
            raise _damaged(entry, f"what follows it is no part of an archive ({error})") from error
        if more:
            raise _damaged(entry, "the archive holds more than it says")

    def _exactly(self, count: int, entry: Entry) -> bytes:
        parts = []
        while count:
            try:
                part = self._stream.read(count)
            except zstandard.ZstdError as error:
                raise _damaged(entry, f"zstandard says: {error}") from error
            if not part:
                raise _damaged(entry, "its data is truncated")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)


# planes -------------------------------------------------------------------------------------------------


def _filtered(block: bytes) -> bytes:
    """Return a block as the planes that a quick try compresses best, behind a byte that says which."""
    trial = zstandard.ZstdCompressor(level=_TRIAL_LEVEL)
    found = [(len(trial.compress(planes)), width, planes) for width, planes in _ways(block)]
    _, width, planes = min(found, key=lambda way: way[:2])
    return bytes([width]) + planes


def _ways(block: bytes) -> Iterator[tuple[int, bytes]]:
    for width in WIDTHS:
        yield width, _planes(block, width)


def _planes(block: bytes, width: int) -> bytes:
    """Return the first bytes of all numbers of a width, then the second ones …; what is left over last.

    >>> _planes(b"aAbBcC!", 2)
    b'abcABC!'
    """
    whole = len(block) // width * width
    numbers = np.frombuffer(block, np.uint8, whole).reshape(-1, width)
    return numbers.T.tobytes() + block[whole:]


def _restored(planes: bytes, width: int) -> bytes:
    """Undo :func:`_planes`.

    >>> _restored(b"abcABC!", 2)
    b'aAbBcC!'
    """
    whole = len(planes) // width * width
    numbers = np.frombuffer(planes, np.uint8, whole).reshape(width, -1)
    return numbers.T.tobytes() + planes[whole:]


def _damaged(entry: Entry, why: str) -> UnsupportedError:
    return UnsupportedError("the archive is damaged", where=entry.name, why=why)
