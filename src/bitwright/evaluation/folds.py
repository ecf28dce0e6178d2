"""Scales that a method folded into a block on purpose, found in the weights themselves.

AWQ and SmoothQuant divide a norm by s and multiply the columns of its readers, or divide the rows of a value or up
projection and multiply the columns of what reads it. No output changes by that, so it is undone before matrices are
compared: by the norms as they are stored, and by factors fitted to rows, where they and the readers' columns undo each
other.

Sources: facts/blocks.py (where scales can hide); Lin et al. 2024, arXiv:2306.00978.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch

from bitwright.core.plan import ModelFacts
from bitwright.evaluation.tiles import FLOAT_BITS, fit
from bitwright.facts.blocks import Fold, block_folds
from bitwright.facts.families import BLOCK, FAMILIES, FINAL_NORM, HEAD

UNDONE, MOSTLY_UNDONE = 0.05, 0.25  # how far a row's factor times its readers' may lie from one: median, nine in ten
Held = Mapping[str, torch.Tensor]


@dataclasses.dataclass(frozen=True, slots=True)
class Torn:
    """A projection and its reader whose factors do not undo each other: rows [O], and columns [I] of the reader.

    `made` are the rows that make the reader's inputs, repeated where heads share them; `rows_read` is what the columns
    say of the rows.
    """

    absorber: str
    reader: str
    rows: torch.Tensor
    made: torch.Tensor
    columns: torch.Tensor
    rows_read: torch.Tensor


@dataclasses.dataclass(frozen=True, slots=True)
class FoldScales:
    """What matrices were multiplied by, columns [I] and rows [O] by name; divided norms and their readers."""

    columns: dict[str, torch.Tensor]
    rows: dict[str, torch.Tensor]
    norms: dict[str, list[str]]
    torn: list[Torn] = dataclasses.field(default_factory=list)

    def scaled(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """The reference's tensor as it was before it was rounded; a bias goes with the rows of its matrix."""
        if name in self.columns:
            value = value * self.columns[name]
        rows_O = self.rows.get(f"{name.removesuffix('.bias')}.weight" if name.endswith(".bias") else name)
        if rows_O is None:
            return value
        return value * (rows_O if value.dim() == 1 else rows_O[:, None])


def block_scales(facts: ModelFacts, layer: int, here: Held, there: Held) -> FoldScales:
    """Of block `layer`, from the reference's tensors `here` and the artifact's; all empty where none was folded."""
    prefix = BLOCK.format(layer=layer)
    found = FoldScales({}, {}, {})
    for fold in sorted(block_folds(facts, layer), key=lambda fold: fold.kind != "norm"):
        absorber = f"{prefix}{fold.absorber}.weight"
        readers = [f"{prefix}{module}.weight" for module in (*fold.readers, *fold.carried)]
        if any(name not in there or there[name].shape != here[name].shape for name in (absorber, *readers)):
            continue
        if fold.kind == "norm":
            scales_I = _norm_scales(facts, here[absorber], there[absorber])
            if scales_I is not None:
                found.norms[absorber] = readers
        else:
            scales_I = _row_scales(facts, fold, absorber, readers[0], here, there, found)
        if scales_I is not None:
            found.columns.update(dict.fromkeys(readers, scales_I))
    return found


def head_scales(facts: ModelFacts, here: Held, there: Held) -> FoldScales:
    """Between the final norm and a head of its own."""
    if FINAL_NORM not in there or HEAD not in there:
        return FoldScales({}, {}, {})
    scales_I = _norm_scales(facts, here[FINAL_NORM], there[FINAL_NORM])
    return FoldScales({}, {}, {}) if scales_I is None else FoldScales({HEAD: scales_I}, {}, {FINAL_NORM: [HEAD]})


def _norm_scales(facts: ModelFacts, here_I: torch.Tensor, there_I: torch.Tensor) -> torch.Tensor | None:
    """What the columns of a norm's readers were multiplied by, from the norm itself; None where it is unchanged."""
    offset = FAMILIES[facts.family].norm_offset
    here_I, there_I = here_I.float() + offset, there_I.float() + offset
    if fit(here_I, there_I, FLOAT_BITS).sound or not bool((there_I != 0).all()):
        return None
    scales_I: torch.Tensor = here_I / there_I
    return scales_I


def _row_scales(
    facts: ModelFacts, fold: Fold, absorber: str, reader: str, here: Held, there: Held, found: FoldScales
) -> torch.Tensor | None:
    """What the columns of a projection's readers were multiplied by, from the projection's rows and the columns
    themselves; None where the two do not undo each other."""
    rows_O = line_gains(found.scaled(absorber, here[absorber]), there[absorber])
    columns_I = line_gains(here[reader].T, there[reader].T)
    made_O, read_O = rows_O, columns_I
    if fold.kind == "heads":
        width, shared = facts.head_dim, facts.heads // facts.kv_heads
        heads = rows_O[-facts.kv_heads * width :].view(facts.kv_heads, 1, width)
        made_O = heads.expand(-1, shared, -1).reshape(-1)
        read_O = columns_I.view(facts.kv_heads, shared, width).median(dim=1).values.reshape(-1)
    made_O = made_O[-len(columns_I) :]
    apart = (made_O * columns_I - 1).abs()
    if float(apart.median()) > UNDONE or float(apart.quantile(0.9)) > MOSTLY_UNDONE or not bool((made_O > 0).all()):
        kept_O = torch.ones_like(rows_O)
        kept_O[-len(read_O) :] = read_O
        found.torn.append(Torn(absorber, reader, rows_O, made_O, columns_I, kept_O))
        return None
    found.rows[absorber] = rows_O
    scales_I: torch.Tensor = 1 / made_O
    return scales_I


def line_gains(here_OI: torch.Tensor, there_OI: torch.Tensor) -> torch.Tensor:
    """The factor [O] that takes each row of the reference nearest to the artifact's."""
    power = here_OI.square().sum(1).clamp_min(torch.finfo(torch.float32).tiny)
    gains: torch.Tensor = (here_OI * there_OI).sum(1) / power
    return gains
