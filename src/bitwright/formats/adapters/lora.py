"""A LoRA adapter of PEFT, merged into any weight source as its tensors are read.

    plain   W + s · B A                                        s = alpha / r, or alpha / √r with `use_rslora`
    DoRA    diag(m / ‖W + s · B A‖ per row) (W + s · B A)      m: the stored magnitudes
    saved   modules that were trained whole replace the base's tensor
    embedding  rows of the table: W + s · (B A)ᵀ

Everything is computed in float32, whatever the base stores, and rounded once, by what comes after. A quantized base (a
bitsandbytes NF4 folder) is merged in its decoded values, which are those that the adapter was trained on (Dettmers et
al. 2023, QLoRA, arXiv:2305.14314).

What cannot be merged exactly is refused by name: initializations that change the base's weights, biases inside the
adapter, added tokens. `fan_in_fan_out` concerns layers that store [in, out]; the families here have none, and PEFT
itself sets it aside for them. Only safetensors are read; adapters as pickle never are.

Not here: reading adapter_config.json (lora_config.py), the base (checkpoint.py and its neighbours).
Dimension key: O outputs · I inputs · R rank
Source: peft 0.21, tuners/lora/layer.py (get_delta_weight), tuners/lora/dora.py, utils/save_and_load.py (names).
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import torch

from bitwright.core.atomic import sha256_file
from bitwright.core.errors import InputError, MismatchError, UnsupportedError
from bitwright.core.plan import ModelFacts, TensorFacts
from bitwright.core.protocols import WeightSource
from bitwright.facts.checkpoint import read_file
from bitwright.facts.families import EMBEDDING
from bitwright.facts.model import FLOAT_DTYPES
from bitwright.formats.adapters.lora_config import CONFIG, WEIGHTS, LoraConfig, read_lora_config
from bitwright.formats.folders.ranges import StoredTensor, locate
from bitwright.formats.folders.safetensors_file import ITEM_BYTES, read_tensor

PREFIX = "base_model.model."
PARTS = {  # end of a stored name → what it is
    ".lora_A.weight": "down", ".lora_B.weight": "up", ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude", ".lora_embedding_A": "down", ".lora_embedding_B": "up",
}  # fmt: skip
BASE_LAYER = ".base_layer"  # a wrapped embedding is stored along with its adapter, under this name
MERGED_DTYPE = "BF16"  # what a merged matrix counts as, where the base stores codes


@dataclasses.dataclass(slots=True)
class _Change:
    """What the adapter does to one tensor, by name in the adapter's file."""

    parts: dict[str, str] = dataclasses.field(default_factory=dict)  # down, up, magnitude
    whole: str | None = None


class LoraSource:
    """`WeightSource` of a base with an adapter merged in."""

    def __init__(self, base: WeightSource, folder: Path) -> None:
        """Raises `InputError` for a broken adapter, `MismatchError` for one of another model, `UnsupportedError` for
        one that cannot be merged."""
        if base.facts.vision is not None:
            raise UnsupportedError(
                f"adapters of vision-language models are not merged (`{folder}`)",
                hint="merge it with PEFT (merge_and_unload, save_pretrained) and give the merged folder",
            )
        self._base = base
        self._folder = folder
        self._config = read_lora_config(folder)
        tensors = read_file(folder / WEIGHTS)
        self._places = locate(folder, tensors)
        self._changes: dict[str, _Change] = {}
        for tensor in tensors:
            self._sort_in(tensor.name)
        shapes = {tensor.name: tensor.shape for tensor in base.facts.tensors}
        for name, change in self._changes.items():
            _check(self._folder, name, change, shapes, self._places, self._config)
        if base.facts.tied and EMBEDDING in self._changes:
            raise UnsupportedError(
                f"`{folder}` changes the embedding, which is also the output head of this model",
                hint="the adapter was trained on one of the two only; untie the base model first",
            )
        self._facts = _merged_facts(base.facts, folder)

    @property
    def facts(self) -> ModelFacts:
        """The base's, with a fingerprint that covers the adapter."""
        return self._facts

    @property
    def config(self) -> dict[str, Any]:
        """The base's."""
        return dict(self._base.config)

    def names(self) -> Iterable[str]:
        """The base's."""
        return self._base.names()

    def load(self, name: str) -> torch.Tensor:
        """One merged tensor, float32; a tensor that the adapter leaves alone comes as the base has it."""
        change = self._changes.get(name)
        if change is None:
            kept: torch.Tensor = self._base.load(name)
            return kept
        weight_OI: torch.Tensor = self._base.load(name).float() if change.whole is None else self._read(change.whole)
        if not change.parts:
            return weight_OI
        down_RI, up_OR = self._read(change.parts["down"]), self._read(change.parts["up"])
        product_OI = up_OR @ down_RI
        scale = self._config.scale(_module(name))
        merged_OI = weight_OI + scale * (product_OI.T if name == EMBEDDING else product_OI)
        if "magnitude" in change.parts:
            magnitude_O = self._read(change.parts["magnitude"]).reshape(-1)
            merged_OI *= (magnitude_O / torch.linalg.vector_norm(merged_OI, dim=1))[:, None]
        if not bool(torch.isfinite(merged_OI).all()):
            raise InputError(
                f"`{self._folder}`: merged into `{name}`, the adapter gives values that are not finite",
                hint="the adapter is damaged, or its training diverged",
            )
        return merged_OI

    def _read(self, stored: str) -> torch.Tensor:
        return read_tensor(self._folder / WEIGHTS, self._places[stored]).float()

    def _sort_in(self, stored: str) -> None:
        """Enter one stored tensor under the base tensor that it changes."""
        if not stored.startswith(PREFIX):
            raise InputError(
                f"`{self._folder / WEIGHTS}` holds `{stored}`, expected names that begin with `{PREFIX}`",
                hint="save the adapter with PEFT's save_pretrained",
            )
        name = stored.removeprefix(PREFIX)
        for end, part in PARTS.items():
            if name.endswith(end):
                self._changes.setdefault(f"{name.removesuffix(end)}.weight", _Change()).parts[part] = stored
                return
        if "lora_" in name:
            raise UnsupportedError(f"`{self._folder / WEIGHTS}` holds `{stored}`, which cannot be merged")
        self._changes.setdefault(name.replace(BASE_LAYER, ""), _Change()).whole = stored


