"""The GGUF file of a plan: its header, where each tensor goes, and each tensor's bytes.

Header: magic, version 3, counts, key-value pairs, tensor table; then tensor data, each tensor at a multiple of 32
bytes. The header is made by `gguf.GGUFWriter` from names, shapes and types alone, so it exists before any tensor. Keys
are those of upstream's converter, in one fixed order: equal inputs give equal bytes.

Norms and biases (one dimension) are stored as F32, because that is what llama.cpp's kernels take. Rows of q and k
of the architecture llama are interleaved (names.py), Gemma's norms are stored plus one, and all experts of a block
lie in one tensor of three dimensions, whose slices are written apart. Scaled rotary embeddings of kind llama3 add the
tensor `rope_freqs.weight`, which no plan lists: `constants()` gives its bytes.

Not here: blocks (blocks.py), tokenizer (tokenizer.py), the verdict's slot (summary.py).
Sources: ggml docs/gguf.md; llama.cpp conversion/base.py (prepare_metadata, prepare_tensors).
"""

from __future__ import annotations

import dataclasses
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
from numpy.typing import NDArray

from bitwright.core.errors import InputError, UnsupportedError
from bitwright.core.plan import Plan, TensorPlan
from bitwright.core.schemes import GGML_BLOCKS, FloatScheme, GgmlScheme, WeightScheme
from bitwright.facts.checkpoint import is_gguf
from bitwright.facts.families import FAMILIES, gguf_tensor
from bitwright.facts.vision import decoder_config
from bitwright.formats.ggml.blocks import pack
from bitwright.formats.ggml.carry import carry_metadata
from bitwright.formats.ggml.keys import KeyWriter
from bitwright.formats.ggml.metadata import ROPE_TENSOR, add_hyperparameters, file_type, rope_factors, rope_parameters
from bitwright.formats.ggml.names import architecture, permutation, rotary_heads, to_gguf
from bitwright.formats.ggml.summary import SUMMARY_KEY, padded
from bitwright.formats.ggml.tokenizer import add_tokenizer, read_json
from bitwright.formats.layout import FileLayout, Region, float_bytes
from bitwright.tensors.qtensor import QTensor

if TYPE_CHECKING:
    from bitwright.formats.ggml.reader import GgufSource

ALIGNMENT = 32
LARGEST = {"F16": 65520.0, "BF16": float.fromhex("0x1.ffp+127")}  # what rounds to infinity, from here on
NORM = "norm.weight"
SHARED_GATE = "ffn_gate_inp_shexp.weight"  # one row here, a vector there
HUB_SNAPSHOT = re.compile(r"models--(?:.+?)--(?P<name>.+)")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Stored:
    """One tensor of the file: type and shape of a part, names of its parts."""

    kind: str
    shape: tuple[int, ...]
    parts: list[str]


