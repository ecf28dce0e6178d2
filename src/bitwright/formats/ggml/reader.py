"""Weights of a GGUF file under their Hugging Face names, decoded by `gguf` and not by us.

A file is enough: config comes from its keys, and the tensors tell whether the head is tied and whether q, k and v have
biases. Rows of q and k of the architecture llama go back to the Hugging Face order, norms of Gemma lose the one that
was added, and experts come apart. Every value is checked to be finite, because one bad scale would only show as a
strange perplexity.

Not here: opening and its checks (summary.py), keys (metadata.py).
Source: gguf-py (GGUFReader, dequantize).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray

from bitwright.core.documents import Record
from bitwright.core.errors import InputError, UnsupportedError
from bitwright.core.plan import ModelFacts, TensorFacts
from bitwright.facts.checkpoint import weight_samples
from bitwright.facts.families import FAMILIES
from bitwright.facts.model import experts_of
from bitwright.formats.ggml.metadata import ROPE_TENSOR, config_from_metadata
from bitwright.formats.ggml.names import inverse_permutation, rotary_heads, to_hugging_face
from bitwright.formats.ggml.summary import SUMMARY_KEY, header_sha256, open_gguf, read_summary

PATTERN = ".attention.sliding_window_pattern"
NORM, SHARED_GATE = "norm.weight", "ffn_gate_inp_shexp.weight"
EMBEDDING, HEAD, BIASED = "token_embd.weight", "output.weight", "blk.0.attn_q.bias"
LONGEST_SHOWN = 200  # characters of a metadata text in a description


class GgufSource:
    """`WeightSource` over one GGUF file."""

    def __init__(self, path: Path) -> None:
        """Raises `InputError` for a damaged file and `UnsupportedError` for an unknown architecture or tensor."""
        self.path = path
        self._reader = open_gguf(path)
        self._tensors = _parts(self._reader)
        if EMBEDDING not in self._tensors:
            raise InputError(f"`{path}` has no tensor `{EMBEDDING}`", hint="the file is not a whole language model")
        factors = self._decode(ROPE_TENSOR) if ROPE_TENSOR in self._tensors else None
        self._config = config_from_metadata(
            scalars(self._reader) | _patterns(self._reader),
            vocab=self._tensors[EMBEDDING].shape[0],
            tied=HEAD not in self._tensors,
            biased=BIASED in self._tensors,
            factors=factors,
        )
        self._family = FAMILIES[self._config["model_type"]]
        self._experts = experts_of(self._config, self._family, path)
        known = to_hugging_face(self._family.name, self._config["num_hidden_layers"], self._experts)
        strange = [name for name in self._tensors if name not in known and name != ROPE_TENSOR]
        if strange:
            raise UnsupportedError(f"`{path}`: tensor `{strange[0]}` is none that this architecture has")
        self._stored = {known[name]: name for name in self._tensors if name != ROPE_TENSOR}
        self._facts = self._describe_model()

    @property
    def facts(self) -> ModelFacts:
        """Dimensions and tensors; `dtype` is the type that holds most parameters."""
        return self._facts

    @property
    def config(self) -> dict[str, Any]:
        """A `config.json` that transformers builds the model from."""
        return dict(self._config)

    def names(self) -> Iterable[str]:
        """Hugging Face names, in file order."""
        return self._stored.keys()

    def stored_name(self, name: str) -> str:
        """The name in the file of a tensor under its Hugging Face name."""
        stored: str = self._stored[name]
        return stored

    def load(self, name: str) -> torch.Tensor:
        """The decoded tensor, float32, in the Hugging Face shape and row order.

        Raises `InputError` when it is absent or not finite.
        """
        if name not in self._stored:
            raise InputError(f"`{self.path}` holds no tensor `{name}`", hint="the file is not a whole language model")
        values = self._decode(self._stored[name])
        config = self._config
        heads = rotary_heads(config["model_type"], name, config["num_attention_heads"], config["num_key_value_heads"])
        if heads is not None:
            values = values[inverse_permutation(values.shape[0], heads)]
        if self._family.norm_offset and name.endswith(NORM):
            values = values - np.float32(self._family.norm_offset)
        return torch.from_numpy(values)

    def _decode(self, stored: str) -> NDArray[np.float32]:
        part = self._tensors[stored]
        kind = part.tensor.tensor_type
        try:
            with np.errstate(all="ignore"):
                values = np.require(gguf.dequantize(part.data, kind), np.float32, "W")  # mapped values are copied
        except NotImplementedError as error:
            raise UnsupportedError(f"`{self.path}`: type {kind.name} of `{stored}` has no decoder") from error
        if not np.isfinite(values).all():
            raise InputError(
                f"`{self.path}`: tensor `{stored}` holds values that are not finite", hint="the file is damaged"
            )
        return values.reshape(part.shape)

    def rotary_factors(self) -> NDArray[np.float32] | None:
        """What each rotary frequency is divided by, as stored, or `None`."""
        return self._decode(ROPE_TENSOR) if ROPE_TENSOR in self._tensors else None

    @property
    def reader(self) -> gguf.GGUFReader:
        """Header and tensor table, for writers that carry metadata over."""
        return self._reader

    def _fingerprint(self) -> str:
        """Over the header and samples of the weights: two tunes of one model may share a header."""
        size = self.path.stat().st_size
        samples = weight_samples(self.path, int(self._reader.data_offset), size)
        return hashlib.sha256(header_sha256(self.path, self._reader).encode() + samples).hexdigest()

    def _describe_model(self) -> ModelFacts:
        config = self._config
        tensors = tuple(
            TensorFacts(
                name=name,
                shape=self._tensors[stored].shape,
                dtype=self._tensors[stored].tensor.tensor_type.name,
                file=self.path.name,
                bytes=self._tensors[stored].bytes,
            )
            for name, stored in self._stored.items()
        )
        counts = _counts(self._reader)
        return ModelFacts(
            path=str(self.path),
            architecture=config["architectures"][0],
            family=config["model_type"],
            layers=config["num_hidden_layers"],
            hidden=config["hidden_size"],
            intermediate=config["intermediate_size"],
            heads=config["num_attention_heads"],
            kv_heads=config["num_key_value_heads"],
            head_dim=config["head_dim"],
            vocab=config["vocab_size"],
            context=config["max_position_embeddings"],
            tied=config["tie_word_embeddings"],
            parameters=sum(count.parameters for count in counts),
            bytes=sum(count.bytes for count in counts),
            dtype=max(counts, key=lambda count: count.parameters).type,
            tensors=tensors,
            fingerprint=self._fingerprint(),
            experts=self._experts,
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """A tensor of the file, or one expert's slice of it. `shape` is Hugging Face's."""

    tensor: gguf.ReaderTensor
    shape: tuple[int, ...]
    expert: int | None = None

    @property
    def data(self) -> NDArray[np.generic]:
        held: NDArray[np.generic] = self.tensor.data
        return held if self.expert is None else held[self.expert]

    @property
    def bytes(self) -> int:
        return int(self.tensor.n_bytes) // (1 if self.expert is None else int(self.tensor.shape[-1]))


def _parts(reader: gguf.GGUFReader) -> dict[str, _Part]:
    """Every tensor by name, and the experts of a tensor of three dimensions each by its own."""
    found: dict[str, _Part] = {}
    for tensor in reader.tensors:
        shape = tuple(int(size) for size in reversed(tensor.shape))
        if len(shape) == 3:
            for expert in range(shape[0]):
                found[f"{tensor.name}[{expert}]"] = _Part(tensor=tensor, shape=shape[1:], expert=expert)
        else:
            gate = tensor.name.endswith(SHARED_GATE) and len(shape) == 1
            found[tensor.name] = _Part(tensor=tensor, shape=(1, *shape) if gate else shape)
    return found


class TypeCount(Record, frozen=True, kw_only=True):
    """All tensors of one type in a file."""

    type: str
    tensors: int
    parameters: int
    bytes: int


class GgufDescription(Record, frozen=True, kw_only=True):
    """What a GGUF file says of itself, for `inspect`. Bits per weight count tensor data only."""

    path: str
    architecture: str
    name: str
    file_bytes: int
    data_bytes: int
    parameters: int
    bits_per_weight: float
    types: tuple[TypeCount, ...]
    metadata: dict[str, str | int | float | bool]
    summary: str | None  # JSON embedded by validation: `{}` before it, `None` without a slot


def describe(path: Path) -> GgufDescription:
    """Header facts of any GGUF file; no tensor is decoded. Raises `InputError`."""
    reader = open_gguf(path)
    metadata = scalars(reader)
    counts = _counts(reader)
    parameters, data_bytes = sum(count.parameters for count in counts), sum(count.bytes for count in counts)
    shown: dict[str, str | int | float | bool] = {}
    for key, value in metadata.items():
        if key != SUMMARY_KEY:
            shown[key] = value[:LONGEST_SHOWN] + "…" if isinstance(value, str) and len(value) > LONGEST_SHOWN else value
    return GgufDescription(
        path=str(path),
        architecture=str(metadata.get("general.architecture", "")),
        name=str(metadata.get("general.name", "")),
        file_bytes=path.stat().st_size,
        data_bytes=data_bytes,
        parameters=parameters,
        bits_per_weight=8 * data_bytes / parameters if parameters else 0.0,
        types=counts,
        metadata=shown,
        summary=read_summary(path),
    )


def scalars(reader: gguf.GGUFReader) -> dict[str, str | int | float | bool]:
    """Keys with a single value; arrays (the vocabulary) are left out."""
    return {
        key: field.contents()
        for key, field in reader.fields.items()
        if not key.startswith("GGUF.") and field.types and field.types[0] != gguf.GGUFValueType.ARRAY
    }


def _patterns(reader: gguf.GGUFReader) -> dict[str, Any]:
    """Which blocks see a window only, where the file lists them."""
    return {key: field.contents() for key, field in reader.fields.items() if key.endswith(PATTERN)}


def _counts(reader: gguf.GGUFReader) -> tuple[TypeCount, ...]:
    """Types by their share of parameters, largest first. Rotary factors are constants, not parameters."""
    held: dict[str, list[gguf.ReaderTensor]] = {}
    for tensor in reader.tensors:
        if tensor.name != ROPE_TENSOR:
            held.setdefault(tensor.tensor_type.name, []).append(tensor)
    counts = [
        TypeCount(
            type=kind,
            tensors=len(tensors),
            parameters=sum(int(tensor.n_elements) for tensor in tensors),
            bytes=sum(int(tensor.n_bytes) for tensor in tensors),
        )
        for kind, tensors in held.items()
    ]
    return tuple(sorted(counts, key=lambda count: -count.parameters))
