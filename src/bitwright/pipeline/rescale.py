"""Rewrite one decoder block so that its linears are easier to round, without changing what it computes.

One pass in floating point takes the mean square of every group's input; scales are chosen per group (quantize/
scaling.py), multiplied into the readers' columns and divided out of the tensor before them (facts/folds.py). What is
stored in few bits decides the scale: a norm kept in bfloat16 is rounded first and the columns get exactly the inverse
of what was stored, so that the rewrite adds no error. A bias that cannot be stored exactly keeps to powers of two.

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
from bitwright.facts.families import LINEARS, InputGroup
from bitwright.facts.folds import FOLDS
from bitwright.quantize.scaling import Scaling, scale_columns

TORCH_DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def rescale_block(
    block: nn.Module,
    squares: Mapping[InputGroup, NDArray[np.float32]],
    plans: Mapping[str, TensorPlan],
    prefix: str,
    *,
    heads: int,
    kv_heads: int,
) -> tuple[dict[str, str], dict[InputGroup, NDArray[np.float32]]]:
    """Fold scales into a loaded float32 block, in place.

    Returns tensor name → what was done to it, for the record, and the scales of every group that was scaled: its inputs
    are divided by them now.

    `squares` holds the mean square of every group's input. A group that the plan leaves in floating point is left
    alone.
    """
    notes: dict[str, str] = {}
    scales: dict[InputGroup, NDArray[np.float32]] = {}
    for group, fold in FOLDS.items():
        names = [f"{prefix}{module}.weight" for module in LINEARS[group]]
        schemes = quantized_schemes([plans[name] for name in names])
        if schemes is None:
            continue
        linears = [block.get_submodule(module) for module in LINEARS[group]]
        weights = [weight_of(linear) for linear in linears]
        columns = weights[0].shape[1]
        repeats, head_dim = (heads // kv_heads, columns // heads) if fold.kind == "heads" else (1, 1)
        found = scale_columns(weights, schemes, squares[group], repeats=repeats, head_dim=head_dim)
        if found.exponents == (0.0, 0.0):
            continue
        absorber = block.get_submodule(fold.absorber)
        stored = {kind: stored_dtype(plans.get(f"{prefix}{fold.absorber}.{kind}")) for kind in ("weight", "bias")}
        if fold.kind == "norm":
            scales_I = divide_norm(absorber, found.scales_I, stored["weight"])
        else:
            scales_I = _divide_rows(absorber, found.scales_I, stored, repeats, head_dim)
        for linear in linears:
            linear.get_parameter("weight").data *= torch.from_numpy(scales_I)
        notes |= {name: scaling_note(found, fold.absorber) for name in names}
        scales[group] = scales_I
    return notes, scales


def scaling_note(found: Scaling, absorber: str) -> str:
    """One sentence for the record."""
    a, b = found.exponents
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


def divide_norm(norm: nn.Module, scales_I: NDArray[np.float32], dtype: str | None) -> NDArray[np.float32]:
    """Divide a norm's weight and round it as it will be stored. Returns the scales that undo exactly that.

    A channel whose quotient is zero or infinite in the stored type keeps its weight and the scale 1.
    """
    assert dtype is not None, "a norm is stored in floating point"
    weight_I = norm.get_parameter("weight").data
    divided_I = (weight_I / torch.from_numpy(scales_I)).to(TORCH_DTYPES[dtype]).float()
    usable_I = torch.isfinite(divided_I) & (divided_I != 0)
    exact_I = torch.where(usable_I, weight_I / torch.where(usable_I, divided_I, 1.0), 1.0)
    norm.get_parameter("weight").data = torch.where(usable_I, divided_I, weight_I)
    exact: NDArray[np.float32] = exact_I.numpy()
    return exact


def _divide_rows(
    linear: nn.Module, scales_I: NDArray[np.float32], stored: Mapping[str, str | None], repeats: int, head_dim: int
) -> NDArray[np.float32]:
    """Divide the rows that make these inputs. Returns the columns' scales, powers of two where rows are floats."""
    if any(dtype in ("f16", "bf16") for dtype in stored.values()):
        scales_I = np.exp2(np.rint(np.log2(scales_I))).astype(np.float32)
    rows_O = scales_I
    if repeats > 1:  # all query heads of one key-value head share their scales
        rows_O = np.ascontiguousarray(scales_I.reshape(-1, repeats, head_dim)[:, 0]).reshape(-1)
    for _, parameter in linear.named_parameters(recurse=False):
        parameter.data /= torch.from_numpy(rows_O).reshape(-1, *[1] * (parameter.ndim - 1))
    return scales_I
