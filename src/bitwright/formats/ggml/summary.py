"""A GGUF file opened with distrust, and the slot in it that carries the verdict of its validation.

The key `bitwright.validation` is a JSON text padded with spaces to 2048 bytes, so that a verdict can be put in after
the tensors are written and validated, without moving one of their bytes. The file is replaced whole: a copy with the
slot patched, then one rename. The hash of an artifact covers the tensor data only, and so outlives the verdict.

Not here: writing headers (file.py), values of tensors (reader.py).
Source of the container: ggml docs/gguf.md (a string value is 8 bytes of length, then UTF-8).
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import gguf

from bitwright.core.atomic import atomic_file, sha256_file
from bitwright.core.errors import InputError, UnsupportedError, from_os_error
from bitwright.formats.ggml.arrays import ArrayReader

SUMMARY_KEY = "bitwright.validation"
SUMMARY_BYTES = 2048
MAGIC = b"GGUF"
VERSION = 3
SMALLEST_ENTRY = 13  # a key of one byte (9), a type (4): bounds the counts before anything is allocated


def padded(summary: str) -> bytes:
    """The slot's content: UTF-8, filled up with spaces, which JSON ignores."""
    text = summary.encode()
    assert len(text) <= SUMMARY_BYTES, f"the summary takes {len(text)} bytes, the slot has {SUMMARY_BYTES}"
    return text.ljust(SUMMARY_BYTES)


def open_gguf(path: Path) -> gguf.GGUFReader:
    """Header and tensor table, the data mapped and not read.

    Raises `InputError` for a file that is missing, cut short, or not GGUF version 3 in little-endian order.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as handle:
            head = handle.read(24)
    except OSError as error:
        raise from_os_error(error, path) from error
    if head[:4] != MAGIC:
        raise InputError(
            f"`{path}` is not a GGUF file: it begins with {head[:4]!r}, expected {MAGIC!r}", hint="check the path"
        )
    if len(head) < 24 or int.from_bytes(head[4:8], "little") != VERSION:
        raise InputError(f"`{path}` is GGUF version {int.from_bytes(head[4:8], 'little')}, expected {VERSION}")
    entries = int.from_bytes(head[8:16], "little") + int.from_bytes(head[16:24], "little")
    if entries * SMALLEST_ENTRY > size:
        raise InputError(f"`{path}` claims {entries} entries in {size} bytes", hint="the file is damaged")
    try:
        reader = ArrayReader(path)
    except (ValueError, KeyError, IndexError, OverflowError, MemoryError) as error:
        raise InputError(
            f"`{path}` is cut short or damaged: its {size} bytes do not hold what its header claims ({error})",
            hint="copy or make the file again",
        ) from error
    _check_regions(path, reader, size)
    return reader


def _check_regions(path: Path, reader: gguf.GGUFReader, size: int) -> None:
    end = int(reader.data_offset)
    for tensor in sorted(reader.tensors, key=lambda tensor: int(tensor.data_offset)):
        start = int(tensor.data_offset)
        if start < end or start + int(tensor.n_bytes) > size:
            raise InputError(
                f"`{path}`: tensor `{tensor.name}` claims bytes {start} to {start + int(tensor.n_bytes)}, but the data "
                f"before it ends at {end} and the file at {size}",
                hint="copy or make the file again",
            )
        end = start + int(tensor.n_bytes)


def slot(reader: gguf.GGUFReader) -> tuple[int, int] | None:
    """Offset and length of the summary's bytes, or `None` when the file carries no slot."""
    field = reader.get_field(SUMMARY_KEY)
    if field is None or field.types != [gguf.GGUFValueType.STRING]:
        return None
    return int(field.offset) + sum(int(part.nbytes) for part in field.parts[:-1]), int(field.parts[-1].nbytes)


def read_summary(path: Path) -> str | None:
    """The embedded JSON without its padding: `{}` before validation, `None` when the file carries no slot."""
    field = open_gguf(path).get_field(SUMMARY_KEY)
    return None if field is None else str(field.contents()).rstrip(" ")


def embed_summary(path: Path, summary: str) -> None:
    """Put `summary` (JSON, at most 2048 bytes of UTF-8) into the slot; every other byte stays where it is.

    Raises `UnsupportedError` when the file was written without a slot.
    """
    place = slot(open_gguf(path))
    if place is None or place[1] != SUMMARY_BYTES:
        raise UnsupportedError(
            f"`{path}` has no place for a validation summary", hint="only GGUF files that bitwright wrote carry one"
        )
    with atomic_file(path) as target:
        with open(path, "rb") as source:
            shutil.copyfileobj(source, target, 1 << 22)
        target.seek(place[0])
        target.write(padded(summary))


def tensor_data_sha256(path: Path) -> str:
    """Hex SHA-256 from the first byte of tensor data to the end of the file."""
    return sha256_file(path, start=int(open_gguf(path).data_offset))


def header_sha256(path: Path, reader: gguf.GGUFReader) -> str:
    """Hex SHA-256 of everything before the tensor data, the summary taken as empty: the same before and after it."""
    with open(path, "rb") as handle:
        head = bytearray(handle.read(int(reader.data_offset)))
    place = slot(reader)
    if place is not None:
        head[place[0] : place[0] + place[1]] = b" " * place[1]
    return hashlib.sha256(head).hexdigest()
