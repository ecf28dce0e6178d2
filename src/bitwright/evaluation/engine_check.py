"""A running engine against the artifact that it was given: its most probable tokens, how it reads text and chats.

The engine was asked for what it writes behind token ids, with its best tokens at every step; here the decoded artifact
and the original predict the same places. All three are compared on the engine's best tokens and "any other" as one
outcome more, which takes nothing from engines that tell no more; the KL of this coarser choice is at most the KL of the
whole vocabulary (data processing inequality). What engine and artifact differ by is the engine's doing: rounded inputs
and other sums where all is well, and a wrong rope, a damaged cache or other weights where it is not.

llama.cpp rounds the inputs of quantized products to 8 bits, in blocks of 32 or 256. What that does to this artifact is
its floor: the artifact predicts once more with inputs so rounded. A sound engine stays within twice that, or within the
limit where that is more.

A prompt of one token attends to itself alone, whatever rope and keys are: what departs there already is not theirs.
Wrong templates and tokenizers move no prediction on token ids; they are compared by themselves.

Dimension key: N positions · V vocabulary · K tokens that the engine told
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bitwright.core.behaviour import EngineCheck, Suspect
from bitwright.core.estimate import Estimate
from bitwright.core.heard import Heard, Reading, Server
from bitwright.core.protocols import Progress, WeightSource
from bitwright.evaluation.likelihood import Forward, walk
from bitwright.evaluation.stats import mean_interval
from bitwright.modeling.walk import Linear, Walker

Decode = Callable[[list[int]], str]
Doubles = NDArray[np.float64]

SMALLEST = 1e-7  # of the probability of all other tokens: below it log-probabilities in float32 say nothing
MOST_LIMITS = 5.0  # what is so near its ruin that 8-bit inputs alone change it beyond this is served wrongly too
WITHIN_FLOORS = 2.0  # floors that a sound engine may depart by: sums in another order, and other blocks, come on top
SHOWN = 6  # tokens around a place where two readings part


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Departures:
    """Means over the positions of each prompt [prompts]."""

    decoded_to_engine: Doubles
    original_to_decoded: Doubles
    original_to_engine: Doubles
    same_top: Doubles
    decoded_to_rounded: Doubles | None = None

    @property
    def floor(self) -> float:
        """Mean KL that 8-bit inputs alone make; 0 where it was not asked for."""
        return 0.0 if self.decoded_to_rounded is None else float(self.decoded_to_rounded.mean())

    def of(self, start: int, stop: int | None = None) -> Departures:
        """Those of some prompts."""
        rounded = self.decoded_to_rounded
        return Departures(
            decoded_to_engine=self.decoded_to_engine[start:stop],
            original_to_decoded=self.original_to_decoded[start:stop],
            original_to_engine=self.original_to_engine[start:stop],
            same_top=self.same_top[start:stop],
            decoded_to_rounded=None if rounded is None else rounded[start:stop],
        )


class EightBitWalker(Walker):
    """The artifact's blocks with inputs of their linears rounded as llama.cpp rounds them for most types."""

    def load_block(self, index: int) -> nn.Module:
        block = super().load_block(index)
        for module in block.modules():
            if isinstance(module, Linear):
                module.register_forward_pre_hook(_eight_bits)
        return block


