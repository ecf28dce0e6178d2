"""Orders that rows, columns and codes may have got into, and how well values agree under them.

Sources: llama.cpp conversion/llama.py (rotary rows); AutoAWQ awq/utils/packing_utils.py (interleaved words);
ggml-quants.c (halves of Q4_0 and Q4_K).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from bitwright.core.plan import ModelFacts
from bitwright.evaluation.tiles import TILE
from bitwright.tensors.qtensor import QTensor

INTERLEAVED = (0, 2, 4, 6, 1, 3, 5, 7)
Words = tuple[str, str]
ROTARY: tuple[Words, Words] = (("interleaved", "halved"), ("halved", "interleaved"))


def rotary(name: str, facts: ModelFacts) -> Iterator[tuple[Words, torch.Tensor]]:
    """Orders of rows that confuse halves and pairs of a head; none for other tensors.

    Words say what the stored order looks like and what belongs there, as the file's format has it: in GGUF files of
    Llama models interleaved rows belong, and are put back when they are read.
    """
    heads = {"q_proj.weight": facts.heads, "k_proj.weight": facts.kv_heads}.get(name.rpartition("self_attn.")[2])
    if heads is None:
        return
    rows = heads * facts.head_dim
    count = torch.arange(rows)
    interleave = count.view(heads, 2, -1).transpose(1, 2).reshape(-1)
    halve = count.view(heads, -1, 2).transpose(1, 2).reshape(-1)
    yield ROTARY[0], interleave
    yield ROTARY[1], halve


def packings(there_OI: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """The artifact's values as they would be if its codes had been packed in another order."""
    rows, columns = there_OI.shape
    for words, size in (("neighbouring nibbles", 2), ("halves of 32 inputs", 32), ("halves of 64 inputs", 64)):
        if columns % size == 0:
            yield f"{words} are exchanged", there_OI.view(rows, -1, 2, size // 2).flip(2).reshape(rows, columns)
    order = torch.tensor(INTERLEAVED)
    for words, order_8 in (
        ("words of eight outputs are in sequence", order),
        ("words of eight outputs are interleaved", torch.argsort(order)),
        ("neighbouring outputs are exchanged", torch.arange(8).view(4, 2).flip(1).reshape(-1)),
    ):
        if rows % 8 == 0:
            yield words, there_OI.view(-1, 8, columns)[:, order_8].reshape(rows, columns)
        if columns % 8 == 0:
            yield words.replace("outputs", "inputs"), there_OI.view(rows, -1, 8)[..., order_8].reshape(rows, columns)


def straightness(here_OI: torch.Tensor, there_OI: torch.Tensor) -> float:
    """Share of the reference's variance within tiles that straight lines through the artifact's values carry."""
    here, there = (_centred(value) for value in (here_OI, there_OI))
    along = (here * there).sum(-1)
    spread = there.square().sum(-1).clamp_min(torch.finfo(torch.float32).tiny)
    kept = torch.where(along > 0, along.square() / spread, torch.zeros(()))
    return float(kept.sum() / here.square().sum().clamp_min(torch.finfo(torch.float32).tiny))


def regrouped(here_OI: torch.Tensor, value: QTensor) -> tuple[torch.Tensor, int]:
    """The artifact with each input under the scales of the group that fits the reference best, and for how many that is
    another group than the file names."""
    codes_OI = torch.from_numpy(value.codes).float()
    scale_OG = torch.from_numpy(value.fields["scale"])
    zero_OG = torch.from_numpy(value.fields["zero_point"]).float() if "zero_point" in value.fields else None
    best_I = torch.full((codes_OI.shape[1],), torch.inf)
    group_I, nearest_OI = torch.zeros(codes_OI.shape[1], dtype=torch.int64), torch.zeros_like(here_OI)
    for group in range(scale_OG.shape[1]):
        steps_OI = codes_OI if zero_OG is None else codes_OI - zero_OG[:, group, None]
        tried_OI = scale_OG[:, group, None] * steps_OI
        error_I = (tried_OI - here_OI).square().sum(0)
        better_I = error_I < best_I
        best_I, group_I[better_I] = torch.where(better_I, error_I, best_I), group
        nearest_OI = torch.where(better_I, tried_OI, nearest_OI)
    named_I = torch.from_numpy(value.fields["group_index"]).long()
    return nearest_OI, int((group_I != named_I).sum())


def steps_by_scale(here_OI: torch.Tensor, there_OI: torch.Tensor, value: QTensor) -> torch.Tensor:
    """How many steps of its stored scale each value lies beside the reference."""
    scale_OG = torch.from_numpy(value.fields["scale"])
    columns = here_OI.shape[1]
    if "group_index" in value.fields:
        group_I = torch.from_numpy(value.fields["group_index"]).long()
    else:
        group_I = torch.arange(columns) * scale_OG.shape[1] // columns
    scale_OI = scale_OG[:, group_I]
    steps: torch.Tensor = ((there_OI - here_OI) / scale_OI)[scale_OI != 0]
    return steps


def row_likeness(here_OI: torch.Tensor, there_OI: torch.Tensor, sample: int) -> float:
    """Mean cosine of evenly spaced rows; of vectors their own."""
    if here_OI.shape != there_OI.shape:
        return 0.0
    if here_OI.dim() == 1:
        here_OI, there_OI = here_OI[None] - here_OI.mean(), there_OI[None] - there_OI.mean()
    picked = _picked(len(here_OI), sample)
    found = torch.nn.functional.cosine_similarity(here_OI[picked], there_OI[picked])
    return float(found.nan_to_num(0.0).mean())


def moved_lines(here_OI: torch.Tensor, there_OI: torch.Tensor, sample: int) -> tuple[torch.Tensor, float]:
    """Rows of the artifact that are nearer to another row of the reference than to their own, and how near."""
    here, there = (torch.nn.functional.normalize(value, dim=1) for value in (here_OI, there_OI))
    own = (here * there).sum(1)
    wrong = (own < 0.5).nonzero().flatten()
    if len(wrong) < 2 or len(here) > 1 << 16:
        return wrong, 0.0
    picked = wrong[_picked(len(wrong), sample)]
    found, best = (there[picked] @ here.T).max(dim=1)
    real = (found > own[picked]) & (best != picked) & torch.isin(best, wrong)
    return wrong, float(found[real].mean()) if bool(real.float().mean() > 0.9) else 0.0


def _picked(count: int, sample: int) -> torch.Tensor:
    return torch.arange(min(count, sample)) * count // min(count, sample)


def _centred(value_OI: torch.Tensor) -> torch.Tensor:
    whole = value_OI[:, : value_OI.shape[1] // TILE * TILE] if value_OI.shape[1] >= TILE else value_OI
    tiles = whole.reshape(len(whole), -1, min(TILE, whole.shape[1]))
    return tiles - tiles.mean(-1, keepdim=True)
