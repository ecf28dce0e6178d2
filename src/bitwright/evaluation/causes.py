"""Why a tensor is not what rounding makes of the reference's: each explanation is tried on the numbers.

Explanations go from what a few numbers say (zero, sign, factor, constant) over orders of rows and codes to other
tensors of the reference; the first that leaves little unexplained is the diagnosis. Codes in a wrong order keep the
scales of their places, so orders are judged by how straight a line runs through the values of each tile, whatever its
slope.

Not here: which tensors are broken (weights.py), settings (settings.py).
Dimension key: O outputs · I inputs · G tiles of a row
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch

from bitwright.core.findings import Diagnosis
from bitwright.core.plan import ModelFacts
from bitwright.evaluation import orders, places
from bitwright.evaluation.tiles import TILE, Fit, error_limit, fit
from bitwright.facts.doctor_rules import diagnosis
from bitwright.facts.families import HEAD
from bitwright.tensors.qtensor import QTensor

MOSTLY = 0.9  # share of the error that a cause must account for
NEAR = 0.1  # how far a factor may lie from one, or minus one
ALIKE = 0.6  # correlation of rows that are the same but for rounding, and for scales of others
STRAIGHT = 0.6  # share of a tile's variance on a straight line
SHIFTED = 0.5  # correlation of factors with those that a shift of scales would give
STRANGE = 0.2  # below this correlation nothing is left of a tensor
SAMPLE = 48  # rows that tensors are told apart by
Load = Callable[[str], torch.Tensor]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One broken tensor, with what is known of it. `here` has the scales that were folded in."""

    name: str
    here: torch.Tensor
    there: torch.Tensor
    fit: Fit
    bits: float
    facts: ModelFacts
    reference: Load
    artifact: Load
    peers: tuple[str, ...]  # tensors of the same shape
    coded: Callable[[], QTensor | None] = lambda: None  # codes and scales of GPTQ and AWQ
    part: str = "decoder"
    bare: torch.Tensor | None = None  # the reference's as it is, where `here` has scales

    @property
    def limit(self) -> float:
        return error_limit(self.bits)


def explain(case: Case) -> Diagnosis:
    """The first explanation that holds; what is known where none does."""
    tries = _VECTOR if case.here.dim() == 1 else _MATRIX
    for attempt in tries:
        found = attempt(case)
        if found is not None:
            return found
    return _tell(case, "too-far", error=_short(case.fit.error), bits=f"{case.bits:.2f}", limit=_short(case.limit))


def _not_finite(case: Case) -> Diagnosis | None:
    if not case.fit.not_finite:
        return None
    odd = (~torch.isfinite(case.there.view(len(case.there), -1))).nonzero()
    rows, columns = places.ranges(odd[:, 0]), places.ranges(odd[:, 1])
    return _tell(
        case, "not-finite", count=case.fit.not_finite, rows=rows, columns=columns,
        evidence={"values": case.fit.not_finite, "first_row": int(odd[0, 0]), "first_column": int(odd[0, 1])},
    )  # fmt: skip


def _norm(case: Case) -> Diagnosis | None:
    for peer in case.peers:
        if _error(case.reference(peer).float(), case.there) < case.limit:
            return _other(case, peer, 1.0)
    rule = "norm" if case.name.endswith("norm.weight") else "too-far"
    return _tell(case, rule, error=_short(case.fit.error), bits=f"{case.bits:.2f}", limit=_short(case.limit))


def _unscaled(case: Case) -> Diagnosis | None:
    """Scales were folded into its norm and not into it."""
    if case.bare is None or not fit(case.bare, case.there, case.bits).sound:
        return None
    return _tell(case, "unscaled", evidence={"left": _error(case.bare, case.there)})


