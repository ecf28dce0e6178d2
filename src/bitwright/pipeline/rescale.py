"""Rewrite one decoder block so that its linears are easier to round, without changing what it computes.

One pass in floating point takes the mean square of every group's input, and a sample of it where the engine rounds
inputs too; scales are chosen per group (quantize/scaling.py, quantize/smoothing.py), multiplied into the readers'
columns and divided out of the tensor before them (facts/blocks.py). What is stored in few bits decides the scale: a
norm kept in bfloat16 is rounded first and the columns get exactly the inverse of what was stored, so that the rewrite
adds no error. A bias or a router that cannot be stored exactly keeps to powers of two.

Not here: codes (blocks.py).
Dimension key: W windows · T tokens · H hidden · I inputs
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bitwright.core.plan import TensorPlan
from bitwright.core.schemes import FloatScheme, GgmlScheme, QuantScheme
from bitwright.facts.blocks import Fold
from bitwright.facts.families import InputGroup
from bitwright.quantize.scaling import Scaling, scale_columns
from bitwright.quantize.smoothing import InputSample, activations_of, smooth_columns

HALVES = ("f16", "bf16")
TORCH_DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def rescale_block(
    block: nn.Module,
    squares: Mapping[InputGroup, NDArray[np.float32]],
    plans: Mapping[str, TensorPlan],
    prefix: str,
    folds: Sequence[Fold],
    *,
    heads: int,
    kv_heads: int,
    norm_offset: float = 0.0,
    samples: Mapping[InputGroup, InputSample] | None = None,
) -> tuple[dict[str, str], dict[InputGroup, NDArray[np.float32]]]:
    """Fold scales into a loaded float32 block, in place.

    Returns tensor name → what was done to it, for the record, and the scales of every group that was scaled: its inputs
    are divided by them now.

    `squares` holds the mean square of a group's input; a fold whose group is not there is left out, and so is one whose
    readers the plan leaves in floating point. `norm_offset` is what norms add to their weight. Groups in `samples` are
    scaled for rounded inputs.
    """
    notes: dict[str, str] = {}
    scales: dict[InputGroup, NDArray[np.float32]] = {}
    for fold in folds:
        names = [f"{prefix}{module}.weight" for module in fold.readers]
        schemes = quantized_schemes([plans[name] for name in names])
        if schemes is None or fold.group not in squares:
            continue
        linears = [block.get_submodule(module) for module in fold.readers]
        weights = [weight_of(linear) for linear in linears]
        columns = weights[0].shape[1]
        repeats, head_dim = (heads // kv_heads, columns // heads) if fold.kind == "heads" else (1, 1)
        carried = [stored_dtype(plans[f"{prefix}{module}.weight"]) for module in fold.carried]
        stored = {kind: stored_dtype(plans.get(f"{prefix}{fold.absorber}.{kind}")) for kind in ("weight", "bias")}
        kept = {*carried, *(() if fold.kind == "norm" else stored.values())}
        storable = powers_of_two if kept & set(HALVES) else None
        sample = None if samples is None else samples.get(fold.group)
        if sample is None:
            found = scale_columns(weights, schemes, squares[fold.group], repeats=repeats, head_dim=head_dim)
        else:
            found = smooth_columns(
                weights, schemes, squares[fold.group], sample, repeats=repeats, head_dim=head_dim, storable=storable
            )
        if found.exponents == (0.0, 0.0):
            continue
        scales_I = found.scales_I if storable is None else storable(found.scales_I)
        absorber = block.get_submodule(fold.absorber)
        if fold.kind == "norm":
            scales_I = divide_norm(absorber, scales_I, stored["weight"], norm_offset)
        else:
            _divide_rows(absorber, scales_I, repeats, head_dim)
        for linear in (*linears, *(block.get_submodule(module) for module in fold.carried)):
            linear.get_parameter("weight").data *= torch.from_numpy(scales_I)
        notes |= {name: scaling_note(found, fold.absorber) for name in names}
        scales |= dict.fromkeys((fold.group, *(group.name for group in fold.reading)), scales_I)
    return notes, scales


def smoothed_groups(folds: Sequence[Fold], plans: Mapping[str, TensorPlan], prefix: str) -> set[InputGroup]:
    """The groups of folds whose readers see rounded inputs."""
    found = set()
    for fold in folds:
        schemes = quantized_schemes([plans[f"{prefix}{module}.weight"] for module in fold.readers])
        if any(activations_of(scheme) is not None for scheme in schemes or ()):
            found.add(fold.group)
    return found


def powers_of_two(scales_I: NDArray[np.float32]) -> NDArray[np.float32]:
    """The nearest ones: what a float of few bits can be multiplied by without rounding."""
    rounded: NDArray[np.float32] = np.exp2(np.rint(np.log2(scales_I))).astype(np.float32)
    return rounded


def scaling_note(found: Scaling, absorber: str) -> str:
    """One sentence for the record."""
    a, b = found.exponents
    if found.peaks:
        return (
            f"columns times max|input|^{a:g} / max|weight|^{b:g} (SmoothQuant, alpha {a:g}), folded into {absorber}: "
            f"output error of nearest codes and rounded inputs {found.loss:.3g} times what it was"
        )
    return f"columns times rms(input)^{a:g} / rms(weight)^{b:g}, folded into {absorber}"


def quantized_schemes(entries: Sequence[TensorPlan]) -> list[QuantScheme] | None:
    """The schemes of a group, or `None` when any of it stays in floating point."""
    schemes = []
    for entry in entries:
        if isinstance(entry.scheme, FloatScheme) or stored_dtype(entry) is not None:
            return None
        schemes.append(entry.scheme)
    return schemes


def stored_dtype(entry: TensorPlan | None) -> str | None:
    """f32, f16 or bf16 of a tensor that stays in floating point; `None` for a quantized or an absent one."""
    if entry is None:
        return None
    if isinstance(entry.scheme, FloatScheme):
        return entry.scheme.dtype
    if isinstance(entry.scheme, GgmlScheme) and entry.scheme.is_float:
        return entry.scheme.type.lower()
    return None


def weight_of(linear: nn.Module) -> NDArray[np.float32]:
    """The float32 weight [O, I] of a loaded linear, not copied."""
    weight: NDArray[np.float32] = linear.get_parameter("weight").data.numpy()
    return weight


def divide_norm(
    norm: nn.Module, scales_I: NDArray[np.float32], dtype: str | None, offset: float = 0.0
) -> NDArray[np.float32]:
    """Divide what a norm multiplies by, `offset` + weight, and round the weight as it will be stored.

    Returns the scales that undo exactly that. A channel whose quotient is zero or infinite in the stored type keeps its
    weight and the scale 1.
    """
    assert dtype is not None, "a norm is stored in floating point"
    weight_I = norm.get_parameter("weight").data
    gain_I = weight_I + offset
    divided_I = (gain_I / torch.from_numpy(scales_I) - offset).to(TORCH_DTYPES[dtype]).float()
    usable_I = torch.isfinite(divided_I) & (divided_I + offset != 0)
    exact_I = torch.where(usable_I, gain_I / torch.where(usable_I, divided_I + offset, 1.0), 1.0)
    norm.get_parameter("weight").data = torch.where(usable_I, divided_I, weight_I)
    exact: NDArray[np.float32] = exact_I.numpy()
    return exact


def _divide_rows(linear: nn.Module, scales_I: NDArray[np.float32], repeats: int, head_dim: int) -> None:
    """Divide the last rows, which make these inputs."""
    rows_O = scales_I
    if repeats > 1:  # all query heads of one key-value head share their scales
        rows_O = np.ascontiguousarray(scales_I.reshape(-1, repeats, head_dim)[:, 0]).reshape(-1)
    for _, parameter in linear.named_parameters(recurse=False):
        parameter.data[-len(rows_O) :] /= torch.from_numpy(rows_O).reshape(-1, *[1] * (parameter.ndim - 1))
