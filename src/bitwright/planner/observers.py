"""`--observer`: what chooses the scales that a file stores of inputs, and of keys and values.

    minmax       the largest magnitude (default)
    percentile   the magnitude that a share of the values stays below, `--percentile`
    mse          the one whose rounding has the least squared error
    entropy      the one that loses least information
NVFP4 stores a factor, and rounds under scales that it takes from 16 inputs each: a search that rounds values under one
scale says nothing of it, so only the first two rules apply.

Not here: the rules (calibration/observers.py).
"""

from __future__ import annotations

from typing import cast, get_args

import msgspec

from bitwright.core.errors import UsageError, did_you_mean
from bitwright.core.plan import PERCENTILE, ObserverRule, Plan, Reason
from bitwright.core.schemes import static_inputs

RULES: tuple[str, ...] = get_args(ObserverRule)
SEARCHES = ("mse", "entropy")
SOURCE = "the request; docs/methods/observers.md"


def with_observer(plan: Plan, wanted: str | None, percentile: float | None) -> Plan:
    """The plan with another rule for stored scales. Raises `UsageError` for one that has nothing to choose."""
    if wanted is None and percentile is None:
        return plan
    wanted = wanted or "percentile"
    check_observer(wanted, percentile)
    kinds = {inputs.scaling for entry in plan.tensors if (inputs := static_inputs(entry.scheme)) is not None}
    if not kinds and plan.kv_cache is None:
        raise UsageError(
            f"--observer {wanted} chooses the scales of inputs that a file stores, and {plan.type} stores none",
            hint="use --type W8A8_STATIC, FP8 or NVFP4, or --kv-cache fp8; dynamic scales are the engine's",
        )
    if "nv" in kinds and wanted in SEARCHES:
        raise UsageError(
            f"--observer {wanted} tries one scale for all inputs, and {plan.type} takes one for every 16",
            hint="use --observer percentile, which sets the factor above them",
        )
    share = PERCENTILE if percentile is None else percentile
    reason = Reason(
        choice=f"observer {wanted}{f' {share:g}' if wanted == 'percentile' else ''}",
        because="it was asked for; stored scales of inputs, keys and values follow it", source=SOURCE,
    )  # fmt: skip
    return msgspec.structs.replace(
        plan, observer=cast(ObserverRule, wanted), percentile=share, reasons=(*plan.reasons, reason)
    )


def check_observer(wanted: str, percentile: float | None) -> None:
    """Check words and numbers, before a model is looked at. Raises `UsageError`."""
    if wanted not in RULES:
        raise UsageError(f"unknown observer `{wanted}`", hint=did_you_mean(wanted, list(RULES)))
    if percentile is not None and wanted != "percentile":
        raise UsageError(
            f"--percentile {percentile:g} is for --observer percentile, and {wanted} was asked for",
            hint="give one of them",
        )
    if percentile is not None and not 50 < percentile <= 100:
        raise UsageError(f"percentile {percentile:g} keeps too little or more than there is", hint="use 99 to 100")
