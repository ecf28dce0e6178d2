"""Predict what each tensor loses under each type, from weights of tokens, rows and columns (sensitivity.py).

To second order the loss rises by ½ Σ_t Σ_o g_to² (E x_t)_o² with E the rounding error. With g² split into a weight per
token and one per row, and errors of different columns taken as unrelated, that is ½ N Σ_o r_o Σ_i s_i E_oi², s_i the
weighted mean square of input i. E comes from the weighted scale search on some evenly spaced rows, with columns scaled
as they will be. Feedback lowers the error of linears, and the losses of many linears come to more than their sum; both
together are much the same factor under every type (`FEEDBACK`, measured). The embedding, a table of rows, has neither.

Not here: which types are offered and how bytes are shared out (planner/budget.py).
Dimension key: O outputs · I inputs · N tokens · V vocabulary · H hidden
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from bitwright.core.costs import CostTable, OptionCost, TensorCosts
from bitwright.core.plan import CalibrationPlan, TensorPlan
from bitwright.core.protocols import Progress, WeightSource
from bitwright.core.schemes import FloatScheme, WeightScheme
from bitwright.facts.blocks import block_groups
from bitwright.facts.families import BLOCK, EMBEDDING, HEAD
from bitwright.pipeline.sensitivity import Sensitivities
from bitwright.quantize.nearest import IMPORTANCE_FLOOR, round_weighted
from bitwright.quantize.scaling import DEFAULT_EXPONENTS, exponent_scales
from bitwright.quantize.solve import SINGLE_THREADED_BLAS
from bitwright.tensors.qtensor import Float32

TINY = 1e-30  # keeps a model whose gradients all vanish from dividing by zero
ROWS = 256  # of each linear that costs are measured on
TABLE_ROWS = 4096  # of the embedding and the head: rows differ much in weight there
FEEDBACK = 0.8  # KL of whole runs with GPTQ over that predicted for nearest codes, 0.7 to 0.9; docs/log.md
UNSEEN = 0.3  # share of an embedding's weight that is spread over all rows: text to come uses others too

Options = Callable[[TensorPlan], Sequence[tuple[WeightScheme, int]]]  # schemes of a tensor, with bytes


def measure_costs(
    source: WeightSource,
    plans: Sequence[TensorPlan],
    options: Options,
    sensitivities: Sensitivities,
    tokens_WT: torch.Tensor,
    *,
    calibration: CalibrationPlan,
    progress: Progress,
) -> CostTable:
    """Costs of all tensors that `options` offers more than one scheme for."""
    facts = source.facts
    offered = {entry.name: list(options(entry)) for entry in plans if len(entry.shape) == 2}
    count = tokens_WT.numel()
    found: dict[str, list[float]] = {}
    progress.start("predicting losses", facts.layers + 2, "blocks")
    if len(offered.get(EMBEDDING, [])) > 1:
        found[EMBEDDING] = _embedding_costs(source, sensitivities, tokens_WT, offered[EMBEDDING])
    progress.advance()
    for index in range(facts.layers):
        weights = sensitivities.block(index)
        for group, modules in ((found.name, found.linears) for found in block_groups(facts, index) if found.linears):
            names = [f"{BLOCK.format(layer=index)}{module}.weight" for module in modules]
            if all(len(offered[name]) == 1 for name in names):
                continue
            values = [_load(source, name) for name in names]
            scales_I = exponent_scales(values, weights.squares[group], DEFAULT_EXPONENTS)
            level = float(np.mean([weights.rows[module].mean() for module in modules])) + TINY
            for module, name, weight_OI in zip(modules, names, values, strict=True):
                if len(offered[name]) == 1:
                    continue
                rows_O = weights.rows[module] / level
                found[name] = _costs(
                    weight_OI, rows_O, weights.squares[group], scales_I, offered[name], count=count, rows=ROWS
                )
                found[name] = [FEEDBACK * cost for cost in found[name]]
        progress.advance()
    head = EMBEDDING if facts.tied else HEAD
    if len(offered.get(head, [])) > 1:
        at_head = _head_costs(source, sensitivities, head, offered[head], count)
        before = found.get(head, [0.0] * len(at_head))
        found[head] = [a + b for a, b in zip(before, at_head, strict=True)]
    progress.advance()
    progress.stop()
    tensors = tuple(
        TensorCosts(
            name=name,
            options=tuple(
                OptionCost(scheme=scheme, bytes=size, cost=cost)
                for (scheme, size), cost in zip(offered[name], costs, strict=True)
            ),
        )
        for name, costs in found.items()
    )
    return CostTable(fingerprint=facts.fingerprint, calibration=calibration, tokens=count, tensors=tensors)


def _load(source: WeightSource, name: str) -> Float32:
    values: Float32 = source.load(name).float().numpy()
    return values


def _embedding_costs(
    source: WeightSource, sensitivities: Sensitivities, tokens_WT: torch.Tensor, offered: list[tuple[WeightScheme, int]]
) -> list[float]:
    """Rows weigh as often as their token came, by the gradients there; some weight goes to rows that never came."""
    weight_VH, weights = _load(source, EMBEDDING), sensitivities.embedding()
    seen_V = np.bincount(tokens_WT.numpy().reshape(-1), weights=weights.tokens, minlength=len(weight_VH))
    rows_V = (1 - UNSEEN) * seen_V + UNSEEN * seen_V.mean()
    columns_H = weights.columns / (float(weights.columns.mean()) + TINY)
    ones_H = np.ones(weight_VH.shape[1], dtype=np.float32)
    return _costs(weight_VH, rows_V, columns_H, ones_H, offered, count=1, rows=TABLE_ROWS)


def _head_costs(
    source: WeightSource, sensitivities: Sensitivities, name: str, offered: list[tuple[WeightScheme, int]], count: int
) -> list[float]:
    weight_VH, weights = _load(source, name), sensitivities.head()
    rows_V = weights.rows / (float(weights.rows.mean()) + TINY)
    ones_H = np.ones(weight_VH.shape[1], dtype=np.float32)
    scales_H = ones_H if name == EMBEDDING else exponent_scales([weight_VH], weights.squares, DEFAULT_EXPONENTS)
    costs = _costs(weight_VH, rows_V, weights.squares, scales_H, offered, count=count, rows=TABLE_ROWS)
    return [FEEDBACK * cost for cost in costs]


def _costs(
    weight_OI: Float32,
    rows_O: NDArray[np.floating],
    squares_I: NDArray[np.floating],
    scales_I: Float32,
    offered: Sequence[tuple[WeightScheme, int]],
    *,
    count: int,
    rows: int,
) -> list[float]:
    """½ · count · Σ_o r_o Σ_i s_i E_oi² for every offered scheme, from some rows and carried over to all by weight."""
    picked = np.arange(0, len(weight_OI), max(1, len(weight_OI) // rows))
    some_O = rows_O[picked].astype(np.float64)
    share = float(rows_O.sum(dtype=np.float64)) / (float(some_O.sum()) + TINY)
    scaled_OI = np.ascontiguousarray(weight_OI[picked] * scales_I)
    square_I = squares_I.astype(np.float64) / np.square(scales_I, dtype=np.float64)
    importance_I = (square_I / (float(square_I.mean()) + TINY) + IMPORTANCE_FLOOR).astype(np.float32)

    def cost(offer: tuple[WeightScheme, int]) -> float:
        if isinstance(offer[0], FloatScheme):
            return 0.0
        error_OI = scaled_OI - round_weighted(scaled_OI, importance_I, offer[0]).decode()
        return 0.5 * count * share * float(some_O @ (np.square(error_OI, dtype=np.float64) @ square_I))

    with SINGLE_THREADED_BLAS(), ThreadPoolExecutor() as pool:
        return list(pool.map(cost, offered))
