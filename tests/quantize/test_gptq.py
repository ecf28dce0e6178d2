"""Laws of GPTQ, its oracle, and codes made by another implementation."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitwright.quantize.gptq import factorize, gptq_codes, gptq_codes_reference, refine_codes
from bitwright.quantize.grid import Grid, grid_values, round_to_grid
from bitwright.quantize.integer import symmetric_grid

GOLDEN = Path(__file__).parent.parent / "golden" / "gptq_llm_compressor.json"
seeds = st.integers(0, 2**32 - 1)


def problem(seed: int, rows: int = 5, columns: int = 64) -> tuple[np.ndarray, np.ndarray, Grid]:
    """A random matrix, the Gram matrix of correlated inputs, and a grid of groups of 16."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((columns, columns)) * np.exp(0.5 * rng.standard_normal(columns))
    inputs = rng.standard_normal((4 * columns, columns)) @ mixing
    weight = rng.standard_normal((rows, columns)).astype(np.float32)
    gram = (inputs.T @ inputs / len(inputs)).astype(np.float32)
    grid = symmetric_grid(weight, np.ones(columns, np.float32), group_size=16, low=-8, high=7, dtype="f32")
    return weight, gram, grid


def level_grid(seed: int, weight: np.ndarray, count: int = 16) -> Grid:
    """Uneven levels of either sign, steps of either sign, and one group without a step."""
    rng = np.random.default_rng(seed)
    levels = np.sort(rng.choice(np.arange(-127, 128), count, replace=False)).astype(np.float32)
    step = (rng.choice([-1, 1], (len(weight), 4)) * rng.uniform(0.01, 0.03, (len(weight), 4))).astype(np.float32)
    step[0, 0] = 0
    return Grid.of_levels(step, levels, group_size=16)


def oracle(weight: np.ndarray, gram: np.ndarray, grid: Grid, order: np.ndarray, damping: float) -> np.ndarray:
    """Optimal brain quantization by the book: after each column, invert what remains of the matrix afresh."""
    hessian = gram.astype(np.float64) + damping * np.diag(gram).astype(np.float64).mean() * np.eye(len(gram))
    running = weight.astype(np.float64).copy()
    codes = np.empty(weight.shape, dtype=np.int16)
    for position, column in enumerate(order):
        rest = order[position:]
        inverse = np.linalg.inv(hessian[np.ix_(rest, rest)])
        g = column // grid.group_size
        step, zero, offset = grid.step_OG[:, g], grid.zero_OG[:, g], grid.offset_OG[:, g]
        code = np.clip(np.rint((running[:, column] - offset) / step + zero), grid.low, grid.high)
        codes[:, column] = code
        error = running[:, column] - (step * (code - zero) + offset)
        running[:, rest] -= np.outer(error / inverse[0, 0], inverse[0])
    return codes


def loss(weight: np.ndarray, codes: np.ndarray, grid: Grid, gram: np.ndarray) -> float:
    error = weight - grid_values(codes, grid)
    return float(np.einsum("oi,ij,oj->", error, gram, error, dtype=np.float64))


@given(seeds, st.booleans())
def test_equals_the_oracle_that_inverts_afresh(seed: int, act_order: bool) -> None:
    weight, gram, grid = problem(seed)
    feedback = factorize(gram, act_order=act_order)
    assert feedback is not None
    expected = oracle(weight, gram, grid, feedback.order_I, feedback.damping)
    assert np.array_equal(gptq_codes(weight, grid, feedback, dtype=np.float64), expected)
    assert np.array_equal(gptq_codes_reference(weight, grid, feedback), expected)


@given(seeds, st.sampled_from([2, 3, 15, 16, 253]))
def test_uneven_levels_equal_the_plain_loop(seed: int, count: int) -> None:
    weight, gram, _ = problem(seed)
    grid = level_grid(seed, weight, count)
    feedback = factorize(gram)
    assert feedback is not None
    fast = gptq_codes(weight, grid, feedback, dtype=np.float64)
    assert np.array_equal(fast, gptq_codes_reference(weight, grid, feedback))
    assert grid.levels_K is not None
    spread = np.repeat(grid.step_OG, 16, axis=1)[:, :, None] * grid.levels_K
    distance = np.abs(weight[:, :, None] - spread).min(axis=2)
    near = np.abs(weight - grid_values(round_to_grid(weight, grid), grid))
    assert np.allclose(near, distance, rtol=1e-5, atol=1e-6)


@given(seeds)
def test_levels_of_whole_numbers_are_the_uniform_grid(seed: int) -> None:
    weight, gram, grid = problem(seed)
    levels = Grid.of_levels(grid.step_OG, np.arange(-8, 8, dtype=np.float32), group_size=16)
    feedback = factorize(gram)
    assert feedback is not None
    codes = gptq_codes(weight, grid, feedback, dtype=np.float64)
    assert np.array_equal(gptq_codes(weight, levels, feedback, dtype=np.float64) - 8, codes)
    assert np.array_equal(
        refine_codes(weight, codes + 8, levels, gram)[0] - 8, refine_codes(weight, codes, grid, gram)[0]
    )
    assert np.array_equal(round_to_grid(weight, levels) - 8, round_to_grid(weight, grid))


