"""`--plan`: a plan from a file decides alone, so the flags that would go into one are refused beside it."""

from __future__ import annotations

from pathlib import Path

import typer

from bitwright.cli.wished import WISHES
from bitwright.core.documents import read_document
from bitwright.core.errors import UsageError
from bitwright.core.plan import Plan

DECISIONS = (
    "target",
    "use_case",
    "format",
    "type",
    "keep",
    "target_size",
    "target_bpw",
    "method",
    "effort",
    "act_order",
    "kv_cache",
    "observer",
    "percentile",
    "bits",
    "group_size",
    "asymmetric",
    "vision",
    "projector",
    "imatrix",
    "calibration",
    "samples",
    "length",
    "seed",
    "force",
    "context",
    *WISHES,
    "served_cache",
    "engine",
    "wish",
)


def given_plan(plan: Path, command: typer.Context) -> Plan:
    """The plan. Raises `UsageError` for a flag beside it that would be ignored, or would contradict it."""
    for name in DECISIONS:
        source = command.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(
                f"{flag} and --plan cannot be given together", hint="the plan already says it; make another plan"
            )
    return read_document(Plan, plan)
