"""GPTQ's factor and its two loops in torch, for a device on which a column of all rows is one step.

The compiled loops of gptq.py take one row at a time, because a processor keeps it in its caches. A graphics processor
wants many equal steps at once: here a step is one column of every row, within a block of columns, and behind the block
follows one product, for error feedback and for coordinate descent alike. Arrays lie transposed, so that a column is
contiguous. Same rules, another order of sums: codes differ where two levels are equally near.

Scales are searched on the CPU before (solve.py), slab by slab. Where a device has no float64 the factor stays there.
Dimension key: O outputs · I inputs · G groups along I · K levels · B columns of one block
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from bitwright.quantize.grid import Grid, grid_values
from bitwright.tensors.qtensor import Float32

BLOCK = 128
Codes = NDArray[np.int16]


def inverse_factor(
    gram_II: Float32, order_I: NDArray[np.int64], added: float, device: torch.device
) -> tuple[Float32 | None, str]:
    """U with H⁻¹ = Uᵀ U for the Gram matrix in the order given, `added` to its diagonal; or why there is none."""
    reversed_I = torch.from_numpy(np.ascontiguousarray(order_I[::-1])).to(device)
    damped_II = torch.from_numpy(gram_II).to(device)[reversed_I][:, reversed_I].double()
    damped_II.diagonal().add_(added)
    lower_II, failed = torch.linalg.cholesky_ex(damped_II)
    if int(failed):
        return None, "not positive definite"
    inverse_II = damped_II.zero_()  # in its memory: at 14336 inputs each takes 1.6 GiB
    inverse_II.diagonal().fill_(1)
    torch.linalg.solve_triangular(lower_II, inverse_II, upper=False, out=inverse_II)
    if not bool(torch.isfinite(inverse_II.diagonal()).all()):
        return None, "singular factor"
    upper_II: Float32 = inverse_II.float().cpu().numpy()[::-1, ::-1]
    return np.ascontiguousarray(upper_II), ""


def feedback_codes(
    weight_OI: Float32,
    grids: Sequence[Grid],
    upper_II: NDArray[np.floating],
    order_I: NDArray[np.int64],
    gram_II: Float32,
    device: torch.device,
    *,
    sweeps: int = 2,
) -> list[tuple[Codes, Float32]]:
    """Codes by feedback and descent, and E G of them, for slabs of rows that each have a grid: see `gptq.gptq_codes`
    and `gptq.refine_codes`."""
    grid = _joined(grids)
    levels = _Levels(grid, device)
    codes_IO = _with_feedback(
        torch.from_numpy(weight_OI.T.copy()).to(device), levels, torch.from_numpy(upper_II).to(device), order_I
    )
    error_OI = weight_OI - grid_values(codes_IO.T.cpu().numpy(), grid)
    gram = torch.from_numpy(gram_II).to(device)
    pull_IO = gram @ torch.from_numpy(error_OI.T.copy()).to(device)
    _descend(codes_IO, pull_IO, gram, levels, sweeps)
    codes_OI, pull_OI = (np.ascontiguousarray(values.T.cpu().numpy()) for values in (codes_IO.short(), pull_IO))
    cuts = np.cumsum([len(grid.step_OG) for grid in grids])[:-1]
    return list(zip(np.split(codes_OI, cuts), np.split(pull_OI, cuts), strict=True))


def _joined(grids: Sequence[Grid]) -> Grid:
    """The grid of all rows. Levels belong to the scheme, so that every slab has the same ones."""
    first = grids[0]
    return Grid(
        step_OG=np.concatenate([grid.step_OG for grid in grids]),
        zero_OG=np.concatenate([grid.zero_OG for grid in grids]),
        offset_OG=np.concatenate([grid.offset_OG for grid in grids]),
        group_size=first.group_size, low=first.low, high=first.high, levels_K=first.levels_K, stored_K=first.stored_K,
    )  # fmt: skip


class _Levels:
    """A grid on the device: one row per group."""

    def __init__(self, grid: Grid, device: torch.device) -> None:
        self.group_size = grid.group_size
        self._low, self._high = grid.low, grid.high
        self._step_GO, self._zero_GO, self._offset_GO = (
            torch.from_numpy(field.T.astype(np.float32)).to(device)
            for field in (grid.step_OG, grid.zero_OG, grid.offset_OG)
        )
        self._levels_K = None if grid.levels_K is None else torch.from_numpy(grid.levels_K).to(device)
        self._middles_K = None if self._levels_K is None else (self._levels_K[1:] + self._levels_K[:-1]) / 2

    def nearest(self, wanted_O: torch.Tensor, g: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes of one column of group `g`, and their values."""
        step_O, zero_O, offset_O = self._step_GO[g], self._zero_GO[g], self._offset_GO[g]
        scaled_O = torch.where(step_O != 0, (wanted_O - offset_O) / step_O, 0.0)
        if self._levels_K is not None and self._middles_K is not None:
            code_O = torch.bucketize(scaled_O, self._middles_K)
            return code_O, step_O * self._levels_K[code_O]
        code_O = torch.round(scaled_O + zero_O).clamp(self._low, self._high)
        return code_O, step_O * (code_O - zero_O) + offset_O

    def moved(
        self, code_O: torch.Tensor, pull_O: torch.Tensor, curvature: torch.Tensor, g: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes where the loss of one column is least, and how far their values go; only where the loss falls."""
        step_O = self._step_GO[g]
        steep_O = curvature * step_O
        far_O = torch.where((steep_O != 0) & (curvature > 0), pull_O / steep_O, 0.0)
        if self._levels_K is not None and self._middles_K is not None:
            wanted_O = torch.bucketize(self._levels_K[code_O] + far_O, self._middles_K)
            change_O = (self._levels_K[wanted_O] - self._levels_K[code_O]) * step_O
        else:
            wanted_O = (code_O + torch.round(far_O)).clamp(self._low, self._high)
            change_O = (wanted_O - code_O) * step_O
        falls_O = (change_O * (change_O * curvature - 2 * pull_O) < 0) & (curvature > 0)
        return torch.where(falls_O, wanted_O, code_O), torch.where(falls_O, change_O, 0.0)


def _with_feedback(
    weight_IO: torch.Tensor, levels: _Levels, upper_II: torch.Tensor, order_I: NDArray[np.int64]
) -> torch.Tensor:
    order = torch.from_numpy(order_I).to(weight_IO.device)
    running_IO = weight_IO[order]
    found: list[torch.Tensor] = []
    for start in range(0, len(running_IO), BLOCK):
        part_BO = running_IO[start : start + BLOCK]
        upper_BB = upper_II[start : start + BLOCK, start : start + BLOCK]
        error_BO = torch.empty_like(part_BO)
        for i in range(len(part_BO)):
            code_O, value_O = levels.nearest(part_BO[i], int(order_I[start + i]) // levels.group_size)
            found.append(code_O)
            error_BO[i] = (part_BO[i] - value_O) / upper_BB[i, i]
            part_BO[i + 1 :].addr_(upper_BB[i, i + 1 :], error_BO[i], alpha=-1)
        behind = start + len(part_BO)
        running_IO[behind:] -= upper_II[start:behind, behind:].T @ error_BO
    ordered_IO = torch.stack(found)
    codes_IO = torch.empty_like(ordered_IO)
    codes_IO[order] = ordered_IO
    return codes_IO


def _descend(
    codes_IO: torch.Tensor, pull_IO: torch.Tensor, gram_II: torch.Tensor, levels: _Levels, sweeps: int
) -> None:
    """Coordinate descent in place; the pull on columns outside a block follows when the block is done."""
    for _ in range(sweeps):
        for start in range(0, len(pull_IO), BLOCK):
            stop = min(start + BLOCK, len(pull_IO))
            pull_BO, gram_BB = pull_IO[start:stop], gram_II[start:stop, start:stop]
            change_BO = torch.empty_like(pull_BO)
            for i in range(len(pull_BO)):
                column = start + i
                codes_IO[column], change_BO[i] = levels.moved(
                    codes_IO[column], pull_BO[i], gram_BB[i, i], column // levels.group_size
                )
                pull_BO.addr_(gram_BB[:, i], change_BO[i], alpha=-1)
            pull_IO[:start] -= gram_II[:start, start:stop] @ change_BO
            pull_IO[stop:] -= gram_II[stop:, start:stop] @ change_BO
