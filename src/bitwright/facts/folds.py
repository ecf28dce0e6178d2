"""Where a scale per input channel can hide: the tensor before a group of linears that absorbs its inverse.

Dividing an RMS norm's weight by s and multiplying the columns of its readers by s changes nothing that the model
computes; neither does dividing the rows of a value or up projection, whose outputs reach the next linear channel by
channel. The families of families.py all share these four places.

Not here: which scale is good (quantize/scaling.py), the rewrite itself (pipeline/rescale.py).
Source: Lin et al. 2024, arXiv:2306.00978 §3.2 (AWQ); transformers models/llama/modeling_llama.py (order of calls).
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from bitwright.facts.families import InputGroup


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """`absorber` is a module of the block. A `heads` fold serves all query heads that read one key-value head."""

    absorber: str
    kind: Literal["norm", "rows", "heads"]


# Readers of a folded tensor's rows first: the columns of q, k, v and gate, up are then measured as they will be rounded
FOLDS: dict[InputGroup, Fold] = {
    "attn_out": Fold(absorber="self_attn.v_proj", kind="heads"),
    "attn_in": Fold(absorber="input_layernorm", kind="norm"),
    "mlp_out": Fold(absorber="mlp.up_proj", kind="rows"),
    "mlp_in": Fold(absorber="post_attention_layernorm", kind="norm"),
}
