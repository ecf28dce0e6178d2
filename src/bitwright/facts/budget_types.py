"""The types that a byte budget chooses among, by format and by what a row can hold.

GGUF: one type per step of size; where two take nearly the same bytes, the one that lost less in our measurements
(docs/log.md). Stock llama.cpp reads any mixture of them.

compressed-tensors: what vLLM has kernels for beside each other: 4 bits in the groups of the plan and in groups of 32,
8 bits, and the float type of the checkpoint. Symmetry is the plan's.

Not here: presets (gguf_mixtures.py), which tensors must share a type (planner/overrides.py), the choice
(planner/budget.py).
Source: vLLM 0.32, schemes/compressed_tensors_wNa16.py and kernels/linear/mixed_precision/marlin.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from bitwright.core.plan import TensorPlan
from bitwright.core.schemes import GGML_BLOCKS, GROUP_SIZES, FloatScheme, GgmlScheme, IntScheme, WeightScheme

WIDE_ROWS = ("Q2_K", "Q3_K", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K", "Q8_0")  # rows of whole blocks of 256
OTHER_ROWS = ("IQ4_NL", "Q5_0", "Q5_1", "Q8_0")  # rows of whole blocks of 32


def budget_schemes(entry: TensorPlan) -> list[tuple[WeightScheme, int]]:
    """Schemes of a matrix with the bytes that it would take; the planned scheme alone when nothing can be chosen."""
    scheme = entry.scheme
    if entry.by_hand:
        return [(scheme, entry.bytes)]
    offered: Sequence[WeightScheme] = ()
    if isinstance(scheme, GgmlScheme):
        offered = _ggml_schemes(scheme, entry.shape[-1])
    elif isinstance(scheme, IntScheme) and scheme.activations is None:
        offered = _integer_schemes(scheme, entry.shape[-1])
    rows, columns = math.prod(entry.shape[:-1]), entry.shape[-1]
    return [(one, one.bytes_for(rows, columns)) for one in offered] or [(scheme, entry.bytes)]


def _ggml_schemes(scheme: GgmlScheme, columns: int) -> list[GgmlScheme]:
    kinds = WIDE_ROWS if columns % GGML_BLOCKS["Q4_K"][0] == 0 else OTHER_ROWS
    if scheme.is_float or columns % GGML_BLOCKS[kinds[0]][0]:
        return []
    return [GgmlScheme(type=kind) for kind in kinds]


def _integer_schemes(scheme: IntScheme, columns: int) -> list[WeightScheme]:
    fine = min(GROUP_SIZES)
    groups = [scheme.group_size, *([fine] if scheme.group_size != fine and columns % fine == 0 else [])]
    four = [msgspec.structs.replace(scheme, bits=4, group_size=size) for size in groups]
    return [*four, msgspec.structs.replace(scheme, bits=8), FloatScheme(dtype=scheme.scale_dtype)]
