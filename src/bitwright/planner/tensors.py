"""What becomes of every tensor under one candidate: a GGUF preset or a scheme for linears. Sizes are exact.

Not here: which candidate is taken (decide.py).
"""

from __future__ import annotations

import math

import msgspec

from bitwright.core.errors import UnsupportedError, UsageError
from bitwright.core.plan import ArtifactFormat, ModelFacts, TensorFacts, TensorPlan
from bitwright.core.schemes import (
    GROUP_SIZES,
    CodebookScheme,
    FloatDtype,
    FloatScheme,
    GgmlScheme,
    Int8RowScheme,
    IntScheme,
    WeightScheme,
)
from bitwright.facts.compressed_types import LinearScheme
from bitwright.facts.families import FAMILIES, gguf_name, is_block_linear
from bitwright.facts.float_folders import FLOAT_FOLDERS
from bitwright.facts.folder_types import FolderScheme
from bitwright.facts.gguf_mixtures import ggml_types
from bitwright.facts.packed_tensors import parts_of
from bitwright.facts.stacks import counted_experts

FLOATS: dict[str, FloatDtype] = {"F32": "f32", "F16": "f16", "BF16": "bf16"}


def gguf_tensors(facts: ModelFacts, preset: str) -> tuple[TensorPlan, ...]:
    """Every tensor under a preset, in the order of the forward pass.

    Raises `UnsupportedError` on an unknown preset, and on a model whose names in GGUF are not known.
    """
    if facts.family not in FAMILIES:
        raise UnsupportedError(
            f"{facts.architecture} is not written as GGUF",
            hint="use --format compressed-tensors, and a GPU as --target",
        )
    types = ggml_types(facts, preset)
    planned = []
    for tensor in in_order(facts):
        kind, reason = types[tensor.name]
        planned.append(_planned(tensor, gguf_name(tensor.name, facts.family), GgmlScheme(type=kind), reason))
    return tuple(planned)


def linear_tensors(
    facts: ModelFacts, scheme: LinearScheme | FolderScheme, format: ArtifactFormat = "compressed-tensors"
) -> tuple[TensorPlan, ...]:
    """Linears of blocks under one scheme, the rest in the checkpoint's dtype, in the order of the forward pass.

    Raises `UsageError` when the group size does not divide the inputs of some linear.
    """
    if facts.vision is not None and format != "compressed-tensors":
        raise UnsupportedError(
            f"vision-language models are not written as {format}: its config names no parts of a model",
            hint="use --format compressed-tensors",
        )
    if facts.experts is not None and format not in ("compressed-tensors", *FLOAT_FOLDERS):
        raise UnsupportedError(
            f"mixtures of experts are not written as {format}: engines want all experts of a block in one kernel",
            hint="use --format compressed-tensors, fp8 or modelopt",
        )
    inside = f"linear inside a block: {scheme.label}"
    planned, sizes = [], dict[tuple[int, ...], int]()  # bytes by shape: blocks are alike, and a plan tries many schemes
    for tensor in in_order(facts):
        if not is_block_linear(tensor.name):
            reason = "embeddings, norms, biases and the head keep the checkpoint's dtype"
            planned.append(_planned(tensor, tensor.stored_name, FloatScheme(dtype=FLOATS[tensor.dtype]), reason))
            continue
        if tensor.shape not in sizes:
            check_groups(facts, tensor, scheme)
            entry = _planned(tensor, tensor.stored_name, scheme, inside)
            sizes[tensor.shape] = with_scheme(entry, scheme, format, inside).bytes
        planned.append(_planned(tensor, tensor.stored_name, scheme, inside, sizes[tensor.shape]))
    return tuple(planned)


def float_tensors(facts: ModelFacts, scheme: FloatScheme) -> tuple[TensorPlan, ...]:
    """Every tensor cast to one floating-point type, in the order of the forward pass."""
    beside = facts.all_tensors[len(facts.tensors) :]
    return tuple(
        _planned(tensor, tensor.stored_name, scheme, f"cast to {scheme.label}")
        for tensor in (*in_order(facts), *beside)
    )


def in_order(facts: ModelFacts) -> list[TensorFacts]:
    """The tensors in the order of the forward pass, whatever their order in the files."""
    if facts.catalogue:  # made in this order
        return list(facts.tensors)
    found = {tensor.name: tensor for tensor in facts.tensors}
    family, experts = FAMILIES[facts.family], counted_experts(facts)
    return [found[name] for name in family.all_tensors(facts.layers, tied=facts.tied, experts=experts)]


def fitting_group_sizes(facts: ModelFacts) -> list[int]:
    """Group sizes, largest first, that divide the inputs of every linear."""
    inputs = {tensor.shape[-1] for tensor in facts.tensors if is_block_linear(tensor.name)}
    return [size for size in sorted(GROUP_SIZES, reverse=True) if all(count % size == 0 for count in inputs)]


def check_groups(facts: ModelFacts, tensor: TensorFacts, scheme: LinearScheme | FolderScheme) -> None:
    """Refuse groups of inputs that would leave a part of a group at the end of a row."""
    if isinstance(scheme, CodebookScheme | Int8RowScheme):
        return
    if scheme.input_group is None or tensor.shape[-1] % scheme.input_group == 0:
        return
    hint = "use --type FP8_DYNAMIC, which has no groups"
    if isinstance(scheme, IntScheme):
        sizes = [f"--group-size {size}" for size in fitting_group_sizes(facts)]
        hint = f"use {' or '.join([*sizes, '--group-size channel'])}"
    raise UsageError(
        f"group size {scheme.input_group} does not divide the {tensor.shape[-1]} inputs of `{tensor.name}`", hint=hint
    )


def with_scheme(entry: TensorPlan, scheme: WeightScheme, format: ArtifactFormat, reason: str) -> TensorPlan:
    """A planned tensor under another scheme: its bytes follow."""
    size = scheme.bytes_for(math.prod(entry.shape[:-1]), entry.shape[-1])
    changed = msgspec.structs.replace(entry, scheme=scheme, bytes=size, reason=reason)
    if format == "gguf" or isinstance(scheme, FloatScheme):
        return changed
    return msgspec.structs.replace(changed, bytes=sum(part.bytes for part in parts_of(format)(changed)))


def bits_per_weight(tensors: tuple[TensorPlan, ...]) -> float:
    """Stored bits per parameter, over all tensors."""
    return 8 * sum(tensor.bytes for tensor in tensors) / sum(math.prod(tensor.shape) for tensor in tensors)


def _planned(
    tensor: TensorFacts, stored_name: str, scheme: WeightScheme, reason: str, size: int | None = None
) -> TensorPlan:
    if size is None:
        size = scheme.bytes_for(math.prod(tensor.shape[:-1]), (tensor.shape or (1,))[-1])
    return TensorPlan(
        name=tensor.name,
        stored_name=stored_name,
        shape=tensor.shape,
        scheme=scheme,
        bytes=size,
        reason=reason,
    )
