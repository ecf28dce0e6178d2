"""Texts side by side with a cache, against transformers' own generation, one prompt at a time."""

from __future__ import annotations

import pytest
import torch

from bitwright.core.errors import InputError
from bitwright.modeling import continuation
from bitwright.modeling.continuation import Decoding, continuations
from bitwright.modeling.whole import whole_model as put_together
from evaluation.tiny_models import VOCAB, source, whole_model

PROMPTS = [[1, 2, 3], [5], [9, 8, 7, 6, 5, 4], [11, 12]]
NO_END: frozenset[int] = frozenset()


def test_greedy_texts_are_those_of_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(continuation, "BATCH", 3)
    model = whole_model()
    found = continuations(put_together(source(model)), PROMPTS, Decoding(new_tokens=20, ends=NO_END))
    for prompt, tokens in zip(PROMPTS, found, strict=True):
        alone = model.generate(
            torch.tensor([prompt]), max_new_tokens=20, do_sample=False, pad_token_id=0, eos_token_id=None
        )
        assert tokens == alone[0, len(prompt) :].tolist()


def test_an_end_token_ends_one_text_and_not_its_neighbours() -> None:
    model = put_together(source(whole_model()))
    free = continuations(model, PROMPTS, Decoding(new_tokens=20, ends=NO_END))
    end = free[0][5]
    found = continuations(model, PROMPTS, Decoding(new_tokens=20, ends=frozenset({end})))
    for tokens, whole in zip(found, free, strict=True):
        expected = whole[: whole.index(end) + 1] if end in whole else whole
        assert tokens == expected


def test_sampling_follows_the_distribution() -> None:
    model = put_together(source(whole_model()))
    found = continuations(model, [[4, 2]] * 400, Decoding(new_tokens=1, ends=NO_END, temperature=2.0, seed=1))
    counts = torch.bincount(torch.tensor([tokens[0] for tokens in found]), minlength=VOCAB) / 400
    with torch.no_grad():
        expected = (whole_model()(torch.tensor([[4, 2]])).logits[0, -1] / 2.0).softmax(-1)
    assert float((counts - expected).abs().max()) < 4 * (0.25 / 400) ** 0.5


def test_equal_seeds_give_equal_texts_and_others_do_not() -> None:
    model = put_together(source(whole_model()))

    def written(seed: int) -> list[list[int]]:
        return continuations(model, PROMPTS, Decoding(new_tokens=12, ends=NO_END, temperature=3.0, seed=seed))

    assert written(5) == written(5)
    assert written(5) != written(6)


def test_noise_that_is_shared_keeps_near_models_together() -> None:
    model = whole_model()
    settings = Decoding(new_tokens=1, ends=NO_END, temperature=3.0, seed=0)
    here, near = (
        continuations(put_together(source(model, noise=noise)), [[4, 2]] * 200, settings) for noise in (0.0, 0.01)
    )
    assert sum(one == other for one, other in zip(here, near, strict=True)) > 190


def test_a_text_that_said_enough_is_left() -> None:
    model = put_together(source(whole_model()))
    found = continuations(model, PROMPTS, Decoding(new_tokens=40, ends=NO_END), enough=lambda tokens: len(tokens) > 3)
    assert {len(tokens) for tokens in found} == {continuation.LOOK_EVERY}


def test_a_broken_model_says_so() -> None:
    broken = source(whole_model())
    broken.weights["lm_head.weight"][3, 3] = float("nan")
    with pytest.raises(InputError, match="not finite"):
        continuations(put_together(broken), PROMPTS, Decoding(new_tokens=2, ends=NO_END))