class GgufWriter:
    """Lays out one GGUF file for `plan`. `folder` is what the plan was made from: a Hugging Face folder, or a float
    GGUF file, whose keys and tokenizer are carried over unchanged."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        """Raises `InputError` and `UnsupportedError` when config or tokenizer cannot be written as GGUF."""
        self.plan = plan
        self.folder = folder
        self._origin = _origin(folder) if is_gguf(folder) else None
        self._config = (
            decoder_config(read_json(folder / "config.json")) if self._origin is None else self._origin.config
        )
        self._types = {entry.name: ggml_type(entry.scheme) for entry in plan.tensors}
        names = to_gguf(plan.model.family, plan.model.layers, [entry.name for entry in plan.tensors])
        for entry in plan.tensors:
            assert entry.stored_name == names[entry.name], f"{entry.name}: planned as {entry.stored_name}"
            assert len(entry.shape) > 1 or self._types[entry.name] == "F32", f"{entry.name}: vectors stay F32"
        self._rope_factors = (
            rope_factors(rope_parameters(self._config, family=plan.model.family), plan.model.head_dim)
            if self._origin is None
            else self._origin.rotary_factors()
        )

    def layouts(self) -> tuple[FileLayout, ...]:
        """The one file, `model-<type>.gguf`."""
        writer = KeyWriter(None, architecture(self.plan.model.family))
        self._add_metadata(writer)
        regions: dict[str, tuple[int, int]] = {}
        at = 0
        for name, held in self._stored().items():
            size = _stored_bytes(held.kind, held.shape)
            whole = held.shape if held.parts == [name] else (len(held.parts), *held.shape)
            kind = gguf.GGMLQuantizationType[held.kind]
            writer.add_tensor_info(name, whole, np.dtype(np.float32), size * len(held.parts), kind)
            regions |= {part: (at + number * size, size) for number, part in enumerate(held.parts)}
            at += gguf.GGUFWriter.ggml_pad(size * len(held.parts), ALIGNMENT)
        header = _header_bytes(writer)
        start = len(header)
        layout = FileLayout(
            name=f"model-{self.plan.type}.gguf",
            header=header,
            regions={name: Region(offset=start + offset, bytes=size) for name, (offset, size) in regions.items()},
            total_bytes=start + at,
            data_start=start,
        )
        return (layout,)

    def encode(self, entry: TensorPlan, value: QTensor | NDArray[Any]) -> dict[str, bytes]:
        """Bytes of one tensor, rows in stored order.

        Raises `InputError` when a float does not fit the stored type.
        """
        assert value.shape[1:] == entry.shape[1:], f"{entry.name}: {value.shape}, planned {entry.shape}"
        return {entry.stored_name: self.encode_rows(entry, value, 0)}

    def encode_rows(self, entry: TensorPlan, value: QTensor | NDArray[Any], first: int) -> bytes:
        """Bytes of the rows of one tensor from row `first` on, a multiple of `rows_together`. Raises as `encode`."""
        heads = self._rotary_heads(entry)
        order = None if heads is None else permutation(entry.shape[0], heads)[first : first + value.shape[0]] - first
        kind = self._types[entry.name]
        if isinstance(value, QTensor):
            assert value.scheme == GgmlScheme(type=kind), f"{entry.name}: {value.scheme}, planned {entry.scheme}"
            return pack(value if order is None else value.take_rows(order))
        assert kind in ("F32", "F16", "BF16"), f"{entry.name}: a float array for {kind}"
        floats = np.asarray(value, dtype=np.float32)
        offset = FAMILIES[self.plan.model.family].norm_offset
        if offset and entry.name.endswith(NORM):
            floats = floats + np.float32(offset)  # llama.cpp multiplies by what is stored
        _check_range(entry.name, floats, kind)
        return float_bytes(floats if order is None else floats[order], kind.lower())

    def rows_together(self, entry: TensorPlan) -> int:
        """How many rows change places among themselves in the file."""
        heads = self._rotary_heads(entry)
        return 1 if heads is None else entry.shape[0] // heads

    def rows_apart(self, entry: TensorPlan) -> bool:
        """Whether rows keep their order: those of rotary heads do not."""
        return self.rows_together(entry) == 1

    def _rotary_heads(self, entry: TensorPlan) -> int | None:
        model = self.plan.model
        return rotary_heads(model.family, entry.name, model.heads, model.kv_heads)

    def constants(self) -> dict[str, bytes]:
        """Regions that come from no tensor of the checkpoint."""
        return {} if self._rope_factors is None else {ROPE_TENSOR: float_bytes(self._rope_factors, "f32")}

    def sidecars(self) -> dict[str, bytes]:
        """None: a GGUF file carries its own config and tokenizer."""
        return {}

    def _stored(self) -> dict[str, _Stored]:
        """Tensors of the file in its order; the experts of a block are the parts of one."""
        stored: dict[str, _Stored] = {}
        if self._rope_factors is not None:
            stored[ROPE_TENSOR] = _Stored(kind="F32", shape=self._rope_factors.shape, parts=[ROPE_TENSOR])
        for entry in self.plan.tensors:
            kind = self._types[entry.name]
            shape = entry.shape[1:] if entry.stored_name.endswith(SHARED_GATE) else entry.shape
            held = stored.setdefault(gguf_tensor(entry.stored_name), _Stored(kind=kind, shape=shape, parts=[]))
            assert (held.kind, held.shape) == (kind, shape), f"{entry.name}: experts differ"
            held.parts.append(entry.stored_name)
        return stored

    def _add_metadata(self, writer: gguf.GGUFWriter) -> None:
        model = self.plan.model
        if self._origin is not None:
            carry_metadata(writer, self._origin.reader)
            writer.add_file_type(file_type(self.plan.type))
            writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
            writer.add_string(SUMMARY_KEY, padded("{}").decode())
            return
        writer.add_type(gguf.GGUFType.MODEL)
        writer.add_name(model_name(self.folder))
        writer.add_size_label(gguf.size_label(model.parameters, model.parameters, 0, 0))
        add_hyperparameters(writer, model, self._config)
        writer.add_file_type(file_type(self.plan.type))
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        writer.add_string(SUMMARY_KEY, padded("{}").decode())
        add_tokenizer(writer, self.folder, model.vocab)


def _origin(folder: Path) -> GgufSource:
    # with the readers comes torch, which takes a second and serves nothing else here
    from bitwright.formats.ggml.reader import GgufSource
    from bitwright.formats.sniff import gguf_file

    return GgufSource(gguf_file(folder))


def ggml_type(scheme: WeightScheme) -> str:
    """Upstream's name of the stored type. Raises `UnsupportedError` for a scheme that GGUF has no type for."""
    match scheme:
        case FloatScheme():
            return scheme.dtype.upper()
        case GgmlScheme():
            return scheme.type
        case _:
            raise UnsupportedError(f"{scheme.label} has no GGUF type", hint="use --format compressed-tensors")


def model_name(folder: Path) -> str:
    """A name for `general.name`: the folder's, or the repository's when the folder is a snapshot in the hub's cache."""
    resolved = folder.resolve()
    for part in (resolved, *resolved.parents):
        if found := HUB_SNAPSHOT.fullmatch(part.name):
            return found["name"]
    return resolved.name or "model"


def _stored_bytes(kind: str, shape: tuple[int, ...]) -> int:
    elements, size = GGML_BLOCKS[kind]
    assert shape[-1] % elements == 0, f"{shape[-1]} columns do not fill blocks of {elements}"
    return int(np.prod(shape, dtype=np.int64)) // elements * size


def _header_bytes(writer: gguf.GGUFWriter) -> bytes:
    """Everything before the tensor data, padded. The library writes to files only, so a temporary one is read back."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "header.gguf"
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        header = path.read_bytes()
    return header + bytes(-len(header) % ALIGNMENT)


def _check_range(name: str, values: NDArray[np.float32], kind: str) -> None:
    largest = float(np.abs(values).max(initial=0.0))
    if not largest < LARGEST.get(kind, float("inf")):
        raise InputError(
            f"tensor `{name}` holds a value of magnitude {largest:g}, which {kind} cannot hold",
            hint="store it as BF16 or F32" if kind == "F16" else "the checkpoint is damaged: its values are not finite",
        )
