"""The verdict in sentences: what failed, by how much, what to do next, how much more would decide it."""

from __future__ import annotations

import msgspec
import pytest
import sample_records as sample

from bitwright.cli.render import print_validation
from bitwright.core.measures import MEASURES
from bitwright.core.records import Estimate, Gate, ValidationRecord, Verdict
from bitwright.facts.behaviour import LIMITS
from bitwright.facts.thresholds import limits, thresholds
from bitwright.report.verdict_words import blame, by_how_much, figure, next_step, rests_on, verdict_sentence


def gate(measure: str, verdict: Verdict, value: float, *, limit: float = 0.1, more: int | None = None) -> Gate:
    counted = MEASURES[measure].kind == "count"
    around = Estimate(value=value, low=value, high=value) if counted else sample.around(value, 0.1)
    return Gate(
        measure=measure, limit=0.0 if counted else limit, estimate=around, verdict=verdict, source="s",
        text="" if counted else "prose", windows_more=more,
    )  # fmt: skip


def judged(*gates: Gate) -> ValidationRecord:
    verdicts = [one.verdict for one in gates]
    worst: Verdict = "FAIL" if "FAIL" in verdicts else "INCONCLUSIVE" if "INCONCLUSIVE" in verdicts else "PASS"
    return msgspec.structs.replace(sample.validation(worst), verdict=worst, gates=gates)


def test_every_gated_measure_has_a_name() -> None:
    assert set(limits(thresholds("chat"))) | set(LIMITS) <= set(MEASURES)


def test_a_failure_says_by_how_much() -> None:
    said = verdict_sentence(judged(gate("kl_mean", "FAIL", 0.31)))
    assert "mean KL on prose is 0.310 (0.279 to 0.341) nats per token, the limit is 0.1 (3.1 times the limit)" in said
    assert by_how_much(gate("kl_mean", "FAIL", 4.2)) == "42 times the limit"
    assert by_how_much(gate("kl_mean", "FAIL", 0.105)) == "just over the limit"
    assert by_how_much(gate("kl_mean", "PASS", 0.05)) == ""


def test_only_the_first_of_several_is_told_in_full() -> None:
    said = verdict_sentence(judged(gate("kl_mean", "FAIL", 0.31), gate("perplexity_delta", "FAIL", 2.0, limit=0.3)))
    assert said.endswith("(3.1 times the limit); change of perplexity on prose (6.7 times the limit).")


def test_what_is_broken_goes_before_what_follows_from_it() -> None:
    record = judged(gate("kl_mean", "FAIL", 0.31), gate("settings", "FAIL", 2.0))
    said = verdict_sentence(record)
    assert "is broken: 2 settings unlike the original's, where none is allowed; 1 more below." in said
    what, command = next_step(record)
    assert "do not serve it" in what
    assert command == "bitwright doctor out/wide-Q4_K_M.gguf --reference models/wide"


def test_what_was_judged_with_an_adapter_is_examined_with_it() -> None:
    record = msgspec.structs.replace(
        judged(gate("weights", "FAIL", 3.0)), command="bitwright validate a --reference b --lora 'my adapter' --seed 1"
    )
    assert next_step(record)[1].endswith(" --reference models/wide --lora 'my adapter'")


def test_shares_are_said_in_per_cent_and_counts_without_an_interval() -> None:
    assert blame(gate("top1_flips", "FAIL", 0.2)).endswith(
        "20.0 % (18.0 to 22.0 %), the limit is 10 % (2.0 times the limit)"
    )
    assert figure(gate("weights", "FAIL", 3.0)) == "3"


def test_too_few_bits_ask_for_more_bits() -> None:
    what, command = next_step(judged(gate("kl_mean", "FAIL", 0.31)))
    assert "keeps more bits" in what
    assert command.endswith("--reference models/wide --explain")


def test_an_engine_that_answers_otherwise_is_not_the_files_fault() -> None:
    record = judged(gate("engine_kl", "FAIL", 0.5, limit=0.02))
    assert "is not served as it was judged" in verdict_sentence(record)
    assert next_step(record)[0].startswith("Next: change how it is served")


def test_an_open_verdict_says_how_many_windows_and_how() -> None:
    what, command = next_step(judged(gate("kl_mean", "INCONCLUSIVE", 0.097, more=40)))
    assert "about 40 more windows would decide it" in what
    assert command.endswith("wikitext2-test.txt --until-decided")
    asked = judged(gate("task_drop", "INCONCLUSIVE", 0.05, more=120))
    assert next_step(asked) == ("Next: about 120 more items would decide it.", "")


def test_what_lies_on_the_limit_is_not_decided_by_more_text() -> None:
    on_it = gate("kl_mean", "INCONCLUSIVE", 0.1)
    assert "more text will not decide it" in next_step(judged(on_it))[0]
    assert blame(on_it, cure=True).endswith("(it lies on the limit: more text will not decide it)")


def test_one_that_was_asked_for_until_it_is_decided_is_not_told_to_ask_again() -> None:
    record = msgspec.structs.replace(
        judged(gate("kl_mean", "INCONCLUSIVE", 0.097, more=40)), command="bitwright validate a --until-decided"
    )
    assert next_step(record) == ("Next: about 40 more windows would decide it; give it a larger --budget.", "")


@pytest.mark.parametrize("verdict", ["PASS", "FAIL", "INCONCLUSIVE"])
def test_how_much_was_read_stands_beside_the_verdict(verdict: Verdict) -> None:
    assert rests_on(sample.validation(verdict)) == (
        "Judged on wikitext2-test (24 windows of 512 tokens), python-source (24 windows of 512 tokens), "
        "with 95 % intervals."
    )


def test_nothing_is_to_do_after_a_pass() -> None:
    assert next_step(judged(gate("kl_mean", "PASS", 0.05))) == ("", "")


def test_a_terminal_says_what_to_do_too(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    print_validation(judged(gate("kl_mean", "FAIL", 0.31), gate("weights", "FAIL", 3.0)))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "Next: do not serve it. This command says what is broken, how that comes about" in lines
    assert lines[-1] == "  bitwright doctor out/wide-Q4_K_M.gguf --reference models/wide"
    assert "3 to 3" not in "".join(lines)
