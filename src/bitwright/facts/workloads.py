"""What requests look like by load, from workloads.toml: what a target counts with where a person says nothing.

Not here: how a target is put together (planner/target.py), limits of quality (thresholds.py).
"""

from __future__ import annotations

import functools

from bitwright.core.choices import UseCase
from bitwright.core.documents import Record
from bitwright.core.errors import UsageError, did_you_mean
from bitwright.core.target import Load, Workload
from bitwright.facts.rows import read_rows

FILE = "workloads.toml"


class WorkloadRow(Record, frozen=True, kw_only=True):
    """One row; the head of the file says what each field means."""

    load: Load
    prompt_tokens: int
    output_tokens: int
    concurrency: int
    shared_prefix_tokens: int = 0
    use_case: UseCase
    because: str
    source: str
    date: str

    @property
    def workload(self) -> Workload:
        """As a target has it."""
        return Workload(
            load=self.load,
            prompt_tokens=self.prompt_tokens,
            output_tokens=self.output_tokens,
            concurrency=self.concurrency,
            shared_prefix_tokens=self.shared_prefix_tokens,
        )


@functools.cache
def workloads() -> dict[str, WorkloadRow]:
    """The table, by load."""
    return {row.load: row for row in read_rows(FILE, "workload", WorkloadRow)}


def workload_row(load: str) -> WorkloadRow:
    """The row of a load. Raises `UsageError` with the nearest name for an unknown one."""
    if load not in workloads():
        raise UsageError(f"unknown workload `{load}`", hint=did_you_mean(load, [*workloads()]))
    return workloads()[load]
