"""Long texts: what counts as a loop, where two texts part, and both on tiny models."""

from __future__ import annotations

import math

import msgspec
import pytest
import torch

from bitwright.calibration.corpora import make_windows
from bitwright.core.errors import UsageError
from bitwright.core.protocols import SILENT
from bitwright.evaluation import long_output
from bitwright.evaluation.behaviour import long_gates, long_notes, with_long_output
from bitwright.evaluation.long_output import Texts, compare, first_divergence, loops, prompts_of, write
from bitwright.facts.behaviour import behaviour_limits
from bitwright.facts.thresholds import thresholds
from bitwright.modeling.continuation import Decoding
from evaluation.tiny_models import source, text, whole_model
from report import sample_records

GREEDY = Decoding(new_tokens=64, ends=frozenset({60}))
RANDOM = torch.randint(0, 59, (200,), generator=torch.Generator().manual_seed(0)).tolist()


def decode(ids: list[int]) -> str:
    return "".join("\ufffd" if one == 59 else chr(97 + one % 26) for one in ids)


@pytest.mark.parametrize("period", [1, 2, 7, 40])
def test_repeats_to_the_end_are_a_loop(period: int) -> None:
    passage = RANDOM[:period]
    assert loops([*RANDOM, *passage * max(3, -(-32 // period))])
    assert not loops([*RANDOM, *passage * 2])
    assert not loops([*passage * 40, *RANDOM[100:130]])  # it found its way out


def test_text_without_repeats_is_no_loop() -> None:
    assert not loops(RANDOM)
    assert not loops([])
    assert not loops([5] * 31)
    assert loops([5] * 32)


def test_two_texts_part_where_they_first_differ() -> None:
    assert first_divergence([1, 2, 3], [1, 2, 4], 9) == 2
    assert first_divergence([1, 2], [1, 2, 4], 9) == 2
    assert first_divergence([1, 2], [1, 2], 9) == 9
    assert first_divergence([], [], 9) == 9


def test_figures_of_texts_made_by_hand() -> None:
    here = Texts(tokens=[RANDOM[:64], [1, 2, 3, 4], [7] * 10], ended=[False, True, True])
    there = Texts(tokens=[[9] * 64, [1, 2, 3, 4], [7] * 5 + [59] + [8] * 14], ended=[False, True, True])
    found = compare(here, there, GREEDY, decode)
    assert (found.decoding, found.prompts, found.new_tokens) == ("greedy", 3, 64)
    assert (found.reference.loop_rate.value, found.artifact.loop_rate.value) == (0, pytest.approx(1 / 3))
    assert found.loop_rise.value == pytest.approx(1 / 3)
    assert found.invalid_rise.value == pytest.approx(1 / 3)
    assert found.end_drop.value == 0
    assert found.length_inflation.value == pytest.approx(88 / 78)
    assert found.never_parted.value == pytest.approx(1 / 3)
    assert found.first_divergence.value == pytest.approx((0 + 64 + 5) / 3)
    first = found.agreement[0]
    assert (first.start, first.stop, first.texts) == (0, 8, 3)
    assert first.share.value == pytest.approx((RANDOM[:8].count(9) / 8 + 1 + 5 / 8) / 3)


def test_a_cut_character_at_the_end_is_not_invalid() -> None:
    texts = Texts(tokens=[[1, 59], [1, 2]], ended=[False, False])
    assert compare(texts, texts, GREEDY, decode).artifact.invalid_rate.value == 0


def test_a_model_agrees_with_itself() -> None:
    model, windows = whole_model(), [text(windows=6)]
    prompts = prompts_of(windows, 4)
    ways = [GREEDY, Decoding(new_tokens=64, ends=frozenset({60}), temperature=0.8)]
    here, there = (write(source(model), prompts, ways, progress=SILENT) for _ in range(2))
    for one, other, way in zip(here, there, ways, strict=True):
        found = compare(one, other, way, decode)
        assert found.never_parted.value == 1
        assert all(part.share.value == 1 for part in found.agreement)
        assert found.length_inflation.value == 1


def test_a_damaged_model_parts_early_and_is_not_passed() -> None:
    prompts = prompts_of([text(windows=12)], 12)
    (here,), (there,) = (
        write(source(whole_model(), noise=noise), prompts, [GREEDY], progress=SILENT) for noise in (0.0, 0.5)
    )
    found = compare(here, there, GREEDY, decode)
    assert found.first_divergence.high < 30
    gates = long_gates([found], behaviour_limits(thresholds("chat")))
    assert [gate.measure for gate in gates] == ["loop_rate", "length_inflation", "invalid_rate"]
    assert {gate.verdict for gate in gates} != {"PASS"}
    unsure = [gate for gate in gates if gate.verdict == "INCONCLUSIVE"]
    assert len(long_notes([found], gates)) >= len(unsure) > 0


def test_limits_of_a_profile_are_its_own_and_infinity_is_none() -> None:
    alike = Texts(tokens=[RANDOM[:64]] * 40, ended=[False] * 40)
    result = compare(alike, alike, GREEDY, decode)
    own = msgspec.structs.replace(thresholds("chat"), loop_rate=0.01, invalid_rate=math.inf, source="mine")
    found = with_long_output(sample_records.validation(), [result], behaviour_limits(own))
    gates = {gate.measure: gate for gate in found.gates if gate.text == "long output, greedy"}
    assert gates.keys() == {"loop_rate", "length_inflation"}
    assert (gates["loop_rate"].source, gates["loop_rate"].verdict) == ("mine", "INCONCLUSIVE")
    assert behaviour_limits(own).task_source != "mine"
    assert found.long_output == (result,)


def test_prompts_are_the_beginnings_of_windows_from_all_texts() -> None:
    texts = [make_windows(name, torch.full((4, 64), number)) for number, name in enumerate(("one", "two"))]
    prompts = prompts_of(texts, 4)
    assert [prompt[0] for prompt in prompts] == [0, 0, 1, 1]
    assert {len(prompt) for prompt in prompts} == {long_output.PROMPT_TOKENS}
    with pytest.raises(UsageError, match="8 windows"):
        prompts_of(texts, 9)


def test_only_a_cut_at_the_end_leaves_a_text_valid() -> None:
    here = Texts(tokens=[[1] * 9] * 3, ended=[False] * 3)
    there = Texts(tokens=[[1] * 8 + [59], [1] * 6 + [59] * 3, [59] * 9], ended=[False] * 3)
    found = compare(here, there, GREEDY, decode)
    assert found.artifact.invalid_rate.value == pytest.approx(1 / 3)  # nothing but replacements is no text
