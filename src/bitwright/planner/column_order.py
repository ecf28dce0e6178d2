"""`--act-order`: in which order GPTQ takes the columns of a matrix, and whether groups are formed in it.

    static   by falling weight of the inputs, groups where they were: nothing to store, no kernel the slower (default)
    group    groups are formed in that order too, and `g_idx` says which group an input is in: GPTQ folders only
    none     as the columns come

Not here: the order itself (quantize/gptq.py, quantize/solve.py).
Sources: vLLM 0.32, layers/quantization/auto_gptq.py; SGLang 0.5.23, layers/quantization/gptq; compressed-tensors 0.20,
quantization/quant_args.py (`actorder='group' has been removed`).
"""

from __future__ import annotations

from typing import cast, get_args

import msgspec

from bitwright.core.errors import UnsupportedError, UsageError, did_you_mean
from bitwright.core.plan import ActOrder, Plan, Reason, TensorPlan
from bitwright.core.schemes import IntScheme

ORDERS: tuple[str, ...] = get_args(ActOrder)
GPTQ_FOLDERS = ("gptq", "gptq_v2")
REQUEST = "the request"


def with_act_order(plan: Plan, wanted: str) -> Plan:
    """The plan with another order of columns. Raises `UsageError`, and `UnsupportedError` where it cannot be stored."""
    if wanted not in ORDERS:
        raise UsageError(f"unknown act-order `{wanted}`", hint=did_you_mean(wanted, list(ORDERS)))
    if wanted == "static":
        return plan
    if plan.method != "gptq":
        raise UsageError(
            f"--act-order {wanted} says how GPTQ goes through columns, the method is {plan.method}",
            hint="use --method gptq",
        )
    plan = msgspec.structs.replace(plan, act_order=cast(ActOrder, wanted))
    if wanted == "none":
        reason = Reason(choice="columns as they come", because="it was asked for", source=REQUEST)
        return msgspec.structs.replace(plan, reasons=(*plan.reasons, reason))
    if plan.format not in GPTQ_FOLDERS:
        because = "compressed-tensors has removed it" if plan.format == "compressed-tensors" else "it has no place"
        raise UnsupportedError(
            f"{plan.format} files cannot say which group a column is in: {because}",
            hint="use --format gptq, or --act-order static",
        )
    reason = Reason(
        choice="groups in the order of weight", because="columns of like weight share a scale; g_idx is stored",
        source=REQUEST,
    )  # fmt: skip
    warning = (
        "groups in another order: vLLM 0.32 refuses such files (desc_act with groups); SGLang and GPTQModel load them, "
        "and gather inputs or scales at every product, which is slower"
    )
    return msgspec.structs.replace(
        plan, type=f"{plan.type} act-order", tensors=tuple(map(_ordered, plan.tensors)),
        reasons=(*plan.reasons, reason), warnings=(*plan.warnings, warning),
    )  # fmt: skip


def _ordered(entry: TensorPlan) -> TensorPlan:
    if not isinstance(entry.scheme, IntScheme):
        return entry
    scheme = msgspec.structs.replace(entry.scheme, ordered=True)
    return msgspec.structs.replace(entry, scheme=scheme, reason=f"{entry.reason}, groups by weight")
