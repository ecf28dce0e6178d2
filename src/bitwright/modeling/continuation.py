"""Text that a model writes behind prompts, many prompts side by side, with a cache of keys and values.

Greedy, or sampled by the Gumbel-max rule: the most probable token after noise of the prompt's own is added to the
logits. Two models that are given the same seeds are given the same noise at the same place, so that they part where
their distributions do and not by chance (the coupling of Maddison et al. 2014, arXiv:1411.0030, §2).

Prompts are padded on the left. Dimension key: B prompts · T positions · V vocabulary
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch

from bitwright.core.errors import InputError
from bitwright.core.protocols import SILENT, Progress

BATCH = 16  # prompts side by side: reading the weights, which dominates, is shared among them
LOOK_EVERY = 8  # steps between two questions whether a text has said enough

Enough = Callable[[Sequence[int]], bool]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How a text goes on: `new_tokens` at most, until one of `ends`; `temperature` 0 is greedy.

    `seed` and the prompt's place in the list make the noise of a sampled text.
    """

    new_tokens: int
    ends: frozenset[int]
    temperature: float = 0.0
    seed: int = 0

    @property
    def name(self) -> str:
        """What records call it."""
        return f"temperature {self.temperature:g}" if self.temperature else "greedy"


@torch.no_grad()
def continuations(
    model: Any,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    *,
    enough: Enough | None = None,
    progress: Progress = SILENT,
) -> list[list[int]]:
    """What the model writes behind each prompt, as token ids; an end token is the last of its text.

    `enough` may end a text early; it is asked about what was written so far, now and then. Raises `InputError` when
    the model's output is not finite.
    """
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    found: list[list[int]] = [[] for _ in prompts]
    progress.start("writing", len(prompts) * decoding.new_tokens, "tokens")
    try:
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            noise = [torch.Generator().manual_seed(decoding.seed + index) for index in part]
            written = _side_by_side(model, [prompts[index] for index in part], decoding, noise, enough, progress)
            for index, tokens in zip(part, written, strict=True):
                found[index] = tokens
    finally:
        progress.stop()
    return found


def _side_by_side(
    model: Any,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    noise: Sequence[torch.Generator],
    enough: Enough | None,
    progress: Progress,
) -> list[list[int]]:
    new_BT, seen_BT = _padded(prompts)
    written: list[list[int]] = [[] for _ in prompts]
    alive, cache = list(range(len(prompts))), None
    for step in range(decoding.new_tokens):
        places_BT = (seen_BT.cumsum(-1) - 1).clamp(min=0)[:, -new_BT.shape[1] :]
        output = model(
            new_BT, attention_mask=seen_BT, position_ids=places_BT, past_key_values=cache, use_cache=True,
            logits_to_keep=1,
        )  # fmt: skip
        cache = output.past_key_values
        for row, token in zip(alive, _next(output.logits[:, -1], decoding, [noise[row] for row in alive]), strict=True):
            written[row].append(token)
        look = enough if enough is not None and step % LOOK_EVERY == LOOK_EVERY - 1 else None
        going = [
            place for place, row in enumerate(alive)
            if written[row][-1] not in decoding.ends and not (look and look(written[row]))
        ]  # fmt: skip
        progress.advance(len(alive))
        if not going:
            break
        if len(going) < len(alive):
            cache.batch_select_indices(torch.tensor(going))
            seen_BT, alive = seen_BT[going], [alive[place] for place in going]
        new_BT = torch.tensor([[written[row][-1]] for row in alive])
        seen_BT = torch.cat([seen_BT, torch.ones_like(new_BT)], dim=1)
    progress.advance(sum(decoding.new_tokens - len(tokens) for tokens in written))
    return written


def _padded(prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts padded on the left, and which of their tokens are none of the padding: int64 [B, T]."""
    longest = max(len(prompt) for prompt in prompts)
    rows = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    seen = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(rows), torch.tensor(seen)


def _next(logits_BV: torch.Tensor, decoding: Decoding, noise: Sequence[torch.Generator]) -> list[int]:
    if not bool(torch.isfinite(logits_BV).all()):
        raise InputError(
            "the model's output is not finite while it writes", hint="bitwright doctor says where it breaks"
        )
    if not decoding.temperature:
        return logits_BV.argmax(-1).tolist()
    scores_BV = logits_BV.float() / decoding.temperature
    waits_BV = torch.stack([torch.empty(scores_BV.shape[1]).exponential_(generator=one) for one in noise])
    result: list[int] = (scores_BV - waits_BV.log()).argmax(-1).tolist()  # -log of an exponential is a Gumbel
    return result
