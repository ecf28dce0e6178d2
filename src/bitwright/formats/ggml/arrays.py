"""gguf-py's reader, with the arrays of a header (the vocabulary, its merges and scores) read as a whole.

The library makes two numpy arrays of every string and one of every number: 158 MiB and two seconds for a vocabulary of
49152, where the file's header has 1.3 MB, and a model of 200 thousand tokens takes four times as much. Here a number
array is one numpy array and a string a slice of the mapped file. `ReaderField.contents()` gives the same.

Overridden is a private method, `_get_field_parts`; a library without it is only slow again. The test holds every field
against the library's own reader.
Source: gguf-py, gguf/gguf_reader.py; figures from our log.
"""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np

LENGTH = 8  # bytes of a count, little-endian
KIND = 4  # bytes of an array's element type
Parts = tuple[int, list[Any], list[int], list[gguf.GGUFValueType]]


class ArrayReader(gguf.GGUFReader):  # type: ignore[misc]  # the library is untyped
    """A `GGUFReader` of little-endian files. Raises `ValueError` for arrays that the file does not hold."""

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> Parts:
        """Bytes taken, parts, which of them are the data, types: of the value at an offset."""
        if raw_type != gguf.GGUFValueType.ARRAY:
            plain: Parts = super()._get_field_parts(orig_offs, raw_type)
            return plain
        at = int(orig_offs)
        kind = gguf.GGUFValueType(int(self._get(at, np.uint32)[0]))
        count = int(self._get(at + KIND, np.uint64)[0])
        start = at + KIND + LENGTH
        types = [gguf.GGUFValueType.ARRAY, kind] if count else [gguf.GGUFValueType.ARRAY]
        if kind == gguf.GGUFValueType.STRING:
            strings, end = self._strings(start, count)
            return end - at, strings, list(range(count)), types
        if kind not in self.gguf_scalar_to_np:
            nested: Parts = super()._get_field_parts(orig_offs, raw_type)
            return nested
        values = self._get(start, self.gguf_scalar_to_np[kind], count)
        if len(values) != count:
            raise ValueError(f"an array of {count} values has {len(values)}")
        return start + int(values.nbytes) - at, [values], [0] if count else [], types

    def _strings(self, start: int, count: int) -> tuple[list[memoryview], int]:
        """`count` strings from `start` on, and where they end."""
        held, size, at = memoryview(self.data), len(self.data), start
        if count * LENGTH > size:
            raise ValueError(f"an array of {count} strings in {size} bytes")
        found = []
        for _ in range(count):
            begin = at + LENGTH
            at = begin + int.from_bytes(held[at:begin], "little")
            if begin > size or at > size:
                raise ValueError(f"a string ends at {at} of {size} bytes")
            found.append(held[begin:at])
        return found, at