def _check(
    folder: Path,
    name: str,
    change: _Change,
    shapes: dict[str, tuple[int, ...]],
    places: dict[str, StoredTensor],
    config: LoraConfig,
) -> None:
    """Names, shapes and rank of one change fit the base."""
    if name not in shapes:
        raise MismatchError(
            f"`{folder}` changes `{name}`, which the base model does not have",
            hint="the adapter was trained on another model, or on one whose head is not shared with the embedding",
        )
    shape = shapes[name]
    if change.whole is not None and places[change.whole].shape != shape:
        raise MismatchError(
            f"`{folder}` holds `{name}` of shape {list(places[change.whole].shape)}, the base has {list(shape)}",
            hint="the adapter was trained on another model, or tokens were added to its vocabulary",
        )
    if not change.parts:
        return
    if not {"down", "up"} <= change.parts.keys():
        raise InputError(f"`{folder}` holds only a part of the change of `{name}`", hint="copy the adapter again")
    if config.dora != ("magnitude" in change.parts):
        raise InputError(f"`{folder / CONFIG}` and `{WEIGHTS}` disagree about DoRA in `{name}`")
    if config.dora and name == EMBEDDING:
        raise UnsupportedError(f"`{folder}` changes the embedding by DoRA, which is not merged here")
    down, up = places[change.parts["down"]].shape, places[change.parts["up"]].shape
    rank = config.rank(_module(name))
    outputs, inputs = reversed(shape) if name == EMBEDDING else shape
    if (down, up) != ((rank, inputs), (outputs, rank)):
        raise MismatchError(
            f"`{folder}`: the change of `{name}` has shapes {list(down)} and {list(up)}, expected "
            f"{[rank, inputs]} and {[outputs, rank]}",
            hint="the adapter was trained on another model, or its configuration is another adapter's",
        )
    magnitude = change.parts.get("magnitude")
    if magnitude is not None and math.prod(places[magnitude].shape) != outputs:
        raise MismatchError(f"`{folder}`: the magnitudes of `{name}` are not one for each of its {outputs} outputs")


def _module(name: str) -> str:
    return name.removesuffix(".weight")


def _merged_facts(base: ModelFacts, folder: Path) -> ModelFacts:
    digest = hashlib.sha256(base.fingerprint.encode())
    for file in (CONFIG, WEIGHTS):
        digest.update(sha256_file(folder / file).encode())
    tensors = tuple(_as_float(tensor) for tensor in base.tensors)
    return msgspec.structs.replace(
        base,
        tensors=tensors,
        bytes=sum(tensor.bytes for tensor in tensors),
        dtype=base.dtype if base.dtype in FLOAT_DTYPES else MERGED_DTYPE,
        fingerprint=digest.hexdigest(),
        adapter=str(folder),
    )


def _as_float(tensor: TensorFacts) -> TensorFacts:
    """A matrix that the base stores as codes is a float one after merging."""
    dtype = tensor.dtype if tensor.dtype in FLOAT_DTYPES else MERGED_DTYPE
    size = math.prod(tensor.shape) * ITEM_BYTES[dtype]
    return msgspec.structs.replace(tensor, dtype=dtype, bytes=size)
