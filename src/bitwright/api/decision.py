"""Make a plan: what a checkpoint is, what the device holds, and what follows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bitwright.core.documents import read_document, write_document
from bitwright.core.errors import MismatchError, UsageError
from bitwright.core.plan import CalibrationPlan, Override, Plan
from bitwright.core.protocols import SILENT, Progress
from bitwright.core.schemes import static_inputs

if TYPE_CHECKING:
    from bitwright.core.explanation import Explanation
    from bitwright.planner.wish import Wish

PLAN_FILE = "plan.json"
GROUP_SIZE = 128
CONTEXT = 4096
SERVED = ("device", "engine", "launch", "memory", "target", "ranking", "reasons", "warnings")  # not of the artifact


def make_plan(
    model: Path | str,
    *,
    target: str = "auto",
    use_case: str = "chat",
    format: str | None = None, type: str | None = None,
    lora: Path | str | None = None,
    method: str | None = None, effort: str = "balanced",
    bits: int | None = None, group_size: int | None = GROUP_SIZE, symmetric: bool = True,
    calibration: CalibrationPlan | None = None,
    context: int = CONTEXT,
    act_order: str = "static",
    kv_cache: str | None = None, observer: str | None = None, percentile: float | None = None,
    saturate: bool = False,
    overrides: Sequence[Override] = (),
    vision: str | None = None, projector: str | None = None, few_bits: bool = False,
    wish: Wish | None = None,
    progress: Progress = SILENT,
) -> Plan:  # fmt: skip
    """Decide what becomes of every tensor of `model`; what is not given is chosen by use case and device.

    `group_size` `None` is one scale per output channel; `lora` is the folder of an adapter that is merged into the
    model as it is read; `overrides` are types by hand for tensors whose names match; with `saturate`, values beyond
    F16's range become its largest; `observer` (minmax, percentile, mse, entropy) chooses the scales that are stored of
    inputs, keys and values; `vision` and `projector` (float, int8, int4; fewer than 8 bits with `few_bits`) say
    what becomes of a vision-language model's other parts; with a `wish` (load, limits, cost) the plan ranks the ways to
    serve the model. Raises `InputError` for a damaged checkpoint, `UsageError`
    for a request that cannot be, `EnvironmentFault` when nothing that may be chosen fits in memory.
    """
    from bitwright.facts.hardware import find_device
    from bitwright.planner.build import make_plan as build
    from bitwright.planner.observers import check_observer
    from bitwright.planner.request import check_request
    from bitwright.planner.vision import part_types
    from bitwright.planner.wish import check_wish

    # Words before files: a misspelt flag is answered before a model is downloaded.
    check_request(
        use_case=use_case, format=format, type=type, method=method, effort=effort, bits=bits, group_size=group_size,
        symmetric=symmetric,
    )  # fmt: skip
    if observer is not None:
        check_observer(observer, percentile)
    if wish is not None:
        check_wish(wish)
    method = _method_without_text(method, calibration)
    parts = part_types(vision, projector, few_bits=few_bits)
    device = find_device(target)
    from bitwright.api.machine import stored
    from bitwright.api.models import described

    plan = build(
        described(model, lora, progress=progress),
        device,
        use_case=use_case, format=format, type=type, method=method, effort=effort, bits=bits, group_size=group_size,
        symmetric=symmetric, calibration=calibration, context=context, act_order=act_order, kv_cache=kv_cache,
        observer=observer, percentile=percentile, saturate=saturate, overrides=overrides, parts=parts,
        wish=wish, machine=None if wish is None else stored(device, target),
    )  # fmt: skip
    return _without_unseen(plan)


def wish_of(path: Path | None, **said: Any) -> Wish:
    """A wish of flags over one of a file. Raises `UsageError` for a word or number that is none."""
    from bitwright.planner.wish import read_wish, said_wish

    flags = said_wish(**said)
    return flags if path is None else flags.over(read_wish(path))


def _method_without_text(method: str | None, calibration: CalibrationPlan | None) -> str | None:
    """An importance matrix weighs inputs one by one, which is all that the weighted scale search asks for; without
    either every input counts alike."""
    if calibration is None or calibration.source:
        return method
    if method in (None, "rtn"):
        return "rtn"
    if calibration.imatrix:
        raise UsageError(
            f"method {method} needs to know how inputs go together, an importance matrix has them one by one",
            hint="use --method rtn with --imatrix, or --calibration with text",
        )
    raise UsageError(
        f"method {method} needs to know the inputs, and without text nothing is known of them",
        hint="use --method rtn with --calibration none, or give text",
    )


def _without_unseen(plan: Plan) -> Plan:
    """`plan`. Raises `UsageError` where it stores scales of inputs and takes them from no text."""
    for entry in () if plan.calibration.source else plan.tensors:
        if static_inputs(entry.scheme) is not None:
            raise UsageError(
                f"{plan.type} stores the scale of activations, which needs calibration text",
                hint="choose a type with dynamic activations, or give text",
            )
    return plan


def explain(plan: Plan) -> Explanation:
    """The plan as rows for people."""
    from bitwright.planner.explain import explain as rows

    return rows(plan)


def write_plan_page(plan: Plan, path: Path) -> None:
    """The plan as an HTML page that stands alone."""
    from bitwright.core.atomic import write_bytes
    from bitwright.report.plan_page import render_plan

    write_bytes(path, render_plan(plan, explain(plan)).encode())


def settle(plan: Plan, out: Path) -> Plan:
    """Write `out/plan.json`, or return the one that is there when it means the same work.

    The same artifact may be served otherwise than when it was begun: that part is the newer plan's.

    Raises `MismatchError` when `out` was begun with another plan.
    """
    path = out / PLAN_FILE
    if not path.exists():
        write_document(plan, path)
        return plan
    begun = read_document(Plan, path)
    difference = what_differs(begun, plan)
    if difference is not None:
        raise MismatchError(
            f"`{out}` was begun with another plan: {difference}", hint="choose another --out, or remove that folder"
        )
    if begun.launch == plan.launch:
        return begun
    served = {name: getattr(plan, name) for name in SERVED}
    begun = msgspec.structs.replace(begun, **served)
    write_document(begun, path)
    return begun


def what_differs(begun: Plan, plan: Plan) -> str | None:
    """The first thing in which two plans ask for different artifacts, or `None`; places and memory do not count."""
    if begun.model.fingerprint != plan.model.fingerprint:
        return f"the model was {begun.model.path}, now it is {plan.model.path}"
    for field in (
        "format",
        "overrides",
        "type",
        "method",
        "effort",
        "use_case",
        "act_order",
        "kv_cache",
        "observer",
        "percentile",
        "saturate",
        "calibration",
    ):
        before, now = getattr(begun, field), getattr(plan, field)
        if before != now and _short(before) == _short(now):
            return f"the content of {field} {_short(now)} has changed"
        if before != now:
            return f"{field} was {_short(before)}, now it is {_short(now)}"
    return None if begun.tensors == plan.tensors else "other types for some tensors"


def _short(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(override.words for override in value) or "empty"
    if isinstance(value, CalibrationPlan) and not value.source and not value.imatrix:
        return "none"
    if isinstance(value, CalibrationPlan) and value.imatrix:
        return value.imatrix
    if isinstance(value, CalibrationPlan):
        return f"{', '.join(value.source)} ({value.samples} x {value.length}, seed {value.seed})"
    return str(value)
