"""What the door of the room promises, for every scheme: codes in range, storable scales, honest errors."""

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitwright.core.schemes import GgmlScheme, IntScheme
from bitwright.quantize.integer import SHRINKS, round_scale, symmetric_grid
from bitwright.quantize.solve import solve
from bitwright.quantize.statistics import Statistics

GGML = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4"]
INTEGER = [
    IntScheme(bits=bits, group_size=group, symmetric=symmetric)
    for bits in (4, 8)
    for group in (32, 64, 128, None)
    for symmetric in (True, False)
]
SCHEMES = [GgmlScheme(type=kind) for kind in GGML] + INTEGER
BITS = {"Q2": 2, "Q3": 3, "IQ": 4, "MX": 4, "Q4": 4, "Q5": 5, "Q6": 6, "Q8": 8}


def problem(seed: int, rows: int = 4, columns: int = 256) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((rows, columns)).astype(np.float32) * 0.05
    inputs = rng.standard_normal((1024, columns)) @ (rng.standard_normal((columns, columns)) + 4 * np.eye(columns))
    return weight, (inputs.T @ inputs / 1024).astype(np.float32)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.label)
def test_gptq_lowers_the_output_error_of_nearest_codes(scheme: GgmlScheme | IntScheme) -> None:
    weight, gram = problem(0, rows=16)
    nearest = solve(weight, Statistics.of(gram, "rtn"), scheme, "rtn")[1]
    fed_back = solve(weight, Statistics.of(gram, "gptq"), scheme, "gptq")[1]
    assert fed_back.output_error is not None
    assert nearest.output_error is not None
    assert fed_back.output_error < 0.8 * nearest.output_error
    assert fed_back.damping == 0.01


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.label)
def test_the_error_is_near_what_the_bits_allow(scheme: GgmlScheme | IntScheme) -> None:
    weight, _ = problem(1, rows=64)
    tensor, notes = solve(weight, None, scheme, "rtn")
    bits = scheme.bits if isinstance(scheme, IntScheme) else BITS[scheme.type[:2]]
    step = 2 * np.abs(weight).max() / 2**bits
    assert np.sqrt(notes.weight_error * np.square(weight).mean()) < step / np.sqrt(12)
    assert tensor.decode().shape == weight.shape


@given(st.integers(0, 2**32 - 1), st.sampled_from(INTEGER))
def test_integer_codes_and_scales_are_storable(seed: int, scheme: IntScheme) -> None:
    weight, _ = problem(seed, columns=128)
    tensor, _ = solve(weight, None, scheme, "rtn")
    half = 2 ** (scheme.bits - 1)
    assert tensor.codes.min() >= -half
    assert tensor.codes.max() <= half - 1
    scale = tensor.fields["scale"].astype(np.float32)
    assert np.array_equal(round_scale(scale, "bf16"), scale)


@pytest.mark.parametrize("kind", GGML)
@pytest.mark.parametrize("shape", ["zero", "constant", "single outlier", "denormal", "huge"])
def test_odd_matrices_have_finite_codes(kind: str, shape: str) -> None:
    weight = np.zeros((2, 256), np.float32)
    match shape:
        case "constant":
            weight[:] = 0.25
        case "single outlier":
            weight[0, 7] = 100
        case "denormal":
            weight[:] = np.random.default_rng(0).standard_normal(weight.shape) * 1e-42
        case "huge":
            weight[:] = np.random.default_rng(0).standard_normal(weight.shape) * 1e3
    tensor, notes = solve(weight, None, GgmlScheme(type=kind), "rtn")
    decoded = tensor.decode()
    assert np.isfinite(decoded).all()
    assert np.isfinite(notes.weight_error)
    assert np.abs(decoded - weight).max() <= max(
        np.abs(weight).max() * {"Q2_K": 0.4, "Q3_K": 0.2, "MXFP4": 0.3}.get(kind, 0.15), 1e-30
    )


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4"])
def test_the_search_beats_the_reference_quantizer_of_gguf(kind: str) -> None:
    weight, _ = problem(5, rows=64)
    foreign_type = gguf.GGMLQuantizationType[kind]
    foreign = gguf.dequantize(gguf.quantize(weight, foreign_type), foreign_type)
    ours = solve(weight, None, GgmlScheme(type=kind), "rtn")[0].decode()
    assert np.square(ours - weight).sum() < np.square(foreign - weight).sum()


def test_the_compiled_search_finds_what_the_plain_one_finds() -> None:
    weight, _ = problem(9, columns=64)
    importance = np.random.default_rng(9).random(64).astype(np.float32) + 0.1
    grid = symmetric_grid(weight, importance, group_size=32, low=-8, high=7, dtype="f32")
    for o in range(weight.shape[0]):
        for g in range(2):
            w, d = weight[o, g * 32 : g * 32 + 32].astype(float), importance[g * 32 : g * 32 + 32].astype(float)
            best = min(plain_losses(w, d))
            step = float(grid.step_OG[o, g])
            found = (d * (w - step * np.clip(np.rint(w / step), -8, 7)) ** 2).sum()
            assert found <= best * (1 + 1e-4)


def plain_losses(w: np.ndarray, d: np.ndarray) -> list[float]:
    losses = []
    for sign in (1, -1):
        for share in SHRINKS.astype(float):
            q = np.clip(np.rint(w / (sign * np.abs(w).max() / 8 * share)), -8, 7)
            step = (d * w * q).sum() / (d * q * q).sum()
            losses.append(float((d * (w - step * q) ** 2).sum()))
    return losses


def test_missing_statistics_are_noted() -> None:
    weight, _ = problem(2)
    _, notes = solve(weight, None, GgmlScheme(type="Q4_0"), "gptq")
    assert notes.method == "rtn"
    assert notes.output_error is None
    assert notes.notes == ("no statistics for this input: nearest codes",)


def test_a_hopeless_gram_matrix_falls_back_and_says_so() -> None:
    weight, _ = problem(2)
    statistics = Statistics.of(np.zeros((256, 256), np.float32), "gptq")
    _, notes = solve(weight, statistics, GgmlScheme(type="Q4_K"), "gptq")
    assert notes.method == "rtn"
    assert "no Cholesky factor" in notes.notes[0]


def test_equal_inputs_give_equal_bytes() -> None:
    weight, gram = problem(4, rows=32)
    for scheme in SCHEMES:
        first, second = (solve(weight, Statistics.of(gram, "gptq"), scheme, "gptq")[0] for _ in range(2))
        assert first.codes.tobytes() == second.codes.tobytes()
        assert all(first.fields[name].tobytes() == second.fields[name].tobytes() for name in first.fields)


def test_the_output_error_is_that_of_the_undamped_gram_matrix() -> None:
    generator = np.random.default_rng(5)
    weight = generator.standard_normal((64, 96)).astype(np.float32)
    inputs = generator.standard_normal((300, 96)).astype(np.float32) * np.linspace(0.1, 3, 96, dtype=np.float32)
    gram = inputs.T @ inputs / 300
    tensor, notes = solve(weight, Statistics.of(gram, "gptq"), IntScheme(bits=4, group_size=32), "gptq")
    error = weight - tensor.decode()
    expected = np.einsum("oi,ij,oj->", error, gram, error) / np.einsum("oi,ij,oj->", weight, gram, weight)
    assert notes.output_error == pytest.approx(expected, rel=0.01)
