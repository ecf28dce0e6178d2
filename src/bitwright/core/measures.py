"""Measures that gates hold against limits, as people call them. The keys stand in records and profiles.

Not here: the limits (facts), how a measure is taken (evaluation).
"""

from __future__ import annotations

from typing import Literal

from bitwright.core.documents import Record

Kind = Literal["figure", "share", "count"]  # a share is said in per cent; of what is counted none is allowed
Blamed = Literal["precision", "damage", "engine"]  # what makes it fail: few bits, something broken, how it is served


class Measure(Record, frozen=True, kw_only=True):
    """How one measure is called, in which unit, and what more of it would decide."""

    words: str
    unit: str = ""
    kind: Kind = "figure"
    blamed: Blamed = "precision"
    drawn: str = "windows"  # what more of decides a gate on it


MEASURES = {
    "kl_mean": Measure(words="mean KL", unit="nats per token"),
    "kl_p99": Measure(words="KL that 99 of 100 tokens stay below", unit="nats"),
    "perplexity_delta": Measure(words="change of perplexity"),
    "perplexity_ratio": Measure(words="perplexity, artifact over original"),
    "top1_flips": Measure(words="other top token", kind="share"),
    "finite_logits": Measure(words="windows without numbers", kind="count", blamed="damage"),
    "settings": Measure(words="settings unlike the original's", kind="count", blamed="damage"),
    "weights": Measure(words="tensors that rounding does not explain", kind="count", blamed="damage"),
    "vision": Measure(words="vision tensors that rounding does not explain", kind="count", blamed="damage"),
    "task_drop": Measure(words="fall of the score", drawn="items"),
    "task_flips": Measure(words="answers that changed between right and wrong", kind="share", drawn="items"),
    "loop_rate": Measure(words="more texts that end in a loop", kind="share", drawn="prompts"),
    "length_inflation": Measure(words="length of texts, artifact over original", drawn="prompts"),
    "invalid_rate": Measure(words="more texts with invalid characters", kind="share", drawn="prompts"),
    "engine_kl": Measure(
        words="KL of the engine from the file as decoded", unit="nats per token", blamed="engine", drawn="prompts"
    ),
    "engine_template": Measure(words="chats that the engine reads otherwise", kind="count", blamed="engine"),
    "engine_tokenizer": Measure(words="texts that the engine reads otherwise", kind="count", blamed="engine"),
}


def measure(key: str) -> Measure:
    """The measure behind a key; one that is not known is called by its key."""
    return MEASURES.get(key) or Measure(words=key.replace("_", " "))
