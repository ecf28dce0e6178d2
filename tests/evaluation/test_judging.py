import numpy as np
import pytest
from tiny_models import source, text, whole_model

from bitwright.calibration.corpora import make_windows
from bitwright.core.records import ArtifactFile, Estimate, Gate
from bitwright.evaluation.sampling import Sampling, affordable, doubling
from bitwright.evaluation.stats import positive_mean
from bitwright.evaluation.validate import validate
from bitwright.evaluation.verdict import judge, narrowed
from bitwright.facts.thresholds import Thresholds


@pytest.fixture(scope="module")
def model():
    return whole_model()


def judged(model, limit, *, most=64, noise=0.05, budget=float("inf"), texts=1):
    """Four windows first, up to `most` of each text."""
    whole = [text(f"text {index}", windows=most, seed=index + 3) for index in range(texts)]
    asked = []

    def more(index, start, stop):
        asked.append((index, start, stop))
        part = whole[index].tokens[start:stop]
        return make_windows(whole[index].name, part) if len(part) else None

    record = validate(
        source(model), source(model, noise=noise), [make_windows(one.name, one.tokens[:4]) for one in whole],
        thresholds=Thresholds(use_case="chat", perplexity_delta=1e6, kl_mean=limit, source="test"), decode=str,
        decoder="", files=(ArtifactFile(name="a", bytes=1, sha256="s"),), command="",
        sampling=Sampling(looks=doubling(4, most), more=more, budget_seconds=budget),
    )  # fmt: skip
    return record, asked


def test_clear_cases_are_decided_at_the_first_look(model):
    record, asked = judged(model, 50.0)
    assert (record.verdict, record.looks, asked) == ("PASS", 1, [])
    assert record.confidence == pytest.approx(1 - 0.05 / 5)


def test_a_close_case_takes_more_windows_and_repeats_none(model):
    truth = judged(model, 50.0, most=4)[0].texts[0].kl_mean
    record, asked = judged(model, truth.value * 1.5)
    assert record.verdict == "PASS"
    assert record.looks > 1
    assert [start for _, start, _ in asked] == [4, 8, 16, 32][: len(asked)]
    assert record.texts[0].windows == asked[-1][2]
    read = text("text 0", windows=64, seed=3).tokens[: record.texts[0].windows]
    assert record.texts[0].sha256 == make_windows("", read).sha256


def test_only_texts_that_are_open_are_read_on(model):
    both = judged(model, 50.0, most=64, texts=2)[0]
    between = (both.texts[0].kl_mean.value + both.texts[1].kl_mean.value) / 2
    record, asked = judged(model, between, texts=2)
    decided = {gate.text for gate in record.gates if gate.verdict != "INCONCLUSIVE"}
    counts = {result.name: result.windows for result in record.texts}
    assert asked
    assert max(counts.values()) == max(stop for _, _, stop in asked)
    assert decided or set(counts.values()) == {64}


def test_the_end_of_the_text_or_of_the_budget_leaves_it_open(model):
    whole = judged(model, 50.0, most=8)[0].texts[0].kl_mean.value
    record, _ = judged(model, whole, most=8)
    assert (record.verdict, record.looks) == ("INCONCLUSIVE", 2)
    record, asked = judged(model, whole, budget=1e-9)
    assert (record.verdict, record.looks, asked) == ("INCONCLUSIVE", 1, [])


def test_a_budget_pays_for_a_part_of_a_look():
    import time

    assert affordable(100, 2, 10, time.monotonic() - 10, 50.0) in (19, 20)
    assert affordable(100, 1, 10, time.monotonic() - 10, float("inf")) == 100


def test_looks_double_and_end_at_the_most():
    assert doubling(32, 512) == (32, 64, 128, 256, 512)
    assert doubling(8, 20) == (8, 16, 20)
    assert doubling(8, 8) == (8,)


def gate(low, value, high, limit=1.0):
    estimate = Estimate(value=value, low=low, high=high)
    verdict = judge(estimate, limit)
    return Gate(measure="kl_mean", limit=limit, estimate=estimate, verdict=verdict, source="", text="t")


def test_what_was_decided_stays_decided():
    later = narrowed([gate(0.8, 0.95, 1.1)], [gate(0.5, 0.7, 0.9)])[0]
    assert later.verdict == "PASS"
    assert (later.estimate.low, later.estimate.high) == (0.8, 0.9)
    assert later.estimate.value == 0.9
    apart = narrowed([gate(1.2, 1.3, 1.4)], [gate(0.5, 0.7, 0.9)])[0]
    assert (apart.verdict, apart.estimate.low) == ("FAIL", 1.2)


@pytest.mark.slow
def test_looking_often_errs_in_less_than_one_of_twenty():
    """Skewed windows, the limit a little beside the truth, on both sides; intervals of 95 % at each look err more than
    twice as often."""
    truth = float(np.exp(0.125))
    looks = doubling(16, 256)
    for distance in (0.97, 1.03):
        wrong = dict.fromkeys((0.95, 1 - 0.05 / len(looks)), 0)
        for seed in range(1500):
            values = np.random.default_rng(seed).lognormal(0, 0.5, size=256)
            for level in wrong:
                verdicts = (judge(positive_mean(values[:n], confidence=level), truth * distance) for n in looks)
                first = next((verdict for verdict in verdicts if verdict != "INCONCLUSIVE"), "")
                wrong[level] += first == ("PASS" if distance < 1 else "FAIL")
        spent, naive = wrong[1 - 0.05 / len(looks)] / 1500, wrong[0.95] / 1500
        assert spent < 0.05
        assert naive > 2 * spent
