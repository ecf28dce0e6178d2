"""GPTQ in torch gives what the compiled loops give, but for levels that are equally near."""

import numpy as np
import pytest
import torch

from bitwright.quantize.device_gptq import feedback_codes, inverse_factor
from bitwright.quantize.gptq import factorize, gptq_codes, refine_codes
from bitwright.quantize.grid import Grid, grid_values
from bitwright.quantize.integer import symmetric_grid, zero_point_grid

CPU = torch.device("cpu")
COLUMNS = 320  # two whole blocks and a part


def problem(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((800, COLUMNS)) @ rng.standard_normal((COLUMNS, COLUMNS))
    return rng.standard_normal((24, COLUMNS)).astype(np.float32), (inputs.T @ inputs / 800).astype(np.float32)


def grid_of(kind: str, weight: np.ndarray) -> Grid:
    ones = np.ones(COLUMNS, np.float32)
    if kind == "symmetric":
        return symmetric_grid(weight, ones, group_size=32, low=-8, high=7, dtype="f32")
    if kind == "zero point":
        return zero_point_grid(weight, ones, group_size=32, low=-8, high=7, dtype="f32")
    steps = np.abs(weight).reshape(len(weight), -1, 32).max(axis=2) / 113
    steps[0, 0], steps[1] = 0, -steps[1]
    return Grid.of_levels(steps, np.array([-127, -65, -22, -1, 13, 38, 69, 113], np.float32), group_size=32)


def loss(weight: np.ndarray, codes: np.ndarray, grid: Grid, gram: np.ndarray) -> float:
    error = (weight - grid_values(codes, grid)).astype(np.float64)
    return float(((error @ gram) * error).sum())


@pytest.mark.parametrize("kind", ["symmetric", "zero point", "levels"])
@pytest.mark.parametrize("act_order", [True, False])
def test_codes_are_those_of_the_compiled_loops(kind: str, act_order: bool) -> None:
    weight, gram = problem(1)
    feedback = factorize(gram, act_order=act_order, dtype=np.float32)
    assert feedback is not None
    grid = grid_of(kind, weight)
    expected, _ = refine_codes(weight, gptq_codes(weight, grid, feedback), grid, gram)
    slabs = [grid_of(kind, weight[:10]), grid_of(kind, weight[10:])] if kind != "levels" else [grid]
    found = feedback_codes(weight, slabs, feedback.upper_II, feedback.order_I, gram, CPU)
    codes, pull = (np.concatenate(parts) for parts in zip(*found, strict=True))
    assert [len(part) for part, _ in found] == [len(slab.step_OG) for slab in slabs]
    assert np.mean(codes == expected) > 0.98  # one tie that falls otherwise moves what follows in its row
    assert loss(weight, codes, grid, gram) == pytest.approx(loss(weight, expected, grid, gram), rel=5e-3)
    np.testing.assert_allclose(pull, (weight - grid_values(codes, grid)) @ gram, rtol=1e-3, atol=0.1)


def test_the_factor_is_lapacks() -> None:
    _, gram = problem(2)
    order = np.argsort(-np.diag(gram), kind="stable")
    expected = factorize(gram, damping=(0.01,), dtype=np.float32)
    assert expected is not None
    found, why = inverse_factor(gram, order, 0.01 * float(np.diag(gram).mean()), CPU)
    assert why == ""
    np.testing.assert_allclose(found, expected.upper_II, rtol=1e-4, atol=1e-6)


def test_what_has_no_factor_is_said() -> None:
    gram = -np.eye(8, dtype=np.float32)
    assert inverse_factor(gram, np.arange(8), 0.01, CPU) == (None, "not positive definite")
