"""What a Hugging Face folder holds, from its small bytes alone: `config.json` and the headers of safetensors files.

A safetensors file is: header length (8 bytes, little-endian, unsigned); that many bytes of JSON, which maps each tensor
name to dtype, shape and data_offsets (begin, end, from the end of the header), and may hold a `__metadata__` of
strings; then the data, without holes or overlaps, to the last byte of the file. The reader believes nothing: lengths
are checked against the file before anything is allocated, and pickle files are never opened.

Not here: what the tensors mean (model.py), reading weights (formats/).
Source: safetensors 0.5 README ("Format") and its `Metadata::validate`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import struct
from pathlib import Path
from typing import Any

from bitwright.core.errors import BitwrightError, InputError, did_you_mean, from_os_error
from bitwright.core.plan import TensorFacts

GGUF_MAGIC = b"GGUF"
SAMPLES, SAMPLE_BYTES = 512, 64  # per weight file, for the fingerprint: every matrix of a 7B shard is touched
CONFIG = "config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth")
MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library itself
DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2, "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
_DAMAGED = "the file is damaged or the download was cut short: fetch it again"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Config, tensors, and a SHA-256 over config bytes, header bytes and file sizes."""

    config: dict[str, Any]
    tensors: tuple[TensorFacts, ...]
    fingerprint: str


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read config and headers. Raises `InputError` on anything that is missing, damaged or inconsistent."""
    config = read_config(folder)
    digest = hashlib.sha256(_read_bytes(folder / CONFIG))
    tensors: list[TensorFacts] = []
    for name in _weight_files(folder):
        path = folder / name
        length, raw, size = _read_header(path)
        digest.update(f"\0{name}\0{size}\0".encode())
        digest.update(raw)
        digest.update(weight_samples(path, 8 + length, size))
        tensors += _parse_header(path, raw, size - 8 - length)
    _check_index(folder, tensors)
    return Checkpoint(config=config, tensors=tuple(tensors), fingerprint=digest.hexdigest())


def is_gguf(path: Path) -> bool:
    """Whether `path` is a GGUF file, or a folder with one and without a config.json."""
    if path.is_dir():
        return not (path / CONFIG).exists() and any(path.glob("*.gguf"))
    if path.suffix == ".gguf":
        return True
    try:
        with open(path, "rb") as handle:
            return handle.read(len(GGUF_MAGIC)) == GGUF_MAGIC
    except OSError:
        return False


def weight_samples(path: Path, start: int, size: int) -> bytes:
    """A few bytes at even distances: two tunes of one model differ in their weights alone, and must be told apart."""
    step = max((size - start) // SAMPLES, SAMPLE_BYTES)
    with open(path, "rb") as handle:
        parts = []
        for offset in range(start, size, step):
            handle.seek(offset)
            parts.append(handle.read(SAMPLE_BYTES))
    return b"".join(parts)


def read_headers(folder: Path) -> tuple[TensorFacts, ...]:
    """All tensors of the folder's safetensors files. Raises `InputError`."""
    return read_checkpoint(folder).tensors


def read_file(path: Path) -> tuple[TensorFacts, ...]:
    """All tensors of one safetensors file, in file order. Raises `InputError`."""
    length, raw, size = _read_header(path)
    return tuple(_parse_header(path, raw, size - 8 - length))


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON object without duplicate keys. Raises `InputError`."""
    return _read_object(path)


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` as a dictionary. Raises `InputError` when folder or file is missing, or the JSON is broken."""
    if not folder.exists():
        raise InputError(f"`{folder}` does not exist", hint="give the folder of a Hugging Face checkpoint")
    if not folder.is_dir():
        raise InputError(
            f"`{folder}` is a file, expected a folder", hint="give the folder that holds config.json and the weights"
        )
    if not (folder / CONFIG).exists():
        raise InputError(
            f"`{folder}` has no {CONFIG}",
            hint="give the folder of a Hugging Face checkpoint: config.json + safetensors",
        )
    return _read_object(folder / CONFIG)


def _weight_files(folder: Path) -> list[str]:
    """Names of the files that hold weights, sorted."""
    if (folder / SINGLE).exists():
        return [SINGLE]
    if (folder / INDEX).exists():
        names = sorted(set(_weight_map(folder).values()))
        for name in names:
            if not (folder / name).is_file():
                raise InputError(f"`{folder / INDEX}` names `{name}`, which is absent", hint="fetch the missing shard")
        return names
    other = sorted(path.name for path in folder.glob("*.safetensors"))
    if other:
        raise InputError(
            f"`{folder}` holds `{other[0]}` but neither {SINGLE} nor {INDEX}", hint=f"fetch the missing {INDEX}"
        )
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        raise InputError(
            f"`{folder}` holds weights only as pickle (`{pickles[0]}`), which can run code and is never loaded",
            hint="convert the checkpoint to safetensors: model.save_pretrained(folder) of a recent transformers",
        )
    raise InputError(f"`{folder}` holds no weights", hint=f"expected {SINGLE}, or {INDEX} and its shards")


