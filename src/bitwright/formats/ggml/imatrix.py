"""Importance matrices of llama.cpp: for every matrix, the sum of squares of each of its inputs over the tokens seen.

GGUF form, `general.type` = "imatrix":
    <name>.in_sum2   F32 [experts, I]   Σ x² per input        <name>.counts   F32 [experts]   rows that were counted
    keys             imatrix.datasets, imatrix.chunk_count, imatrix.chunk_size
Binary form of earlier versions (`.dat`), little-endian:
    i32 entries; per entry: i32 length, name, i32 calls, i32 values, f32 × values (mean square times calls)
    then, optionally: i32 chunks, i32 length, name of the text
`<name>` is the tensor's name in a GGUF model file; columns are never permuted there, so they are those of the Hugging
Face tensor. A matrix or expert that no token reached counts every input alike, as in llama-quantize.

Sizes in a file are held against the file before anything is allocated. `.in_sum` (means) and `.stats` are not read.

Not here: taking the sums (pipeline/imatrix.py), using them (quantize/solve.py).
Dimension key: E experts · I inputs
Source: llama.cpp tools/imatrix/imatrix.cpp (save_imatrix, save_imatrix_legacy), common/imatrix-loader.cpp,
tools/quantize/quantize.cpp (load_imatrix), build 11434.
"""

from __future__ import annotations

import dataclasses
import struct
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from bitwright.core.atomic import write_bytes
from bitwright.core.errors import InputError, MismatchError, from_os_error
from bitwright.core.plan import Plan, TensorPlan
from bitwright.facts.families import expert_of, gguf_name, gguf_tensor
from bitwright.formats.ggml.summary import MAGIC, open_gguf

