"""An engine that is a tiny model itself, sound or broken in a way that is known."""

from __future__ import annotations

import functools

import msgspec
import pytest
import torch

from bitwright.core.behaviour import EngineCheck, Suspect
from bitwright.core.estimate import Estimate
from bitwright.core.heard import Heard, Reading, Server
from bitwright.core.protocols import SILENT
from bitwright.evaluation.behaviour import with_engine
from bitwright.evaluation.engine_check import Departures, allowed, departures, judge_engine
from bitwright.facts.behaviour import behaviour_limits
from bitwright.facts.thresholds import thresholds
from bitwright.modeling.continuation import Decoding, continuations
from bitwright.modeling.whole import whole_model as put_together
from evaluation.tiny_models import DictSource, source, text, whole_model
from report import sample_records

LIMIT, TOP = 0.02, 10
ALIKE = Reading(asked="a", original=(1, 2, 3), engine=(1, 2, 3))
UNTOLD = Suspect(name="KV cache", finding="not tested", evidence="unknown")


@torch.no_grad()
def listen(engine: DictSource, prompts: list[list[int]], new_tokens: int) -> list[Heard]:
    """What a server of this model would tell."""
    model = put_together(engine)
    found = []
    written = continuations(model, prompts, Decoding(new_tokens=new_tokens, ends=frozenset()))
    for prompt, tokens in zip(prompts, written, strict=True):
        rows = model(torch.tensor([[*prompt, *tokens[:-1]]])).logits[0, -len(tokens) :].log_softmax(-1)
        best = rows.topk(TOP)
        found.append(
            Heard(
                prompt=tuple(prompt),
                written=tuple(tokens),
                top_ids=tuple(map(tuple, best.indices.tolist())),
                top_logprobs=tuple(map(tuple, best.values.tolist())),
            )
        )
    return found


@functools.cache
def sound_engine() -> DictSource:
    return source(whole_model(), noise=0.01)


@functools.cache
def other_engine() -> DictSource:
    return source(whole_model(seed=1))


@functools.cache
def measured(engine: DictSource) -> tuple[list[Heard], Departures, Departures]:
    original, artifact = source(whole_model()), source(whole_model(), noise=0.01)
    prompts = text(windows=8).tokens.tolist()
    heard, begun = listen(engine, prompts, 6), listen(engine, [prompt[:1] for prompt in prompts], 1)
    return heard, *(departures(original, artifact, asked, progress=SILENT) for asked in (heard, begun))  # type: ignore[return-value]


def checked(engine: DictSource, *, texts: tuple[Reading, ...] = (ALIKE,), cache: Suspect = UNTOLD) -> EngineCheck:
    heard, found, first = measured(engine)
    server = Server(engine="e", model="m", settings={})
    return judge_engine(
        server, "http://here", heard, found, first, limit=LIMIT, texts=texts, chats=(ALIKE,), cache=cache, decode=str
    )


def finding(check: EngineCheck, name: str) -> str:
    return next(suspect.finding for suspect in check.suspects if suspect.name == name)


def test_an_engine_that_runs_the_artifact_is_within_its_rounding() -> None:
    check = checked(sound_engine())
    assert check.kl_engine.high < 1e-5
    assert check.kl_served.value == pytest.approx(check.kl_decoded.value, rel=1e-2)
    assert check.kl_decoded.value > 1e-4
    assert check.top1_agreement.value == 1
    assert {suspect.finding for suspect in check.suspects} == {"cleared", "not tested"}


def test_another_rope_base_is_found_by_what_one_token_does_not_show() -> None:
    engine = source(whole_model(), noise=0.01)
    engine.config = {**engine.config, "rope_parameters": {"rope_type": "default", "rope_theta": 50.0}}
    check = checked(engine)
    assert check.kl_engine.low > LIMIT
    assert check.kl_first.high < 1e-5
    assert (finding(check, "rope"), finding(check, "KV cache")) == ("suspected", "suspected")
    assert finding(check, "weights") == "cleared"
    known = Suspect(name="KV cache", finding="cleared", evidence="f16")
    assert finding(checked(engine, cache=known), "rope") == "found"
    blamed = Suspect(name="KV cache", finding="found", evidence="")
    assert finding(checked(engine, cache=blamed), "rope") == "cleared"


def test_what_eight_bits_of_inputs_do_is_the_floor() -> None:
    heard, *_ = measured(sound_engine())
    original, artifact = source(whole_model()), source(whole_model(), noise=0.01)
    found = departures(original, artifact, heard, rounds_inputs=True, progress=SILENT)
    assert found.decoded_to_rounded is not None
    assert found.of(0, 2).decoded_to_rounded.shape == (2,)  # type: ignore[union-attr]
    assert 0 < found.floor < LIMIT
    assert allowed(LIMIT, found) == LIMIT
    assert allowed(found.floor, found) == 2 * found.floor
    assert allowed(LIMIT, measured(sound_engine())[1]) == LIMIT


def test_a_departure_within_twice_the_floor_passes() -> None:
    limits, record = behaviour_limits(thresholds("medical-legal")), sample_records.validation()
    check = msgspec.structs.replace(checked(sound_engine()), kl_engine=Estimate(value=0.03, low=0.025, high=0.04))
    assert with_engine(record, check, limits).verdict == "FAIL"
    raised = with_engine(record, msgspec.structs.replace(check, allowed=0.05), limits)
    assert (raised.verdict, raised.gates[-1].limit) == (record.verdict, 0.05)


def test_other_weights_show_at_the_first_token() -> None:
    check = checked(other_engine())
    assert (finding(check, "weights"), finding(check, "rope")) == ("found", "not tested")


@pytest.mark.parametrize(
    ("theirs", "said"),
    [((0, 1, 2, 3), "puts '[0]' before"), ((2, 3), "leaves out '[1]'"), ((1, 9, 3), "at token 1"), (None, "not tell")],
)
def test_another_reading_is_described(theirs: tuple[int, ...] | None, said: str) -> None:
    reading = Reading(asked="a", original=(1, 2, 3), engine=theirs)
    suspect = checked(sound_engine(), texts=(reading,)).suspects[1]
    assert suspect.name == "tokenizer"
    assert suspect.finding == ("not tested" if theirs is None else "found")
    assert said in suspect.evidence


def test_a_departing_engine_fails_the_verdict_and_names_suspects_in_order() -> None:
    limits, record = behaviour_limits(thresholds("chat")), sample_records.validation()
    sound = with_engine(record, checked(sound_engine()), limits)
    assert [gate.measure for gate in sound.gates[len(record.gates) :]] == ["engine_kl"]
    assert sound.verdict == record.verdict
    reading = Reading(asked="a", original=(1, 2), engine=(0, 1, 2))
    failed = with_engine(record, checked(other_engine(), texts=(reading,)), limits)
    assert failed.verdict == "FAIL"
    assert [gate.measure for gate in failed.gates[len(record.gates) :]] == ["engine_kl", "engine_tokenizer"]
    note = failed.notes[-1]
    assert note.index("tokenizer found") < note.index("weights found") < note.index("chat template cleared")
