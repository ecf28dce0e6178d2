"""`gguf.GGUFWriter` with long arrays packed at once: the vocabulary and merges of a tokenizer are 10^5 values, and the
library packs one at a time, half a second for what is a tenth here. The bytes are the same.

Source: gguf-py (GGUFWriter._pack_val), gguf 0.19.
"""

from __future__ import annotations

import struct
from typing import Any

import gguf

STRING, ARRAY, INT32 = gguf.GGUFValueType.STRING, gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.INT32


class KeyWriter(gguf.GGUFWriter):  # type: ignore[misc]
    """Writes little-endian headers; arrays of text and of whole numbers take the short way."""

    def _pack_val(self, val: Any, vtype: Any, add_vtype: bool, sub_type: Any = None) -> bytes:
        kind = _kind(val) if vtype == ARRAY and sub_type is None and self.endianess == gguf.GGUFEndian.LITTLE else None
        if kind is None:
            packed: bytes = super()._pack_val(val, vtype, add_vtype, sub_type)
            return packed
        head = struct.pack("<I", ARRAY) if add_vtype else b""
        head += struct.pack("<IQ", kind, len(val))
        if kind == INT32:
            return head + struct.pack(f"<{len(val)}i", *val)
        lengthed = []
        for text in val:
            raw = text.encode()
            lengthed += [len(raw).to_bytes(8, "little"), raw]
        return head + b"".join(lengthed)


def _kind(values: Any) -> Any:
    """The type of a list whose items are all alike, where it is one of the two."""
    if not isinstance(values, list) or not values:
        return None
    kinds = set(map(type, values))
    if kinds == {str}:
        return STRING
    return INT32 if kinds == {int} else None