@given(seeds, st.sampled_from([1, 7, 32, 64, 1000]))
def test_block_size_does_not_matter(seed: int, block: int) -> None:
    weight, gram, grid = problem(seed)
    feedback = factorize(gram)
    assert feedback is not None
    whole = gptq_codes(weight, grid, feedback, dtype=np.float64)
    assert np.array_equal(gptq_codes(weight, grid, feedback, block=block, dtype=np.float64), whole)


@given(seeds)
def test_a_diagonal_gram_gives_nearest_codes(seed: int) -> None:
    weight, gram, grid = problem(seed)
    feedback = factorize(np.diag(np.diag(gram)))
    assert feedback is not None
    assert np.array_equal(gptq_codes(weight, grid, feedback), round_to_grid(weight, grid))


@given(seeds)
def test_permuting_inputs_permutes_codes(seed: int) -> None:
    weight, gram, grid = problem(seed)
    single = dataclasses.replace(
        grid, step_OG=grid.step_OG[:, :1], zero_OG=grid.zero_OG[:, :1], offset_OG=grid.offset_OG[:, :1], group_size=64
    )
    order = np.random.default_rng(seed).permutation(64)
    feedback, permuted = factorize(gram), factorize(np.ascontiguousarray(gram[np.ix_(order, order)]))
    assert feedback is not None
    assert permuted is not None
    codes = gptq_codes_reference(weight, single, feedback)
    assert np.array_equal(gptq_codes_reference(weight[:, order], single, permuted), codes[:, order])


def test_output_error_is_below_nearest_codes_over_many_seeds() -> None:
    gains = []
    for seed in range(40):
        weight, gram, grid = problem(seed)
        feedback = factorize(gram)
        assert feedback is not None
        gains.append(
            loss(weight, gptq_codes(weight, grid, feedback), grid, gram)
            / loss(weight, round_to_grid(weight, grid), grid, gram)
        )
    assert np.mean(gains) < 0.7
    assert sum(gain < 1 for gain in gains) >= 38


@given(seeds, st.booleans(), st.booleans())
def test_coordinate_descent_never_raises_the_loss(seed: int, from_gptq: bool, uneven: bool) -> None:
    weight, gram, grid = problem(seed)
    if uneven:
        grid = level_grid(seed, weight)
    feedback = factorize(gram)
    assert feedback is not None
    codes = gptq_codes(weight, grid, feedback) if from_gptq else round_to_grid(weight, grid)
    refined, pull = refine_codes(weight, codes, grid, gram)
    assert np.allclose(pull, (weight - grid_values(refined, grid)) @ gram, atol=1e-3 * np.abs(gram).max())
    assert loss(weight, refined, grid, gram) <= loss(weight, codes, grid, gram) * (1 + 1e-5)
    assert refined.min() >= grid.low
    assert refined.max() <= grid.high


def test_single_precision_differs_from_double_in_few_codes() -> None:
    weight, gram, grid = problem(3, rows=64, columns=128)
    feedback = factorize(gram)
    assert feedback is not None
    fast, exact = gptq_codes(weight, grid, feedback), gptq_codes_reference(weight, grid, feedback)
    assert np.mean(fast != exact) < 0.01


@pytest.mark.parametrize("number", range(3))
def test_codes_equal_llm_compressors_on_the_same_grid(number: int) -> None:
    case = json.loads(GOLDEN.read_text())["cases"][number]
    scale, zero = np.array(case["scale"], np.float32), np.array(case["zero_point"], np.float32)
    grid = Grid(
        step_OG=scale, zero_OG=zero, offset_OG=np.zeros_like(scale), group_size=case["group_size"], low=-8, high=7
    )
    gram = np.array(case["gram"], np.float32)
    feedback = factorize(gram, act_order=case["actorder"] == "static", damping=(case["damping"],))
    assert feedback is not None
    codes = gptq_codes(np.array(case["weight"], np.float32), grid, feedback)
    assert np.array_equal(codes, np.array(case["codes"]))


def test_a_matrix_that_is_nowhere_positive_has_no_factor() -> None:
    assert factorize(np.zeros((8, 8), np.float32)) is None
    assert factorize(np.full((8, 8), np.nan, np.float32)) is None


def test_the_ladder_climbs_until_the_matrix_is_positive_definite() -> None:
    gram = np.diag(np.array([1, 1, 1, -0.05], np.float32))
    feedback = factorize(gram)
    assert feedback is not None
    assert feedback.damping == 0.1
    assert feedback.notes == ("not positive definite with damping 0.01", "not positive definite with damping 0.03")
