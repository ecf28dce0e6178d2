"""The ggml types that a byte budget chooses among, by what a row can hold.

One type per step of size: where two take nearly the same bytes, the one that lost less in our measurements
(docs/log.md). Stock llama.cpp reads any mixture of them.

Not here: presets (gguf_mixtures.py), the choice (planner/budget.py).
"""

from __future__ import annotations

from bitwright.core.plan import TensorPlan
from bitwright.core.schemes import GGML_BLOCKS, GgmlScheme

WIDE_ROWS = ("Q2_K", "Q3_K", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K", "Q8_0")  # rows of whole blocks of 256
OTHER_ROWS = ("IQ4_NL", "Q5_0", "Q5_1", "Q8_0")  # rows of whole blocks of 32


def budget_schemes(entry: TensorPlan) -> list[tuple[GgmlScheme, int]]:
    """Schemes of a matrix with the bytes that it would take; the planned scheme alone when nothing can be chosen."""
    assert isinstance(entry.scheme, GgmlScheme), entry.name
    rows, columns = entry.shape[0], entry.shape[-1]
    kinds = WIDE_ROWS if columns % GGML_BLOCKS["Q4_K"][0] == 0 else OTHER_ROWS
    if entry.scheme.is_float or columns % GGML_BLOCKS[kinds[0]][0]:
        return [(entry.scheme, entry.bytes)]
    return [(scheme, scheme.bytes_for(rows, columns)) for scheme in (GgmlScheme(type=kind) for kind in kinds)]
