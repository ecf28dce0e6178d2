"""What a plan asks of a run: its units, and whether text has to be read. No torch: direct.py starts without it."""

from __future__ import annotations

import hashlib

from bitwright.core.plan import Plan, TensorPlan
from bitwright.core.schemes import CodebookScheme, FloatScheme, GgmlScheme, Int8RowScheme
from bitwright.facts.families import BLOCK
from bitwright.formats.layout import FileLayout

VISION = "vision"  # the unit of all that lies beside a vision-language model's decoder
WHOLE = (CodebookScheme, Int8RowScheme)  # solved without statistics


def is_float(entry: TensorPlan) -> bool:
    """Whether the plan leaves the tensor in floating point."""
    return isinstance(entry.scheme, FloatScheme) or (isinstance(entry.scheme, GgmlScheme) and entry.scheme.is_float)


def needs_text(plan: Plan) -> bool:
    """Whether statistics have to be taken: not for an artifact in floating point or with bitsandbytes' own rounding,
    nor with an importance matrix, nor where the plan names no text."""
    unfitted = all(is_float(entry) or isinstance(entry.scheme, WHOLE) for entry in plan.tensors)
    return bool(plan.calibration.source) and not (unfitted and plan.kv_cache is None)


def unit_names(plan: Plan) -> list[str]:
    """What is done one after another, and recorded each."""
    blocks = [BLOCK.format(layer=index).rstrip(".") for index in range(plan.model.layers)]
    beside = plan.model.vision is not None and plan.format != "gguf"
    return ["embedding", *blocks, "head", *([VISION] if beside else [])]


def layout_sha256(layouts: tuple[FileLayout, ...]) -> str:
    """Identity of every byte that is not tensor data, and so of every offset."""
    digest = hashlib.sha256()
    for layout in layouts:
        digest.update(layout.name.encode() + layout.header)
    return digest.hexdigest()
