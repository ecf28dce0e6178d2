"""The verdict that travels inside an artifact, and whether the artifact still is the one that was judged.

A hash shows what was changed by accident or by another tool. It is no signature: who can write the file can write a
verdict too. Not here: where formats keep it (formats), what it is made from (evaluation/summary.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Literal

import msgspec

from bitwright.core.documents import Record

State = Literal["unchanged", "changed", "unknown"]


class CarriedText(msgspec.Struct, frozen=True, kw_only=True):
    """One text of the summary; estimates are [value, low, high]."""

    name: str
    windows: int
    length: int
    kl_mean: tuple[float, float, float]  # nats per token
    ppl_delta: tuple[float, float, float]
    top1: float  # share


class CarriedSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What is read of a summary; newer versions may hold more."""

    verdict: Literal["PASS", "FAIL", "INCONCLUSIVE"]
    use_case: str
    texts: tuple[CarriedText, ...] = ()
    weights_sha256: str = ""
    settings_sha256: str = ""
    created: str = ""  # ISO 8601, UTC


class Carried(Record, frozen=True, kw_only=True):
    """What an artifact says of itself, held against its own bytes."""

    verdict: Literal["PASS", "FAIL", "INCONCLUSIVE"] | None  # None: there is none, or it cannot be read
    use_case: str = ""
    created: str = ""
    weights: State = "unknown"
    settings: State = "unknown"  # GGUF keys; config, tokenizer and templates of a folder
    said: str = ""  # in words

    @property
    def changed(self) -> bool:
        """Whether the verdict is of another artifact."""
        return self.verdict is not None and "changed" in (self.weights, self.settings)


def weights_sha256(digests: Iterable[str]) -> str:
    """One digest for all weight files: that of the only file, or the SHA-256 of all digests, sorted, one a line."""
    held = sorted(digests)
    return held[0] if len(held) == 1 else hashlib.sha256("\n".join(held).encode()).hexdigest()
