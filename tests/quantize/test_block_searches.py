"""The compiled searches of ggml's blocks against plain ones, and the laws of what they return."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitwright.core.schemes import GgmlScheme
from bitwright.quantize import block_fits, block_kernels
from bitwright.quantize.ggml_grids import ggml_grid
from bitwright.quantize.grid import grid_values, round_to_grid
from bitwright.quantize.kquants import AFFINE_TYPES, SIGNED_TYPES
from bitwright.quantize.lane_sums import LANES, turned
from bitwright.quantize.level_blocks import IQ4, MX_LEVELS
from bitwright.quantize.superblocks import real_steps
from bitwright.tensors.ggml_values import IQ4_LEVELS
from bitwright.tensors.qtensor import QTensor

seeds = st.integers(0, 2**32 - 1)
KINDS = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4"]
Levels = Callable[[np.ndarray], np.ndarray]


def problem(seed: int, rows: int = 2, columns: int = 256) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    weight = (rng.standard_normal((rows, columns)) * np.exp(rng.standard_normal((rows, 1)))).astype(np.float32)
    return weight, (rng.random(columns) + 0.1).astype(np.float32)


def plain_loss(w: np.ndarray, d: np.ndarray, step: float, nearest: Levels) -> float:
    """Loss of the nearest levels, float64."""
    w, d = w.astype(np.float64), d.astype(np.float64)
    return float((d * (w - step * nearest(w / step)) ** 2).sum())


def plain_best(w: np.ndarray, d: np.ndarray, reach: float, shrinks: np.ndarray, nearest: Levels) -> float:
    """The least loss over candidates of either sign, each with the least-squares step for its codes."""
    w, d, losses = w.astype(np.float64), d.astype(np.float64), [float((d * w**2).sum())]
    for sign in (1, -1):
        for shrink in shrinks:
            q = nearest(w / (sign * np.abs(w).max() / reach * shrink))
            step = (d * w * q).sum() / max((d * q * q).sum(), 1e-30)
            losses.append(float((d * (w - step * q) ** 2).sum()))
    return min(losses)


def nearest_level(x: np.ndarray) -> np.ndarray:
    return IQ4_LEVELS.astype(np.float64)[np.abs(x[:, None] - IQ4_LEVELS).argmin(axis=1)]


@pytest.mark.parametrize("levels", [IQ4_LEVELS, MX_LEVELS], ids=["iq4", "e2m1"])
def test_the_table_holds_the_nearest_level_everywhere_but_on_ties(levels: np.ndarray) -> None:
    x = np.random.default_rng(0).uniform(-140, 140, 5000).astype(np.float32)
    at = np.clip(x * 2 + 256, 0, 511).astype(np.int64)
    found = block_kernels.level_table(levels)[at]
    assert np.array_equal(np.abs(found - x), np.abs(levels[:, None] - x).min(axis=0))


@given(seeds)
def test_the_signed_search_finds_what_the_plain_one_finds(seed: int) -> None:
    weight, importance = problem(seed)
    kind = SIGNED_TYPES["Q3_K"]
    step, curvature = np.empty((16, LANES), np.float32), np.empty((16, LANES), np.float32)
    block_kernels.search_signed(
        turned(weight), importance, 16, np.float32(-4), np.float32(3), False, 2, kind.shrinks, step, curvature
    )
    for o, s in np.ndindex(2, 16):
        w, d = weight[o, s * 16 : s * 16 + 16], importance[s * 16 : s * 16 + 16]
        nearest = lambda x: np.clip(np.rint(x), -4, 3)  # noqa: E731
        best = plain_best(w, d, 4, kind.shrinks.astype(np.float64), nearest)
        assert plain_loss(w, d, float(step[s, o]), nearest) <= best * (1 + 1e-3) + 1e-9


@given(seeds)
def test_the_codebook_search_finds_what_the_plain_one_finds(seed: int) -> None:
    weight, importance = problem(seed)
    step, _ = real_steps(turned(weight), importance, IQ4)
    for o, s in np.ndindex(2, 8):
        w, d = weight[o, s * 32 : s * 32 + 32], importance[s * 32 : s * 32 + 32]
        best = plain_best(w, d, 127, IQ4.shrinks.astype(np.float64), nearest_level)
        assert plain_loss(w, d, float(step[s, o]), nearest_level) <= best * (1 + 1e-3) + 1e-9


@given(seeds)
def test_the_affine_search_finds_what_the_plain_one_finds(seed: int) -> None:
    weight, importance = problem(seed)
    kind = AFFINE_TYPES["Q2_K"]
    step, low = np.empty((16, LANES), np.float32), np.empty((16, LANES), np.float32)
    block_kernels.search_affine(turned(weight), importance, 16, np.float32(3), kind.shrinks, 2, step, low)
    assert low.min() >= 0
    for o, s in np.ndindex(2, 16):
        w, d = (part[..., s * 16 : s * 16 + 16].astype(np.float64) for part in (weight[o], importance))
        lowest, highest = min(w.min(), 0), max(w.max(), 0)
        losses = []
        for shrink in kind.shrinks.astype(np.float64):
            q = np.clip(np.rint((w - lowest) * 3 / ((highest - lowest) * shrink)), 0, 3)
            root = np.sqrt(d)
            (a, b), *_ = np.linalg.lstsq(np.stack([q, np.ones(16)], 1) * root[:, None], w * root, rcond=None)
            if b > 0:
                a, b = (d * w * q).sum() / (d * q * q).sum(), 0.0
            if a > 0:
                losses.append((d * (w - a * q - b) ** 2).sum())
        a, b = float(step[s, o]), -float(low[s, o])
        found = (d * (w - a * np.clip(np.rint((w - b) / a), 0, 3) - b) ** 2).sum()
        assert found <= min(losses) * (1 + 1e-3) + 1e-9


@pytest.mark.parametrize("kind", KINDS)
@given(seed=seeds)
def test_the_grid_holds_the_values_that_readers_decode(kind: str, seed: int) -> None:
    weight, _ = problem(seed)
    weights = np.random.default_rng(seed).random(256).astype(np.float32) + np.float32(0.1)
    grid, fields = ggml_grid(weight, weights, kind)
    codes = round_to_grid(weight, grid)
    tensor = QTensor(
        scheme=GgmlScheme(type=kind), codes=np.asarray(grid.stored_codes(codes)).astype(np.uint8), fields=fields
    )
    assert np.allclose(tensor.decode(), grid_values(codes, grid), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("kind", "name", "low", "high"), [
    ("Q2_K", "scales", 0, 15), ("Q2_K", "mins", 0, 15), ("Q3_K", "scales", -32, 31), ("IQ4_XS", "scales", -32, 31),
    ("Q4_K", "scales", 0, 63), ("Q4_K", "mins", 0, 63),
])  # fmt: skip
@given(seed=seeds)
def test_small_integers_stay_in_their_bits(kind: str, name: str, low: int, high: int, seed: int) -> None:
    fields = ggml_grid(*(problem(seed)[0], np.ones(256, np.float32)), kind)[1]
    assert int(np.asarray(fields[name]).min()) >= low
    assert int(np.asarray(fields[name]).max()) <= high


@pytest.mark.parametrize("kind", KINDS)
def test_rows_do_not_depend_on_their_neighbours(kind: str) -> None:
    """Rows fill registers side by side; alone, and at any place among others, each has the same grid."""
    weight, importance = problem(2, rows=LANES + 3, columns=512)
    whole, fields = ggml_grid(weight, importance, kind)
    for rows in (slice(0, 1), slice(5, 40), slice(LANES - 1, LANES + 2)):
        grid, part = ggml_grid(weight[rows], importance, kind)
        assert np.array_equal(grid.step_OG, whole.step_OG[rows])
        assert np.array_equal(grid.offset_OG, whole.offset_OG[rows])
        assert all(np.array_equal(np.asarray(part[name]), np.asarray(fields[name])[rows]) for name in fields)


@given(seed=seeds)
def test_the_pairs_of_integers_are_the_best_of_those_beside_the_nearest(seed: int) -> None:
    weight, importance = problem(seed)
    rng, sub, high, most = np.random.default_rng(seed), 32, 15, 63
    w_OSI, d_SI = weight.reshape(2, 8, sub).astype(np.float64), importance.reshape(8, sub).astype(np.float64)
    step = (np.ptp(w_OSI, axis=2) / high * rng.uniform(0.7, 1.2, (2, 8))).astype(np.float32)
    low = (-w_OSI.min(axis=2) * rng.uniform(0.7, 1.2, (2, 8))).astype(np.float32)
    d, dmin = (values.max(axis=1, keepdims=True) / most for values in (step, low))
    found = [np.empty((8, LANES), np.uint8) for _ in range(2)] + [np.empty((1, LANES), np.float32) for _ in range(2)]
    block_fits.fit_affine(
        turned(weight), importance, sub, high, most, 1, turned(step), turned(low), turned(d), turned(dmin), *found
    )
    before, after = np.zeros(2), np.zeros(2)
    for o, s in np.ndindex(2, 8):
        w, weights = w_OSI[o, s], d_SI[s]

        def codes(scale: float, minimum: float, o: int = o, w: np.ndarray = w) -> np.ndarray:
            real = scale * float(d[o, 0])
            return np.clip(np.rint((w + minimum * float(dmin[o, 0])) / real), 0, high) if real > 0 else np.zeros_like(w)

        def loss(
            pair: tuple[float, float], factors: tuple[float, float], w: np.ndarray = w, d_I: np.ndarray = weights
        ) -> float:
            """With the codes for the factors that were given."""
            return float((d_I * (w + factors[1] * pair[1] - factors[0] * pair[0] * codes(*pair)) ** 2).sum())

        given, better = (float(d[o, 0]), float(dmin[o, 0])), (float(found[2][0, o]), float(found[3][0, o]))
        near = (np.rint(step[o, s] / d[o, 0]), np.rint(low[o, s] / dmin[o, 0]))
        beside = [[min(max(int(at) + by, 0), most) for by in (-1, 0, 1)] for at in near]
        chosen = (float(found[0][s, o]), float(found[1][s, o]))
        slack = 1e-5 * float((weights * w**2).sum())
        assert loss(chosen, given) <= min(loss((a, b), given) for a in beside[0] for b in beside[1]) + slack
        before[o] += loss(chosen, given) + slack
        after[o] += loss(chosen, better)
    assert (after <= before).all()


def test_importance_moves_the_error_to_where_it_counts_less() -> None:
    weight = problem(1, rows=64)[0]
    weights = np.where(np.arange(256) % 2 == 0, 100, 1).astype(np.float32)
    for kind in KINDS:
        grid, _ = ggml_grid(weight, weights, kind)
        error = np.square(weight - grid_values(round_to_grid(weight, grid), grid)).sum(axis=0)
        assert error[::2].sum() < 0.9 * error[1::2].sum(), kind