def _weight_map(folder: Path) -> dict[str, str]:
    path = folder / INDEX
    weight_map = _read_object(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"`{path}` has no weight_map", hint=_DAMAGED)
    for tensor, file in weight_map.items():
        if not isinstance(file, str) or Path(file).name != file or "\\" in file:
            raise InputError(f"`{path}` places `{tensor}` in {file!r}, expected a file name", hint=_DAMAGED)
    return weight_map


def _read_header(path: Path) -> tuple[int, bytes, int]:
    """Header length, header bytes, file size."""
    try:
        with open(path, "rb") as handle:
            size = path.stat().st_size
            if size < 8:
                raise InputError(f"`{path}` has {size} bytes, too few for a safetensors file", hint=_DAMAGED)
            (length,) = struct.unpack("<Q", handle.read(8))
            limit = min(size - 8, MAX_HEADER_BYTES)
            if length > limit:
                raise InputError(
                    f"`{path}` claims a header of {length} bytes, at most {limit} are possible", hint=_DAMAGED
                )
            return length, handle.read(length), size
    except OSError as error:
        raise _unreadable(error, path) from error


def _parse_header(path: Path, raw: bytes, data_bytes: int) -> list[TensorFacts]:
    """Tensors in file order, after checking dtypes, shapes, sizes, and that offsets tile the data."""
    header = _parse_object(path, raw)
    header.pop("__metadata__", None)
    placed = sorted((_entry(path, name, entry) for name, entry in header.items()), key=lambda item: (item[0], item[1]))
    reached = 0
    for begin, end, tensor in placed:
        if end > data_bytes:
            raise InputError(
                f"`{path}` is truncated: `{tensor.name}` ends at byte {end} of the data, the file has {data_bytes}",
                hint=_DAMAGED,
            )
        if begin != reached:
            flaw = "overlaps the tensor before it" if begin < reached else "leaves a hole before it"
            raise InputError(f"`{path}`: `{tensor.name}` {flaw} (begins at {begin}, expected {reached})", hint=_DAMAGED)
        reached = end
    if reached != data_bytes:
        raise InputError(f"`{path}` has {data_bytes - reached} bytes that belong to no tensor", hint=_DAMAGED)
    return [tensor for _, _, tensor in placed]


def _entry(path: Path, name: str, entry: Any) -> tuple[int, int, TensorFacts]:
    """Begin, end and facts of one header entry."""
    if not isinstance(entry, dict):
        raise InputError(f"`{path}`: the header entry of `{name}` is not an object", hint=_DAMAGED)
    dtype: Any = entry.get("dtype")
    shape: Any = entry.get("shape")
    offsets: Any = entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise InputError(
            f"`{path}`: `{name}` has unknown dtype {dtype!r}", hint=did_you_mean(str(dtype), [*DTYPE_BYTES])
        )
    if not _counts(shape) or not _counts(offsets) or len(offsets) != 2:
        raise InputError(f"`{path}`: `{name}` has shape {shape!r} and data_offsets {offsets!r}", hint=_DAMAGED)
    begin, end = offsets
    expected = math.prod(shape) * DTYPE_BYTES[dtype]
    if end - begin != expected:
        raise InputError(
            f"`{path}`: `{name}` holds {end - begin} bytes, {dtype} of shape {shape} needs {expected}", hint=_DAMAGED
        )
    return begin, end, TensorFacts(name=name, shape=tuple(shape), dtype=dtype, file=path.name, bytes=expected)


def _counts(value: Any) -> bool:
    """Whether `value` is a list of whole numbers, none negative."""
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _check_index(folder: Path, tensors: list[TensorFacts]) -> None:
    """Each tensor once, and where the index says."""
    seen: dict[str, str] = {}
    for tensor in tensors:
        if tensor.name in seen:
            raise InputError(
                f"`{folder}`: `{tensor.name}` is in both `{seen[tensor.name]}` and `{tensor.file}`", hint=_DAMAGED
            )
        seen[tensor.name] = tensor.file
    if (folder / SINGLE).exists():
        return
    weight_map = _weight_map(folder)
    for name, file in weight_map.items():
        if seen.get(name) != file:
            raise InputError(f"`{folder / INDEX}` places `{name}` in `{file}`, which lacks it", hint=_DAMAGED)
    for name in seen.keys() - weight_map.keys():
        raise InputError(f"`{folder / seen[name]}` holds `{name}`, which {INDEX} does not name", hint=_DAMAGED)


def _read_object(path: Path) -> dict[str, Any]:
    return _parse_object(path, _read_bytes(path))


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(error, path) from error


def _unreadable(error: OSError, path: Path) -> BitwrightError:
    if isinstance(error, PermissionError):
        return InputError(f"`{path}` cannot be read: {error.strerror}", hint="check the file's permissions")
    return from_os_error(error, path)


def _parse_object(path: Path, raw: bytes) -> dict[str, Any]:
    """A JSON object without duplicate keys at its top level."""
    try:
        value = json.loads(raw, object_pairs_hook=lambda pairs: _unique(path, pairs))
    except (ValueError, RecursionError) as error:
        raise InputError(f"`{path}` holds broken JSON: {error}", hint=_DAMAGED) from error
    if not isinstance(value, dict):
        raise InputError(f"`{path}` holds a JSON {type(value).__name__}, expected an object", hint=_DAMAGED)
    return value


def _unique(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"`{path}` names `{twice}` twice", hint=_DAMAGED)
    return value
