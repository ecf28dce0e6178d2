"""What both models write behind the same prompts, hundreds of tokens long.

Short samples do not show texts that fall into a loop, never end, grow longer, or part early from the original's. Every
figure is of whole texts, one per prompt: the prompt is the unit of all intervals. Both models run in float32 on decoded
weights, so that a difference is one of weights; what an engine adds is asked of the engine.

A text loops when it reaches the horizon and ends in at least three repeats of one passage, of 32 tokens together or
more. Its last character may be cut, and does not make it invalid.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from bitwright.calibration.corpora import TokenWindows
from bitwright.core.behaviour import AgreementBin, LongOutput, Written
from bitwright.core.errors import UsageError
from bitwright.core.estimate import Estimate
from bitwright.core.protocols import Progress, WeightSource
from bitwright.evaluation.paired import mean, share, share_drop
from bitwright.evaluation.stats import jackknife
from bitwright.modeling.continuation import Decoding, continuations
from bitwright.modeling.whole import whole_model

Tokens = Sequence[int]
Decode = Callable[[list[int]], str]

PROMPT_TOKENS = 32
MIN_PROMPTS = 2
LONGEST_PERIOD = 128
REPEATS, LOOP_TOKENS = 3, 32
AGREEMENT_EDGES = (0, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
REPLACEMENT = "\ufffd"
CUT_BYTES = 3  # of a character of four


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """What one model wrote: token ids of each text without the end token, and whether it ended by itself."""

    tokens: list[list[int]]
    ended: list[bool]


def prompts_of(texts: Sequence[TokenWindows], count: int) -> list[list[int]]:
    """The beginnings of `count` windows, spread evenly over all texts. Raises `UsageError` where there are fewer."""
    starts = torch.cat([text.tokens[:, :PROMPT_TOKENS] for text in texts])
    if not MIN_PROMPTS <= count <= len(starts):
        raise UsageError(
            f"{count} long texts were asked for, and there are {len(starts)} windows to begin them with",
            hint=f"use --long with {MIN_PROMPTS} to {len(starts)}, or more --windows",
        )
    chosen: list[list[int]] = starts[torch.arange(count) * len(starts) // count].tolist()
    return chosen


def write(
    source: WeightSource, prompts: Sequence[Tokens], decodings: Sequence[Decoding], *, progress: Progress
) -> list[Texts]:
    """The model's texts under each way of decoding. The whole model is in memory meanwhile."""
    model, found = whole_model(source), []
    for decoding in decodings:
        written = continuations(model, prompts, decoding, progress=progress)
        ended = [tokens[-1] in decoding.ends for tokens in written]
        found.append(
            Texts(
                tokens=[tokens[:-1] if end else tokens for tokens, end in zip(written, ended, strict=True)], ended=ended
            )
        )
    return found


def compare(reference: Texts, artifact: Texts, decoding: Decoding, decode: Decode) -> LongOutput:
    """All figures of one way of decoding."""
    pairs = [*zip(reference.tokens, artifact.tokens, strict=True)]
    lengths_P2 = np.array([[len(there), len(here)] for here, there in pairs], dtype=np.float64)
    here, there = (_flags(texts, decode) for texts in (reference, artifact))
    parted = np.array([first_divergence(*pair, decoding.new_tokens) for pair in pairs], dtype=np.float64)
    same = [(one == other) for one, other in pairs]
    return LongOutput(
        decoding=decoding.name,
        prompts=len(pairs),
        new_tokens=decoding.new_tokens,
        reference=_written(reference, here),
        artifact=_written(artifact, there),
        first_divergence=mean(parted),
        never_parted=share(sum(same), len(pairs)),
        agreement=tuple(_agreement(pairs, decoding.new_tokens)),
        length_inflation=_ratio(lengths_P2),
        loop_rise=_rise(here["loop"], there["loop"]),
        end_drop=_rise(there["end"], here["end"]),
        invalid_rise=_rise(here["invalid"], there["invalid"]),
    )


def loops(tokens: Tokens) -> bool:
    """Whether a text ends in repeats of one passage."""
    for period in range(1, min(LONGEST_PERIOD, len(tokens) // REPEATS) + 1):
        run = period
        while run < len(tokens) and tokens[-run - 1] == tokens[-run - 1 + period]:
            run += 1
        if run >= max(REPEATS * period, LOOP_TOKENS):
            return True
    return False


def first_divergence(here: Tokens, there: Tokens, horizon: int) -> int:
    """Tokens that two texts begin with in common; `horizon` where they are the same to their end."""
    for place, (one, other) in enumerate(zip(here, there, strict=False)):
        if one != other:
            return place
    return horizon if len(here) == len(there) else min(len(here), len(there))


def _flags(texts: Texts, decode: Decode) -> dict[str, NDArray[np.bool_]]:
    """What is true of each text."""
    return {
        "end": np.array(texts.ended),
        "loop": np.array([not end and loops(one) for one, end in zip(texts.tokens, texts.ended, strict=True)]),
        "invalid": np.array([_invalid(decode([*one])) for one in texts.tokens]),
    }


def _invalid(text: str) -> bool:
    """Whether more than the bytes of a last character that was cut, which some tokenizers replace one by one."""
    kept = text.rstrip(REPLACEMENT)
    return REPLACEMENT in kept or len(text) - len(kept) > CUT_BYTES


def _written(texts: Texts, flags: dict[str, NDArray[np.bool_]]) -> Written:
    count = len(texts.tokens)
    rates = {name: share(int(values.sum()), count) for name, values in flags.items()}
    return Written(
        tokens=mean(np.array([float(len(tokens)) for tokens in texts.tokens])),
        loop_rate=rates["loop"],
        end_rate=rates["end"],
        invalid_rate=rates["invalid"],
    )


def _rise(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> Estimate:
    """By how much a share of texts rises, paired by prompt."""
    return share_drop(int((after & ~before).sum()), int((before & ~after).sum()), len(before))


def _ratio(lengths_P2: NDArray[np.float64]) -> Estimate:
    """Mean length of the artifact's texts over that of the reference's."""
    return jackknife(lengths_P2, lambda means: means[..., 0] / np.maximum(means[..., 1], 1.0), floor=0.0)


def _agreement(pairs: Sequence[tuple[Tokens, Tokens]], horizon: int) -> list[AgreementBin]:
    """The share of positions at which both wrote the same token, of those that at least one reached."""
    found = []
    edges = [*(edge for edge in AGREEMENT_EDGES if edge < horizon), horizon]
    for start, stop in itertools.pairwise(edges):
        shares = []
        for here, there in pairs:
            places = range(start, min(stop, max(len(here), len(there))))
            equal = sum(here[place : place + 1] == there[place : place + 1] for place in places)
            shares += [equal / len(places)] if len(places) else []
        if len(shares) >= MIN_PROMPTS:
            found.append(AgreementBin(start=start, stop=stop, texts=len(shares), share=mean(np.array(shares))))
    return found
