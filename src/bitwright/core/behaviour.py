"""What a model does, beside what it predicts: answers to tasks, long texts, and what the engine says
that serves it.

Fields of `ValidationRecord`; each is absent where it was not measured.
"""

from __future__ import annotations

from typing import Literal

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


class Written(Record, frozen=True, kw_only=True):
    """Long texts of one model. Rates are shares of its texts."""

    tokens: Estimate  # mean length, without the end token
    loop_rate: Estimate  # end in repeats of one passage
    end_rate: Estimate  # end by themselves
    invalid_rate: Estimate  # hold characters that are no valid UTF-8


class AgreementBin(Record, frozen=True, kw_only=True):
    """Positions [start, stop) of both texts: the share that hold the same token, over texts that reach them."""

    start: int
    stop: int
    texts: int
    share: Estimate


class LongOutput(Record, frozen=True, kw_only=True):
    """Continuations of the same prompts by both models, one way of decoding; the prompt is the unit of intervals."""

    decoding: str  # greedy, or `temperature 0.8`: then both were given the same noise
    prompts: int
    new_tokens: int  # the horizon
    reference: Written
    artifact: Written
    first_divergence: Estimate  # mean tokens in common at the start; the horizon where texts never part
    never_parted: Estimate  # share of prompts
    agreement: tuple[AgreementBin, ...]
    length_inflation: Estimate  # mean length of the artifact's texts over the reference's
    loop_rise: Estimate  # of the rates, paired by prompt
    end_drop: Estimate
    invalid_rise: Estimate


class Suspect(Record, frozen=True, kw_only=True):
    """What may make an engine answer otherwise than its artifact does, and what a test of it said."""

    name: str  # chat template, tokenizer, rope, KV cache, weights
    finding: Literal["found", "suspected", "cleared", "not tested"]
    evidence: str


class EngineCheck(Record, frozen=True, kw_only=True):
    """A running engine's most probable tokens against the decoded artifact and the original, on the same token ids.

    KL is of the engine's `top` tokens and all others as one: less than that of the whole vocabulary. The prompt is the
    unit of intervals.
    """

    engine: str
    url: str
    model: str
    settings: dict[str, str]
    prompts: int
    positions: int
    top: int
    kl_engine: Estimate  # from the decoded artifact to the engine
    kl_decoded: Estimate  # from the original to the decoded artifact: what the weights do
    kl_served: Estimate  # from the original to the engine
    top1_agreement: Estimate  # of decoded artifact and engine
    kl_first: Estimate  # from the decoded artifact to the engine behind prompts of one token
    suspects: tuple[Suspect, ...]
    allowed: float | None = None  # of kl_engine: the limit, or twice the floor where that is more
    kl_rounding: Estimate | None = None  # the floor: from the decoded artifact to itself with inputs of 8 bits
