"""Share out bytes: measure what every tensor would lose under every type, then take the best mixture that fits.

The table of costs is kept in `OUT/costs.json`, so that another size from the same text costs no second measurement.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
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
Offered = Mapping[str, Sequence[tuple[WeightScheme, int]]]  # by tensor: types and bytes


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

    Only plans that calibrate on text, for GGUF or for integers in compressed-tensors. What was asked for by hand stays.
    A plan that stands in `out` for the same request is returned as it is. Raises `UsageError` when the smallest types
    do not fit, or for a plan that has nothing to share out.
    """
    check_budgeted(plan)
    standing = _standing(plan, out, target_bytes)
    if standing is not None:
        return standing
    offered, fixed = _offered(plan, target_bytes)
    table = _costs(plan, out, offered, model, lora, progress)
    shared = _allocated(plan, table, target_bytes, target_bytes - fixed)
    if shared.file_bytes > target_bytes:  # names of the chosen types' parts made the header longer
        shared = _allocated(plan, table, target_bytes, target_bytes - fixed - (shared.file_bytes - target_bytes))
    return shared


def before_sharing(plan: Plan, out: Path, target_bytes: int) -> Plan:
    """What `share_out` will begin with: its size and its steps are known, its types are not. Nothing is measured.

    Raises as `share_out` for a budget that cannot be met. Where its plan stands in `out`, that is returned.
    """
    check_budgeted(plan)
    standing = _standing(plan, out, target_bytes)
    if standing is not None:
        return standing
    _offered(plan, target_bytes)
    later = "types are chosen under the budget when costs have been measured: those listed are what it starts from"
    return msgspec.structs.replace(
        plan,
        file_bytes=target_bytes,
        bits_per_weight=8 * target_bytes / plan.model.parameters,
        budget=Budget(file_bytes=target_bytes, predicted_kl=0.0),
        warnings=(*plan.warnings, later),
    )


def check_budgeted(plan: Plan) -> None:
    """Raise `UsageError` for a plan whose bytes are not shared out."""
    if plan.format not in ("gguf", "compressed-tensors") or not plan.calibration.source:
        raise UsageError(
            "a byte budget is shared out over GGUF types or over 4 and 8 bits of compressed-tensors, by gradients on "
            "calibration text",
            hint="use --format gguf or --format compressed-tensors, with --calibration FILE or `self`",
        )


def _offered(plan: Plan, target_bytes: int) -> tuple[Offered, int]:
    """The types that each tensor may have, and the bytes of all others. Raises `UsageError` when none fit."""
    from bitwright.facts.budget_types import budget_schemes

    offered = {entry.name: budget_schemes(entry) for entry in plan.tensors}
    offered = {name: options for name, options in offered.items() if len(options) > 1}
    if not offered:
        raise UsageError(
            f"{plan.type} leaves no type to choose",
            hint="use --format gguf, or --bits 4 with --format compressed-tensors",
        )
    fixed = plan.file_bytes - sum(entry.bytes for entry in plan.tensors if entry.name in offered)
    smallest = fixed + sum(min(size for _, size in options) for options in offered.values())
    if target_bytes < smallest:  # sizes follow from shapes: said before minutes of measurement
        raise UsageError(
            f"with the smallest types the file takes {format_bytes(smallest)}, the budget is "
            f"{format_bytes(target_bytes)}",
            hint=f"ask for --target-size {-(-smallest // 10**6)}MB or more, or use a smaller model",
        )
    return offered, fixed


def _allocated(plan: Plan, table: CostTable, target_bytes: int, left: int) -> Plan:
    """The plan with `left` bytes shared out over the tensors of the table."""
    from bitwright.planner.budget import Option, allocate
    from bitwright.planner.build import with_types
    from bitwright.planner.overrides import fused_tensors

    held = {entry.name: entry.name for entry in plan.tensors}  # what engines run as one has one type
    for members in fused_tensors(plan.model, plan.tensors, plan.format):
        held |= dict.fromkeys(members, members[0])
    items: dict[str, list[Option]] = {}
    for tensor in table.tensors:
        added = [Option(type=option.scheme.label, bytes=option.bytes, cost=option.cost) for option in tensor.options]
        items[held[tensor.name]] = _together(items.get(held[tensor.name]), added)
    chosen = allocate(items, left)
    schemes: dict[str, WeightScheme] = {
        tensor.name: next(o.scheme for o in tensor.options if o.scheme.label == chosen[held[tensor.name]].type)
        for tensor in table.tensors
    }
    cost = sum(taken.cost for taken in chosen.values()) / table.tokens
    return with_types(plan, schemes, Budget(file_bytes=target_bytes, predicted_kl=cost))


def _together(before: list[Option] | None, added: list[Option]) -> list[Option]:
    """Options of matrices that must have one type: bytes and costs of each type that all of them can take add up."""
    if before is None:
        return added
    others = {option.type: option for option in added}
    return [
        dataclasses.replace(one, bytes=one.bytes + others[one.type].bytes, cost=one.cost + others[one.type].cost)
        for one in before
        if one.type in others
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


def _costs(
    plan: Plan,
    out: Path,
    offered: Offered,
    model: Path | str | None,
    lora: Path | str | None,
    progress: Progress,
) -> CostTable:
    """The table in `out`, when it was measured on the same model and text for the same types; otherwise a new one."""
    if (out / COSTS).exists():
        table = read_document(CostTable, out / COSTS)
        measured = {
            tensor.name: [(option.scheme, option.bytes) for option in tensor.options] for tensor in table.tensors
        }
        same = table.fingerprint == plan.model.fingerprint and table.calibration == plan.calibration
        if same and measured == offered:
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
