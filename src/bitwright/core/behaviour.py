"""What a model does, beside what it predicts: answers to tasks.

Fields of `ValidationRecord`; each is absent where it was not measured.
"""

from __future__ import annotations

from bitwright.core.documents import Record
from bitwright.core.estimate import Estimate


class TaskResult(Record, frozen=True, kw_only=True):
    """One metric of one task of lm-evaluation-harness: both models, the same prompts, item by item.

    The flips and `mcnemar_p` are of metrics that are 0 or 1 for every item; `drop` of those that are a number.
    """

    task: str
    metric: str
    filter: str  # how answers were read: `none`, or a name of the task's own
    items: int
    higher_is_better: bool
    reference: Estimate
    artifact: Estimate
    drop: Estimate | None = None  # how much worse the artifact is, paired by item
    lost: int | None = None  # items that only the reference answers rightly
    won: int | None = None  # items that only the artifact answers rightly
    flips: Estimate | None = None  # both together, as a share of the items
    mcnemar_p: float | None = None  # exact, two-sided
    prompts_sha256: str = ""
    version: str = ""  # of the task
