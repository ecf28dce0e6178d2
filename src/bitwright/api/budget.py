"""Share out bytes: measure what every tensor would lose under every type, then take the best mixture that fits.

The table of costs is kept in `OUT/costs.json`, so that another size from the same text costs no second measurement.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from bitwright.api.decision import PLAN_FILE, what_differs
from bitwright.api.models import model_folder
from bitwright.core.costs import CostTable
from bitwright.core.documents import read_document, write_document
from bitwright.core.errors import UsageError
from bitwright.core.plan import Budget, Plan
from bitwright.core.protocols import SILENT, Progress
from bitwright.core.schemes import WeightScheme
from bitwright.core.units import format_bytes

if TYPE_CHECKING:
    from bitwright.planner.budget import Option

COSTS = "costs.json"


def share_out(
    plan: Plan,
    out: Path,
    target_bytes: int,
    *,
    model: Path | str | None = None,
    lora: Path | str | None = None,
    progress: Progress = SILENT,
) -> Plan:
    """`plan` with the types that lose least in a file of at most `target_bytes`; embeddings, head and header count.

    Only GGUF plans that calibrate on text. A plan that stands in `out` for the same request is returned as it is.
    Raises `UsageError` when the smallest types do not fit, or for a plan that has nothing to share out.
    """
    if plan.format != "gguf" or plan.calibration.imatrix:
        raise UsageError(
            "a byte budget is shared out over GGUF types, by gradients on calibration text",
            hint="use --format gguf without --imatrix",
        )
    standing = _standing(plan, out, target_bytes)
    if standing is not None:
        return standing
    from bitwright.facts.budget_types import budget_schemes
    from bitwright.facts.families import gguf_tensor
    from bitwright.planner.budget import Option, allocate
    from bitwright.planner.build import with_types

    offered = {entry.name: [size for _, size in budget_schemes(entry)] for entry in plan.tensors}
    fixed = plan.file_bytes - sum(entry.bytes for entry in plan.tensors if len(offered[entry.name]) > 1)
    smallest = fixed + sum(min(sizes) for sizes in offered.values() if len(sizes) > 1)
    if target_bytes < smallest:  # sizes follow from shapes: said before minutes of measurement
        raise UsageError(
            f"with the smallest types the file takes {format_bytes(smallest)}, the budget is "
            f"{format_bytes(target_bytes)}",
            hint=f"ask for --target-size {-(-smallest // 10**6)}MB or more, or use a smaller model",
        )
    table = _costs(plan, out, model, lora, progress)
    by_name = {tensor.name: tensor.options for tensor in table.tensors}
    held = {entry.name: gguf_tensor(entry.stored_name) for entry in plan.tensors}  # all experts of a block in one
    items: dict[str, list[Option]] = {}
    for name, options in by_name.items():
        added = [Option(type=option.scheme.label, bytes=option.bytes, cost=option.cost) for option in options]
        items[held[name]] = _together(items.get(held[name]), added)
    chosen = allocate(items, target_bytes - fixed)
    schemes: dict[str, WeightScheme] = {
        name: next(option.scheme for option in options if option.scheme.label == chosen[held[name]].type)
        for name, options in by_name.items()
    }
    cost = sum(taken.cost for taken in chosen.values()) / table.tokens
    return with_types(plan, schemes, Budget(file_bytes=target_bytes, predicted_kl=cost))


def _together(before: list[Option] | None, added: list[Option]) -> list[Option]:
    """Options of matrices that must have one type: bytes and costs of each type add up."""
    if before is None:
        return added
    return [
        dataclasses.replace(one, bytes=one.bytes + other.bytes, cost=one.cost + other.cost)
        for one, other in zip(before, added, strict=True)
    ]


def _standing(plan: Plan, out: Path, target_bytes: int) -> Plan | None:
    """The plan in `out`, when it was shared out for the same request."""
    if not (out / PLAN_FILE).exists():
        return None
    begun = read_document(Plan, out / PLAN_FILE)
    if begun.budget is None or begun.budget.file_bytes != target_bytes:
        return None
    asked = msgspec.structs.replace(plan, type=begun.type, tensors=begun.tensors, budget=begun.budget)
    return begun if what_differs(begun, asked) is None else None


def _costs(plan: Plan, out: Path, model: Path | str | None, lora: Path | str | None, progress: Progress) -> CostTable:
    """The table in `out`, when it was measured on the same model and text; otherwise a new one."""
    if (out / COSTS).exists():
        table = read_document(CostTable, out / COSTS)
        if table.fingerprint == plan.model.fingerprint and table.calibration == plan.calibration:
            return table
    from bitwright.facts.budget_types import budget_schemes
    from bitwright.formats.original import open_original
    from bitwright.pipeline.costs import measure_costs
    from bitwright.pipeline.preparation import Preparation
    from bitwright.pipeline.run import calibration_windows

    folder = model_folder(model if model is not None else plan.model.path, progress=progress)
    source = open_original(folder, Path(lora) if lora is not None else None)
    prepared = Preparation(out, plan)
    windows = prepared.tokens() or calibration_windows(plan.calibration, folder, source, progress)
    sensitivities = prepared.sensitivities(source, windows, progress)
    table = measure_costs(
        source,
        plan.tensors,
        budget_schemes,
        sensitivities,
        windows.tokens,
        calibration=plan.calibration,
        progress=progress,
    )
    write_document(table, out / COSTS)
    return table