def _zeros(case: Case) -> Diagnosis | None:
    """Rows of zeros, or columns where a matrix reads heads."""
    for axis, reads in ((0, False), (1, True)):
        empty = (case.there == 0).all(dim=1 - axis) & (case.here != 0).any(dim=1 - axis)
        if not bool(empty.any()) or (reads and not case.name.endswith("o_proj.weight")):
            continue
        lines = empty.nonzero().flatten()
        off = (case.there - case.here).square()
        if float(off.index_select(axis, lines).sum()) < MOSTLY * float(off.sum()):
            continue
        heads = places.whole_heads(lines, case.facts.head_dim) if "self_attn" in case.name else ()
        evidence = {"lines": len(lines), "first": int(lines[0])}
        if heads:
            what = "head" if len(heads) == 1 else "heads"
            shown = ", ".join(map(str, heads))
            return _tell(case, "zero-head", what=what, heads=shown, rows=places.ranges(lines), evidence=evidence)
        return _tell(case, "zero-rows", count=len(lines), rows=places.ranges(lines), evidence=evidence)
    return None


def _factor(case: Case) -> Diagnosis | None:
    power = float(case.here.square().sum())
    gain = float((case.here * case.there).sum()) / power if power else 1.0
    if abs(gain - 1) < NEAR or not gain or _error(case.here * gain, case.there) > case.limit:
        return None
    evidence = {"factor": gain, "left": _error(case.here * gain, case.there)}
    if abs(gain + 1) < NEAR:
        return _tell(case, "sign", evidence=evidence)
    return _tell(case, "factor", factor=f"{gain:.3g}", inverse=f"{1 / gain:.3g}", evidence=evidence)


def _constant(case: Case) -> Diagnosis | None:
    value = case.coded()
    if value is not None:
        steps = orders.steps_by_scale(case.here, case.there, value)
        middle, spread = float(steps.median()), float(steps.std())
        if abs(middle) < 0.5 or spread > 1:
            return None
        share = float((steps * middle > 0.5 * middle * middle).float().mean())
        evidence = {"steps": middle, "spread": spread, "share": share}
        return _tell(case, "zero-point", steps=f"{middle:+.2g}", share=f"{share:.0%}", evidence=evidence)
    if not case.fit.explained or case.fit.offset < case.fit.gain:
        return None
    steps = places.steps_off(case.here, case.there)
    share = float((steps.abs() > 0.5).float().mean())
    middle = float(steps[steps.abs() > 0.5].median()) if share else 0.0
    return _tell(
        case, "zero-point", steps=f"{middle:+.2g}", share=f"{share:.0%}",
        evidence={"steps": middle, "share": share, "explained": case.fit.offset},
    )  # fmt: skip


def _order_of_rows(case: Case) -> Diagnosis | None:
    """Rotary halves of q and k, and the whole matrix turned over."""
    for words, order_O in orders.rotary(case.name, case.facts):
        if _error(case.here[order_O], case.there) < max(case.limit, 2 * case.fit.limit):
            was, belongs = words
            return _tell(
                case, "rotary-order", order=was, expected=belongs,
                evidence={"error": case.fit.error, "left": _error(case.here[order_O], case.there)},
            )  # fmt: skip
    rows, columns = case.here.shape
    if rows == columns and _error(case.here.T, case.there) < case.limit:
        return _tell(case, "transposed", evidence={"left": _error(case.here.T, case.there)})
    return None


def _scales(case: Case) -> Diagnosis | None:
    """One factor per tile: scales of a neighbour, or of somebody."""
    if not case.fit.explained:
        return None
    gains_OG = places.tile_gains(case.here, case.there)
    which, seen = places.best_shift(case.here, gains_OG)
    if seen < SHIFTED:
        which = "other groups"
    return _tell(
        case, "group-scale", which=which, explained=f"{case.fit.gain:.0%}",
        evidence={"explained": case.fit.gain, "correlation": seen},
    )  # fmt: skip


def _codes(case: Case) -> Diagnosis | None:
    """Codes in the order of another layout."""
    plain = orders.straightness(case.here, case.there)
    best, words = max(
        ((orders.straightness(case.here, moved), words) for words, moved in orders.packings(case.there)),
        key=lambda found: found[0],
    )
    if best < STRAIGHT or best < plain + NEAR:
        return None
    return _tell(case, "nibbles", order=words, evidence={"straight": best, "as_stored": plain})


