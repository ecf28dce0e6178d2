"""Log-likelihoods block by block, against the whole model at once."""

from __future__ import annotations

import pytest
import torch

from bitwright.core.protocols import SILENT
from bitwright.evaluation import likelihood
from bitwright.evaluation.likelihood import Continuation, log_likelihoods
from bitwright.modeling.walk import Walker
from evaluation.tiny_models import VOCAB, source, whole_model


def requests(seed: int = 0) -> list[Continuation]:
    random = torch.Generator().manual_seed(seed)

    def some(low: int, high: int) -> tuple[int, ...]:
        count = int(torch.randint(low, high, (1,), generator=random))
        return tuple(torch.randint(0, VOCAB, (count,), generator=random).tolist())

    asked = [Continuation(context=some(1, 20), answer=some(1, 5)) for _ in range(12)]
    return [*asked, *(Continuation(context=asked[0].context, answer=(token,)) for token in range(4))]


@torch.no_grad()
def plainly(request: Continuation, most: int) -> tuple[float, bool]:
    inputs = request.inputs(most)
    rows = whole_model()(torch.tensor([inputs])).logits[0].log_softmax(-1)[-len(request.answer) :]
    answer = request.answer[-len(inputs) :]
    return float(sum(row[token] for row, token in zip(rows, answer, strict=True))), rows.argmax(-1).tolist() == [
        *answer
    ]


@pytest.mark.parametrize("pass_bytes", [likelihood.PASS_BYTES, 4 * 32 * 30], ids=["one walk", "several walks"])
def test_likelihoods_are_those_of_the_whole_model(pass_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihood, "PASS_BYTES", pass_bytes)
    monkeypatch.setattr(likelihood, "BATCH_TOKENS", 64)
    asked = requests()
    asked.append(Continuation(context=(5,), answer=tuple(torch.randint(0, VOCAB, (6,)).tolist())))
    found = log_likelihoods(Walker(source(whole_model())), asked, most=128, progress=SILENT)
    for request, (value, greedy) in zip(asked, found, strict=True):
        expected, best = plainly(request, 128)
        assert value == pytest.approx(expected, abs=1e-3)
        assert greedy == best


def test_the_answer_that_greedy_decoding_writes_is_known() -> None:
    model = whole_model()
    context = (3, 1, 4)
    written = model.generate(torch.tensor([context]), max_new_tokens=3, do_sample=False, pad_token_id=0)[0, 3:].tolist()
    best = Continuation(context=context, answer=tuple(written))
    other = Continuation(context=context, answer=(*written[:-1], (written[-1] + 1) % VOCAB))
    found = log_likelihoods(Walker(source(model)), [best, other], most=128, progress=SILENT)
    assert [greedy for _, greedy in found] == [True, False]


def test_of_a_long_context_the_end_is_read() -> None:
    asked = Continuation(context=tuple(range(40)), answer=(7, 8))
    ((value, _),) = log_likelihoods(Walker(source(whole_model())), [asked], most=16, progress=SILENT)
    assert value == pytest.approx(plainly(asked, 16)[0], abs=1e-3)
