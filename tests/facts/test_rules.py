"""Rows of rules and thresholds: complete, sourced, and made of types that this version writes."""

from __future__ import annotations

import pytest

from bitwright.core.errors import UsageError
from bitwright.core.plan import USE_CASES
from bitwright.core.schemes import INT_BITS
from bitwright.facts.catalogue import catalogue, catalogue_facts
from bitwright.facts.compressed_types import COMPRESSED_TYPES
from bitwright.facts.decision_rules import When, decision_rules, drafts
from bitwright.facts.folder_types import BITSANDBYTES_TYPES
from bitwright.facts.gguf_mixtures import PRESETS
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


def test_every_rule_has_a_source_and_writable_types() -> None:
    known = {"float", *(f"W{bits}A16" for bits in INT_BITS), *PRESETS, *COMPRESSED_TYPES, *BITSANDBYTES_TYPES}
    names = [rule.id for rule in decision_rules()]
    assert len(names) == len(set(names))
    for rule in decision_rules():
        assert len(rule.source) > 10
        assert rule.takes or rule.prefer or rule.avoid or rule.adds, f"{rule.id} does nothing"
        assert {*rule.prefer, *rule.avoid} <= known, rule.id


@pytest.mark.parametrize("format", ["gguf", "compressed-tensors"])
@pytest.mark.parametrize("use_case", USE_CASES)
def test_every_use_case_has_a_rule(use_case: str, format: str) -> None:
    """Which prefers something without a limit or a load that was asked for."""
    bare = [rule for rule in decision_rules() if rule.when == When(format=format, use_cases=rule.when.use_cases)]  # type: ignore[arg-type]
    floors = thresholds(use_case).perplexity_delta
    tight = [rule for rule in decision_rules() if rule.when.format == format and (rule.when.floor_to or -1) >= floors]
    assert tight or any(use_case in rule.when.use_cases for rule in bare)


def test_a_draft_is_of_the_catalogue_and_has_the_vocabulary() -> None:
    for row in drafts():
        small = catalogue_facts(catalogue()[row.model])
        assert small.vocab == row.vocab
        assert small.parameters / 1e9 == pytest.approx(row.billions, rel=0.05)
        assert small.catalogue == row.hub