SUMS, COUNTS = ".in_sum2", ".counts"
DATASETS, CHUNKS, CHUNK_SIZE = "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"
LONGEST_NAME = 4096
_DAMAGED = "the file is damaged or cut short: make it again"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Sums of squares of one matrix, float32 [E, I], and the rows that each expert saw, [E]."""

    sums_EI: NDArray[np.float32]
    counts_E: NDArray[np.float32]

    def mean_squares(self) -> NDArray[np.float32]:
        """[E, I]; ones for an expert that saw nothing."""
        counts_E1 = self.counts_E[:, None]
        means_EI: NDArray[np.float32] = np.divide(
            self.sums_EI, counts_E1, out=np.ones_like(self.sums_EI), where=counts_E1 > 0
        )
        return means_EI


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImportanceMatrix:
    """A whole file. `entries` by GGUF name; `chunk_size` is tokens per window, 0 where the file does not say."""

    entries: Mapping[str, Entry]
    datasets: tuple[str, ...] = ()
    chunks: int = 0
    chunk_size: int = 0


def read_imatrix(path: Path) -> ImportanceMatrix:
    """Read either form. Raises `InputError` for what is neither, damaged, or holds values that make no sense."""
    try:
        with open(path, "rb") as handle:
            magic = handle.read(len(MAGIC))
    except OSError as error:
        raise from_os_error(error, path) from error
    found = _read_gguf(path) if magic == MAGIC else _read_binary(path)
    if not found.entries:
        raise InputError(f"`{path}` holds no importance of any tensor", hint="make it with llama-imatrix")
    for name, entry in found.entries.items():
        sound = np.isfinite(entry.sums_EI).all() and (entry.sums_EI >= 0).all() and (entry.counts_E >= 0).all()
        if not sound or not np.isfinite(entry.counts_E).all():
            raise InputError(f"`{path}`: sums or counts of `{name}` are negative or not finite", hint=_DAMAGED)
    return found


def importances(
    found: ImportanceMatrix, path: Path, plans: Iterable[TensorPlan], family: str = "llama"
) -> dict[str, NDArray[np.float32]]:
    """Mean square of every input, [I], by Hugging Face name, for the planned matrices that the file speaks of.

    Plans name tensors as GGUF or as modules, so the names come from `gguf_name`; an expert has its own row. Raises
    `MismatchError` when the file is of another model.
    """
    entries = list(plans)
    experts = max((expert_of(entry.name) or 0 for entry in entries), default=0) + 1
    weights = {}
    for entry in entries:
        held = found.entries.get(gguf_tensor(gguf_name(entry.name, family))) if len(entry.shape) == 2 else None
        if held is None:
            continue
        expert = expert_of(entry.name)
        if held.sums_EI.shape != (1 if expert is None else experts, entry.shape[1]):
            raise MismatchError(
                f"`{path}` knows {list(held.sums_EI.shape)} inputs of `{entry.name}`, the model has {entry.shape[1]}",
                hint="the importance matrix was made from another model",
            )
        if expert is None or held.counts_E[expert] > 0:
            weights[entry.name] = held.mean_squares()[expert or 0]
    if not weights:
        raise MismatchError(
            f"`{path}` speaks of no tensor of this model", hint="the importance matrix was made from another model"
        )
    return weights


def planned_importances(plan: Plan) -> dict[str, NDArray[np.float32]]:
    """What the importance matrix that a plan names says of its tensors; nothing where it names none."""
    path = Path(plan.calibration.imatrix)
    return importances(read_imatrix(path), path, plan.tensors, plan.model.family) if plan.calibration.imatrix else {}


def write_imatrix(found: ImportanceMatrix, path: Path) -> None:
    """Write the GGUF form, atomically; entries by name, so that equal matrices are equal bytes."""
    writer = _Writer(None, "imatrix")
    writer.add_type("imatrix")
    writer.add_array(DATASETS, list(found.datasets) or [""])
    writer.add_uint32(CHUNKS, found.chunks)
    writer.add_uint32(CHUNK_SIZE, found.chunk_size)
    for name, entry in sorted(found.entries.items()):
        one = len(entry.counts_E) == 1
        writer.add_tensor(name + SUMS, entry.sums_EI[0] if one else entry.sums_EI)
        writer.add_tensor(name + COUNTS, entry.counts_E if one else entry.counts_E[:, None])
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "imatrix.gguf"
        writer.write_header_to_file(whole)
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        write_bytes(path, whole.read_bytes())


class _Writer(gguf.GGUFWriter):  # type: ignore[misc]
    def add_architecture(self) -> None:
        """None: the file is no model."""


def _read_gguf(path: Path) -> ImportanceMatrix:
    reader = open_gguf(path)
    kind = reader.get_field("general.type")
    if kind is None or kind.contents() != "imatrix":
        raise InputError(
            f"`{path}` is a GGUF file, but no importance matrix",
            hint="give a file that llama-imatrix or `bitwright imatrix` wrote",
        )
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    entries = {}
    for stored, tensor in tensors.items():
        if not stored.endswith(SUMS):
            continue
        name = stored.removesuffix(SUMS)
        counts = tensors.get(name + COUNTS)
        floats = gguf.GGMLQuantizationType.F32
        if counts is None or tensor.tensor_type != floats or counts.tensor_type != floats:
            raise InputError(f"`{path}`: `{name}` lacks its counts, or is not F32", hint=_DAMAGED)
        sums, counted = np.array(tensor.data).reshape(-1), np.array(counts.data).reshape(-1)
        if not sums.size or not counted.size or sums.size % counted.size:
            raise InputError(f"`{path}`: {sums.size} sums of `{name}` for {counted.size} counts", hint=_DAMAGED)
        entries[name] = Entry(sums_EI=sums.reshape(counted.size, -1), counts_E=counted)
    return ImportanceMatrix(
        entries=entries,
        datasets=tuple(_value(reader, DATASETS, [])),
        chunks=int(_value(reader, CHUNKS, 0)),
        chunk_size=int(_value(reader, CHUNK_SIZE, 0)),
    )


def _value(reader: gguf.GGUFReader, key: str, default: Any) -> Any:
    field = reader.get_field(key)
    return default if field is None else field.contents()


def _read_binary(path: Path) -> ImportanceMatrix:
    data = path.read_bytes()
    cursor = _Cursor(path, data)
    entries: dict[str, Entry] = {}
    for _ in range(cursor.count("entries", least=12)):
        name = cursor.text("name of an entry")
        calls = cursor.integer("calls")
        values = cursor.floats(f"values of `{name}`")
        if name in entries or not values.size or calls < 0:
            raise InputError(f"`{path}`: `{name}` occurs twice, is empty, or was never called", hint=_DAMAGED)
        entries[name] = Entry(sums_EI=values[None], counts_E=np.array([max(calls, 1)], dtype=np.float32))
    chunks = cursor.integer("chunks") if cursor.left >= 4 else 0
    datasets = (cursor.text("name of the text"),) if cursor.left >= 4 else ()
    return ImportanceMatrix(entries=entries, datasets=datasets, chunks=max(chunks, 0))


class _Cursor:
    """Reads the binary form, never past its end."""

    def __init__(self, path: Path, data: bytes) -> None:
        self._path, self._data, self._at = path, data, 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def integer(self, what: str) -> int:
        return int(struct.unpack("<i", self._take(4, what))[0])

    def count(self, what: str, least: int) -> int:
        """How many items of at least `least` bytes follow."""
        found = self.integer(what)
        if found < 0 or found * least > self.left:
            raise InputError(
                f"`{self._path}` claims {found} {what} in {self.left} bytes",
                hint="expected an importance matrix of llama.cpp, as GGUF or .dat",
            )
        return found

    def text(self, what: str) -> str:
        length = self.count(what, 1)
        raw = self._take(min(length, LONGEST_NAME), what)
        self._take(length - len(raw), what)
        return raw.decode(errors="replace")

    def floats(self, what: str) -> NDArray[np.float32]:
        raw = self._take(4 * self.count(what, 4), what)
        return np.frombuffer(raw, dtype="<f4").astype(np.float32)

    def _take(self, size: int, what: str) -> bytes:
        if size > self.left:
            raise InputError(f"`{self._path}` ends inside the {what}", hint=_DAMAGED)
        self._at += size
        return self._data[self._at - size : self._at]