def _eight_bits(module: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    """[..., I] in blocks of 256 where they divide it (k-quants), else of 32, each with a scale of its own."""
    (values,) = inputs
    size = next(size for size in (256, 32, 1) if values.shape[-1] % size == 0)
    blocks = values.reshape(*values.shape[:-1], -1, size)
    scale = (blocks.abs().amax(-1, keepdim=True) / 127).clamp_min(torch.finfo(torch.float32).tiny)
    return ((blocks / scale).round().mul(scale).flatten(-2),)


def allowed(limit: float, found: Departures) -> float:
    """How far a sound engine may depart."""
    return min(max(limit, WITHIN_FLOORS * found.floor), MOST_LIMITS * limit)


def departures(
    original: WeightSource,
    artifact: WeightSource,
    heard: Sequence[Heard],
    *,
    rounds_inputs: bool = False,
    progress: Progress,
) -> Departures:
    """Predict what the engine wrote with both models, one block of each in memory at a time; with the artifact twice
    where the engine `rounds_inputs` that the artifact does not speak of."""
    order = sorted(range(len(heard)), key=lambda index: len(heard[index].prompt) + len(heard[index].written))
    said = [heard[index] for index in order]
    told = [_predicted(Walker(source), said, progress) for source in (original, artifact)]
    again = _predicted(EightBitWalker(artifact), said, progress) if rounds_inputs else told[1]
    rows = np.zeros((len(heard), 5))
    for index, one, here_NK, there_NK, rounded_NK in zip(order, said, *told, again, strict=True):
        engine_NK = _with_rest(np.exp(np.array(_even(one), dtype=np.float64)))
        best_N = np.array([ids[0] for ids in one.top_ids])
        rows[index] = (
            _kl(there_NK.outcomes, engine_NK),
            _kl(here_NK.outcomes, there_NK.outcomes),
            _kl(here_NK.outcomes, engine_NK),
            float((there_NK.top == best_N).mean()),
            _kl(there_NK.outcomes, rounded_NK.outcomes),
        )
    return Departures(
        decoded_to_engine=rows[:, 0], original_to_decoded=rows[:, 1], original_to_engine=rows[:, 2],
        same_top=rows[:, 3], decoded_to_rounded=rows[:, 4] if rounds_inputs else None,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class _Predicted:
    outcomes: Doubles  # [N, K + 1] probabilities, the last of all other tokens
    top: NDArray[np.int64]  # [N]


def _predicted(model: Forward, heard: Sequence[Heard], progress: Progress) -> list[_Predicted]:
    found = []
    streams = walk(model, [(*one.prompt, *one.written[:-1]) for one in heard], progress)
    for one, hidden_TH in zip(heard, streams, strict=True):
        logits_NV = model.logits(hidden_TH[-len(one.written) :]).double()
        few_NK = torch.tensor([ids[: _told(one)] for ids in one.top_ids])
        outcomes_NK = logits_NV.softmax(-1).gather(1, few_NK).numpy()
        found.append(_Predicted(_with_rest(outcomes_NK), logits_NV.argmax(-1).numpy()))
    return found


def _told(one: Heard) -> int:
    """Tokens that every position tells; vLLM adds the token that was written where it is not among the best."""
    return min(len(ids) for ids in one.top_ids)


def _even(one: Heard) -> list[tuple[float, ...]]:
    return [values[: _told(one)] for values in one.top_logprobs]


def _with_rest(few_NK: Doubles) -> Doubles:
    """Probabilities of K tokens, and of all others together."""
    rest_N1 = np.maximum(1.0 - few_NK.sum(axis=1, keepdims=True), SMALLEST)
    return np.concatenate([np.maximum(few_NK, np.finfo(np.float64).tiny), rest_N1], axis=1)


def _kl(p_NK: Doubles, q_NK: Doubles) -> float:
    return float(np.maximum((p_NK * (np.log(p_NK) - np.log(q_NK))).sum(axis=1), 0.0).mean())


def judge_engine(
    server: Server,
    url: str,
    heard: Sequence[Heard],
    found: Departures,
    first: Departures,
    *,
    limit: float,
    texts: Sequence[Reading],
    chats: Sequence[Reading],
    cache: Suspect,
    decode: Decode,
) -> EngineCheck:
    """Everything together, the suspects in the order in which they are to be looked at; `limit` as `allowed` says."""
    engine, begun = mean_interval(found.decoded_to_engine, floor=0.0), mean_interval(first.decoded_to_engine, floor=0.0)
    rounded = found.decoded_to_rounded
    return EngineCheck(
        engine=server.engine,
        url=url,
        model=server.model,
        settings=server.settings,
        prompts=len(heard),
        positions=sum(len(one.written) for one in heard),
        top=min(_told(one) for one in heard),
        kl_engine=engine,
        kl_decoded=mean_interval(found.original_to_decoded, floor=0.0),
        kl_served=mean_interval(found.original_to_engine, floor=0.0),
        top1_agreement=mean_interval(found.same_top, floor=0.0, ceiling=1.0),
        kl_first=begun,
        kl_rounding=None if rounded is None else mean_interval(rounded, floor=0.0),
        allowed=limit if limit < math.inf else None,
        suspects=(
            _reading("chat template", chats, decode),
            _reading("tokenizer", texts, decode),
            *_with_context(engine, begun, limit, cache),
        ),
    )


def _reading(name: str, readings: Sequence[Reading], decode: Decode) -> Suspect:
    told = [reading for reading in readings if reading.engine is not None]
    if not told:
        why = "the server does not tell how it reads them" if readings else "the original has none"
        return Suspect(name=name, finding="not tested", evidence=why)
    other = [reading for reading in told if reading.engine != reading.original]
    if not other:
        return Suspect(name=name, finding="cleared", evidence=f"{len(told)} read alike, token by token")
    return Suspect(
        name=name, finding="found", evidence=f"{len(other)} of {len(told)} read otherwise: {_parting(other[0], decode)}"
    )


def _parting(reading: Reading, decode: Decode) -> str:
    """Where two readings part."""
    assert reading.engine is not None
    ours, theirs = reading.original, reading.engine
    if theirs[1:] == ours:
        return f"the engine puts {decode([theirs[0]])!r} before it"
    if ours[1:] == theirs:
        return f"the engine leaves out {decode([ours[0]])!r} at the start"
    pairs = enumerate(zip(ours, theirs, strict=False))
    place = next((place for place, (one, two) in pairs if one != two), min(len(ours), len(theirs)))
    window = slice(max(0, place - 1), place + SHOWN)
    return f"{decode([*theirs[window]])!r} instead of {decode([*ours[window]])!r} at token {place}"


def _with_context(engine: Estimate, begun: Estimate, limit: float, cache: Suspect) -> tuple[Suspect, Suspect, Suspect]:
    """Rope, cache and weights: what departs with context alone is positions, or keys and values."""
    first, whole = f"KL {begun.value:.2g} behind one token", f"{engine.value:.2g} behind whole prompts"
    weights = Suspect(name="weights", finding="found" if begun.value > limit else "cleared", evidence=first)
    rope = Suspect(name="rope", finding="cleared", evidence=f"{first}, {whole}")
    if engine.value <= limit or cache.finding == "found":
        return rope, cache, weights
    if begun.value > limit:
        return msgspec.structs.replace(rope, finding="not tested"), cache, weights
    if cache.finding in ("not tested", "suspected"):
        return (
            msgspec.structs.replace(rope, finding="suspected"),
            msgspec.structs.replace(cache, finding="suspected"),
            weights,
        )
    return msgspec.structs.replace(rope, finding="found"), cache, weights
