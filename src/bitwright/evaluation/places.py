"""Where in a matrix something is wrong: rows and columns in words, steps and factors of tiles, a box that was turned.

Dimension key: O outputs · I inputs · G tiles of a row
"""

from __future__ import annotations

import torch

from bitwright.evaluation.tiles import TILE

SHOWN = 4  # ranges in words
GROUPS = (32, 64, 128, 256)
LIKE = 0.6  # correlation of a box with the reference's, turned


def ranges(lines: torch.Tensor) -> str:
    """`3, 8-15, 40` of line numbers, cut after a few."""
    numbers = torch.unique(lines).tolist()
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    shown = [str(first) if first == last else f"{first}-{last}" for first, last in found[:SHOWN]]
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return ", ".join(shown) + more


def whole_heads(lines: torch.Tensor, width: int) -> tuple[int, ...]:
    """Heads that the lines are, where they are whole ones."""
    heads = torch.unique(lines // width)
    return tuple(heads.tolist()) if len(heads) * width == len(lines) else ()


def tile_gains(here_OI: torch.Tensor, there_OI: torch.Tensor) -> torch.Tensor:
    """The factor [O, G] nearest to each tile."""
    here, there = _tiles(here_OI), _tiles(there_OI)
    gains: torch.Tensor = (here * there).sum(-1) / here.square().sum(-1).clamp_min(torch.finfo(torch.float32).tiny)
    return gains


def steps_off(here_OI: torch.Tensor, there_OI: torch.Tensor) -> torch.Tensor:
    """How many steps of its own grid each tile lies beside the reference, where a grid shows."""
    here, there = _tiles(here_OI), _tiles(there_OI)
    apart = there.sort(-1).values.diff(dim=-1)
    large = torch.finfo(torch.float32).max
    step = torch.where(apart > 1e-3 * apart.amax(-1, keepdim=True), apart, torch.tensor(large)).amin(-1)
    steps = (there - here).mean(-1) / step
    return steps[step < large]


def best_shift(here_OI: torch.Tensor, gains_OG: torch.Tensor) -> tuple[str, float]:
    """Whose scales explain the factors best: of the groups beside, of the rows beside; with the correlation."""
    peaks_OG = _tiles(here_OI).abs().amax(-1).clamp_min(torch.finfo(torch.float32).tiny)
    logs_OG = gains_OG.abs().clamp_min(1e-3).log()  # scales may have either sign
    found = [("other groups", 0.0)]
    for size in GROUPS:
        tiles = size // TILE
        if peaks_OG.shape[1] % tiles or peaks_OG.shape[1] <= tiles:
            continue
        scale_OG = peaks_OG.view(len(peaks_OG), -1, tiles).amax(-1)
        seen_OG = logs_OG.view(len(peaks_OG), -1, tiles).mean(-1)
        for shift, words in ((1, "the group before"), (-1, "the group after")):
            moved = (scale_OG.roll(shift, 1) / scale_OG).log()
            found.append((f"{words} ({size} inputs)", _correlation(moved, seen_OG)))
    scale_O = peaks_OG.amax(1)
    for shift, words in ((1, "the row before"), (-1, "the row after")):
        found.append((words, _correlation((scale_O.roll(shift) / scale_O).log(), logs_OG.mean(1))))
    return max(found, key=lambda one: one[1])


def turned_box(
    here_OI: torch.Tensor, there_OI: torch.Tensor, rows: torch.Tensor, tiles: torch.Tensor
) -> tuple[int, int, int, int] | None:
    """First and last row and column of a square that holds its own transpose, or `None`."""
    top, left = int(rows.min()), int(tiles.min()) * TILE
    size = min(int(rows.max()) - top + 1, (int(tiles.max()) + 1) * TILE - left)
    for side in sorted({size, -(-size // TILE) * TILE}):
        for start in {top, top // TILE * TILE}:
            box = slice(start, start + side), slice(left, left + side)
            here, there = here_OI[box], there_OI[box]
            if here.shape == (side, side) and side > 1 and _correlation(here.T, there) > LIKE:
                return start, start + side - 1, left, left + side - 1
    return None


def _correlation(here: torch.Tensor, there: torch.Tensor) -> float:
    a, b = here.flatten() - here.mean(), there.flatten() - there.mean()
    return float((a @ b) / (a.norm() * b.norm()).clamp_min(torch.finfo(torch.float32).tiny))


def _tiles(value_OI: torch.Tensor) -> torch.Tensor:
    padded = torch.nn.functional.pad(value_OI, (0, -value_OI.shape[1] % TILE))
    return padded.reshape(len(value_OI), -1, TILE)