def _columns(case: Case) -> Diagnosis | None:
    """The codes fit, input by input, under the scales of other groups than those that the file names."""
    value = case.coded()
    if value is None or "group_index" not in value.fields:
        return None
    nearest, moved = orders.regrouped(case.here, value)
    left = _error(case.here, nearest)
    if left > case.limit or not moved:
        return None
    return _tell(case, "group-order", count=moved, evidence={"left": left, "moved": moved})


def _another(case: Case) -> Diagnosis | None:
    """A tensor of the reference under a name that is not its own."""
    if _likeness(case.here, case.there) > ALIKE:
        return None
    if case.name == HEAD and case.facts.tied:
        return _tell(case, "head", evidence={"correlation": _likeness(case.here, case.there)})
    for peer in case.peers:
        found = _likeness(case.reference(peer), case.there)
        if found > ALIKE:
            return _other(case, peer, found)
    return None


def _other(case: Case, peer: str, correlation: float) -> Diagnosis:
    back = case.artifact(peer)
    swapped = back.shape == case.here.shape and _likeness(case.here, back) > ALIKE
    evidence = {"correlation": correlation}
    return _tell(case, "swapped" if swapped else "other-tensor", other=peer, evidence=evidence)


def _moved(case: Case) -> Diagnosis | None:
    """Some rows or columns in each other's places."""
    for axis, here, there in (("rows", case.here, case.there), ("columns", case.here.T, case.there.T)):
        moved, seen = orders.moved_lines(here, there, SAMPLE)
        if seen > ALIKE and len(moved):
            shown = places.ranges(moved)
            return _tell(
                case, "row-order", axis=axis, count=len(moved), total=len(here), rows=shown,
                evidence={"correlation": seen, "moved": len(moved)},
            )  # fmt: skip
    return None


def _region(case: Case) -> Diagnosis | None:
    """Some tiles hold something else."""
    lost = case.fit.lost.nonzero()
    if not len(lost) or len(lost) > MOSTLY * case.fit.lost.numel():
        return None
    rows, tiles = lost[:, 0], lost[:, 1]
    turned = places.turned_box(case.here, case.there, rows, tiles)
    columns = torch.unique(tiles)[:, None] * TILE + torch.arange(TILE)
    shown = {"rows": places.ranges(rows), "columns": places.ranges(columns.flatten())}
    if turned is not None:
        shown = {"rows": f"{turned[0]}-{turned[1]}", "columns": f"{turned[2]}-{turned[3]}"}
        return _tell(case, "transposed-block", evidence={"tiles": len(lost)}, **shown)
    whole = torch.nn.functional.pad(case.there, (0, -case.there.shape[1] % TILE)).view(len(case.there), -1, TILE)
    empty = bool((whole[case.fit.lost] == 0).all())
    zero = ", all zero" if empty else ""
    return _tell(case, "damaged", count=len(lost), tile=TILE, zero=zero, evidence={"tiles": len(lost)}, **shown)


def _nothing(case: Case) -> Diagnosis | None:
    found = _likeness(case.here, case.there)
    return _tell(case, "unrelated", evidence={"correlation": found}) if found < STRANGE else None


_VECTOR = (_not_finite, _norm)
_MATRIX = (
    _not_finite, _unscaled, _zeros, _factor, _constant, _order_of_rows, _columns, _another, _scales, _codes, _moved,
    _region, _nothing,
)  # fmt: skip


def _tell(case: Case, rule: str, *, evidence: Mapping[str, float] | None = None, **words: Any) -> Diagnosis:
    found = {"error": case.fit.error, "limit": case.limit} | dict(evidence or {})
    return diagnosis(rule, case.name, evidence=found, part=case.part, name=case.name, **words)


def _error(here: torch.Tensor, there: torch.Tensor) -> float:
    power = float(here.square().sum(dtype=torch.float64))
    return float((there - here).square().sum(dtype=torch.float64)) / power if power else 1.0


def _likeness(here: torch.Tensor, there: torch.Tensor) -> float:
    """Mean correlation of some rows."""
    return orders.row_likeness(here.float(), there.float(), SAMPLE)


def _short(value: float) -> str:
    return f"{value:.2g}"
