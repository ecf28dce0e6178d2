"""Loads: every one has a row that a target can be made of."""

from __future__ import annotations

import datetime
from typing import get_args

import pytest

from bitwright.core.errors import UsageError
from bitwright.core.target import Load
from bitwright.facts.thresholds import thresholds
from bitwright.facts.workloads import WorkloadRow, workload_row, workloads


def test_every_load_has_a_row() -> None:
    assert list(workloads()) == list(get_args(Load))


@pytest.mark.parametrize("row", workloads().values(), ids=list(workloads()))
def test_a_row_is_a_workload_with_limits(row: WorkloadRow) -> None:
    made = row.workload
    assert 0 <= made.shared_prefix_tokens < made.prompt_tokens
    assert made.context == row.prompt_tokens + row.output_tokens
    assert made.concurrency >= 1
    assert made.requests_per_second is None
    assert thresholds(row.use_case).perplexity_delta > 0
    assert datetime.date.fromisoformat(row.date)
    assert len(row.because) > 20
    assert len(row.source) > 20


def test_batch_is_the_load_with_most_at_once_and_edge_the_one_with_least() -> None:
    at_once = {load: row.concurrency for load, row in workloads().items()}
    assert max(at_once, key=lambda load: at_once[load]) == "batch"
    assert min(at_once, key=lambda load: at_once[load]) == "edge"


def test_an_unknown_load_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown workload `agents`") as caught:
        workload_row("agents")
    assert "did you mean `agent`?" in (caught.value.hint or "")
