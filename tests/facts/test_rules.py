"""Rows of rules and thresholds: complete, sourced, and made of types that this version writes."""

from __future__ import annotations

import pytest

from bitwright.core.errors import UsageError
from bitwright.core.plan import USE_CASES
from bitwright.core.schemes import INT_BITS
from bitwright.facts.gguf_mixtures import PRESETS
from bitwright.facts.rules import gguf_rules, integer_rules
from bitwright.facts.thresholds import thresholds

HANDBOOK = {
    "chat": (0.3, 0.1),
    "code": (0.2, 0.05),
    "medical-legal": (0.05, 0.01),
    "summarization": (0.5, 0.2),
    "vlm": (0.3, 0.1),
}


@pytest.mark.parametrize("use_case", USE_CASES)
def test_thresholds_are_the_handbooks(use_case: str) -> None:
    limits = thresholds(use_case)
    assert (limits.perplexity_delta, limits.kl_mean) == HANDBOOK[use_case]
    assert limits.source.startswith("decision framework handbook, step 5")


def test_an_unknown_use_case_is_refused() -> None:
    with pytest.raises(UsageError, match="poetry"):
        thresholds("poetry")


@pytest.mark.parametrize("use_case", USE_CASES)
def test_every_rule_has_a_source_and_writable_types(use_case: str) -> None:
    for rule in (gguf_rules()[use_case], integer_rules()[use_case]):
        assert rule.source.startswith(("decision framework handbook", "deployment guide"))
        assert rule.because
    assert set(gguf_rules()[use_case].ladder) <= set(PRESETS)
    assert set(integer_rules()[use_case].bits) <= set(INT_BITS)
