"""Documents: the frozen, versioned JSON records that rooms hand to each other.

A document is a `msgspec.Struct` with a `schema` field such as `bitwright.plan/1`. Unknown keys are errors, so a newer
file is refused with a clear line rather than half understood. Keys are written in declaration order and floats in
their shortest form, so equal documents are equal bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from bitwright.core.atomic import write_bytes
from bitwright.core.errors import InputError, from_os_error


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a document."""


class Document(Record, frozen=True, kw_only=True):
    """A whole file. Subclasses give `schema` a default; reading checks it."""

    schema: str = ""


D = TypeVar("D", bound=Document)


def to_json(document: Document) -> bytes:
    """The bytes that are written to disk and printed by `--json`."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def write_document(document: Document, path: Path) -> None:
    """Write the document atomically."""
    write_bytes(path, to_json(document))


def read_document(kind: type[D], path: Path) -> D:
    """Read and check a document. Raises `InputError` on a missing file, broken JSON, another schema or odd fields."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise from_os_error(error, path) from error
    expected = kind.__struct_defaults__[kind.__struct_fields__.index("schema") - len(kind.__struct_fields__)]
    try:
        head = msgspec.json.decode(data, type=dict[str, object])
        if head.get("schema") != expected:
            raise InputError(
                f"`{path}` has schema {head.get('schema')!r}, expected {expected!r}",
                hint="the file was written by another version, or is not this kind of document",
            )
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise InputError(f"`{path}` is not a valid {expected} document: {error}") from error
