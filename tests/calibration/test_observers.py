"""Observers: laws, a plain reference of the entropy rule, and torch's observers."""

from __future__ import annotations

import itertools
import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bitwright.calibration.float_levels import LEVELS, float_divergence
from bitwright.calibration.histograms import RunningHistograms
from bitwright.calibration.observer_kernels import SMOOTHING, divergence, level_divergence
from bitwright.calibration.observers import Observer, Parameters, observe_weight, scale_and_zero
from bitwright.calibration.sharing import Sharing
from bitwright.core.errors import InputError, UsageError
from bitwright.tensors.minifloat_values import decode_minifloat, encode_minifloat

RULES = ("minmax", "percentile", "mse", "entropy")
WHOLE = Sharing()


def heavy(rows: int, columns: int, seed: int = 0, shift: float = 0.0) -> np.ndarray:
    """Values with tails, columns of different loudness."""
    rng = np.random.default_rng(seed)
    loudness = np.exp(rng.standard_normal(columns))
    return (rng.standard_t(4, (rows, columns)) * loudness + shift).astype(np.float32)


def watched(rule: Any, batches: list[np.ndarray], sharing: Sharing = WHOLE, **settings: Any) -> Observer:
    observer = Observer(rule, sharing, **settings)
    for batch in batches:
        observer.add(batch)
    return observer


def squared(values: np.ndarray, parameters: Parameters) -> float:
    return float(np.square(parameters.round(values.reshape(1, -1)) - values.reshape(1, -1)).mean())


@given(st.integers(0, 10**6), st.permutations(range(6)), st.floats(-3, 3), st.booleans())
@settings(max_examples=15)
def test_neither_order_nor_size_of_batches_matters(seed: int, order: list[int], shift: float, symmetric: bool) -> None:
    values = heavy(60, 8, seed, shift) * np.float32(10.0) ** np.random.default_rng(seed).integers(-3, 3)
    batches = np.split(values, 6)
    for rule in RULES:
        found = [
            watched(rule, parts, Sharing(kind="group", size=4)).parameters(8, symmetric=symmetric)
            for parts in (batches, [batches[i] for i in order], [values])
        ]
        for other in found[1:]:
            np.testing.assert_array_equal(found[0].scale, other.scale)
            np.testing.assert_array_equal(found[0].zero, other.zero)


@given(st.lists(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1), min_size=1))
@settings(max_examples=60)
def test_a_histogram_that_widened_is_that_of_one_pass(batches: list[list[float]]) -> None:
    running, once = RunningHistograms(1, bins=16), RunningHistograms(1, bins=16)
    slot = np.zeros(1, dtype=np.int64)
    for batch in batches:
        running.add(slot, np.array([batch], dtype=np.float32))
    values = np.array([list(itertools.chain(*batches))], dtype=np.float32)
    once.add(slot, values)
    np.testing.assert_array_equal(running.counts_SB, once.counts_SB)
    assert running.counts_SB.sum() == values.size
    (start,), (width,) = running.edges()
    expected = np.floor(values[0].astype(np.float64) / width) - start / width
    np.testing.assert_array_equal(running.counts_SB[0], np.bincount(np.clip(expected, 0, 15).astype(int), minlength=16))
    assert (expected >= 0).all()
    assert (expected < 16).all()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("kind", ["tensor", "channel", "group"])
def test_all_of_the_values_is_minmax(kind: Any, symmetric: bool) -> None:
    values, sharing = heavy(100, 12, shift=0.5), Sharing(kind=kind, size=4)
    whole = watched("percentile", [values], sharing, percentile=100).parameters(8, symmetric=symmetric)
    plain = watched("minmax", [values], sharing).parameters(8, symmetric=symmetric)
    np.testing.assert_array_equal(whole.scale, plain.scale)
    np.testing.assert_array_equal(whole.zero, plain.zero)


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_percentile_is_that_of_numpy_within_a_bin(symmetric: bool) -> None:
    values = heavy(4000, 4, shift=1.0)
    found = watched("percentile", np.split(values, 4), percentile=99).parameters(8, symmetric=symmetric)
    if symmetric:
        expected = np.quantile(np.abs(values), 0.99) / 127.5
    else:
        expected = (np.quantile(values, 0.995) - np.quantile(values, 0.005)) / 255
    bin_width = float(values.max() - values.min()) / 1024
    assert found.scale[0] == pytest.approx(expected, abs=2 * bin_width / 127.5)


@given(st.integers(0, 10**6), st.sampled_from([3, 4, 8]), st.booleans(), st.floats(-2, 2))
@settings(max_examples=25)
@example(394, 8, False, 0.0)
def test_mse_is_never_worse_than_minmax(seed: int, bits: int, symmetric: bool, shift: float) -> None:
    """But for what a histogram does not tell: at 8 bits a level spans eight of its bins."""
    values = heavy(300, 6, seed, shift)
    losses = {
        rule: squared(values, watched(rule, [values]).parameters(bits, symmetric=symmetric))
        for rule in ("minmax", "mse")
    }
    assert losses["mse"] <= (1.02 if bits == 8 else 1.001) * losses["minmax"]


def test_mse_and_entropy_clip_tails_where_bits_are_few() -> None:
    values = heavy(3000, 4)
    whole = watched("minmax", [values]).parameters(4).scale[0]
    assert watched("mse", [values]).parameters(4).scale[0] < 0.7 * whole
    assert watched("entropy", [values]).parameters(4).scale[0] < 0.7 * whole


def plain_divergence(counts: list[int], start: float, width: float, scale: float, zero: int, bits: int) -> float:
    """The rule in words: clip, merge into levels, spread out again, compare."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    levels = [round((start + (i + 0.5) * width) / scale) + zero for i in range(len(counts))]
    inside = [i for i, level in enumerate(levels) if low <= level <= high]
    if not inside or not sum(counts[i] for i in inside):
        return math.inf
    p = {i: float(counts[i]) for i in inside}
    p[inside[0]] += sum(counts[: inside[0]])
    p[inside[-1]] += sum(counts[inside[-1] + 1 :])
    total, kept = sum(counts), sum(counts[i] for i in inside)
    result = 0.0
    for i in inside:
        if p[i]:
            same = [j for j in inside if levels[j] == levels[i]]
            q = sum(counts[j] for j in same) / sum(p[j] > 0 for j in same) / kept
            result += p[i] / total * math.log(p[i] / total / max(q, SMOOTHING / len(counts)))
    return result


@given(
    st.lists(st.integers(0, 50), min_size=8, max_size=64),
    st.integers(-64, 0),
    st.floats(0.5, 9),
    st.integers(-8, 7),
    st.sampled_from([3, 4]),
)
@settings(max_examples=60)
def test_entropy_is_that_of_the_plain_reference(
    counts: list[int], first: int, scale: float, zero: int, bits: int
) -> None:
    found = divergence(
        np.array(counts), float(first), 1.0, scale, float(zero), float(-(2 ** (bits - 1))), float(2 ** (bits - 1) - 1)
    )
    expected = plain_divergence(counts, float(first), 1.0, scale, zero, bits)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("per_channel", [True, False])
def test_minmax_is_that_of_torch(symmetric: bool, per_channel: bool) -> None:
    from torch.ao.quantization import observer as torch_observers

    values = heavy(64, 16, shift=0.3)
    kind = "per_channel" if per_channel else "per_tensor"
    settings: dict[str, Any] = {
        "dtype": torch.qint8,
        "qscheme": getattr(torch, f"{kind}_{'symmetric' if symmetric else 'affine'}"),
    }
    with warnings.catch_warnings(action="ignore"):
        if per_channel:
            other = torch_observers.PerChannelMinMaxObserver(ch_axis=1, **settings)
        else:
            other = torch_observers.MinMaxObserver(**settings)
        for batch in np.split(values, 4):
            other(torch.from_numpy(batch))
        scale, zero = other.calculate_qparams()
    sharing = Sharing(kind="channel" if per_channel else "tensor")
    found = watched("minmax", np.split(values, 2), sharing).parameters(8, symmetric=symmetric)
    np.testing.assert_allclose(found.scale, scale.numpy().reshape(-1), rtol=1e-6)
    np.testing.assert_array_equal(found.zero, zero.numpy().reshape(-1))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("shift", [0.0, 2.0])
def test_mse_is_no_worse_than_the_search_of_torch(symmetric: bool, shift: float) -> None:
    from torch.ao.quantization import observer as torch_observers

    values = heavy(2000, 8, seed=3, shift=shift)
    scheme = torch.per_tensor_symmetric if symmetric else torch.per_tensor_affine
    with warnings.catch_warnings(action="ignore"):
        other = torch_observers.HistogramObserver(dtype=torch.qint8, qscheme=scheme)
        for batch in np.split(values, 4):
            other(torch.from_numpy(batch))
        scale, zero = other.calculate_qparams()
    theirs = Parameters(scale=scale.numpy(), zero=zero.numpy().astype(np.int32), low=-128, high=127)
    ours = watched("mse", np.split(values, 4)).parameters(8, symmetric=symmetric)
    assert squared(values, ours) <= 1.01 * squared(values, theirs)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("sharing", "shape"),
    [
        (Sharing(of="weights"), (1,)),
        (Sharing(kind="channel", of="weights"), (200,)),
        (Sharing(kind="group", of="weights", size=75), (200, 2)),
        (Sharing(kind="block", of="weights"), (2, 2)),
    ],
)
def test_scales_of_a_weight_are_those_of_its_parts(rule: Any, sharing: Sharing, shape: tuple[int, ...]) -> None:
    weight = heavy(200, 150)
    found = observe_weight(weight, rule, sharing, 4, symmetric=False)
    assert found.scale.shape == found.zero.shape == shape
    parts = {
        "tensor": weight,
        "channel": weight[199],
        "group": weight[199, 75:],
        "block": weight[128:, 128:],
    }
    alone = watched(rule, [parts[sharing.kind].reshape(-1, 1)]).parameters(4, symmetric=False)
    assert found.scale.reshape(-1)[-1] == alone.scale[0]
    assert found.zero.reshape(-1)[-1] == alone.zero[0]


@given(st.floats(-1e6, 0), st.floats(0, 1e6), st.sampled_from([2, 4, 8]))
def test_zero_is_a_level(low: float, high: float, bits: int) -> None:
    scale, zero = scale_and_zero(np.array([low]), np.array([high]), bits, symmetric=False)
    assert -(2 ** (bits - 1)) <= zero[0] <= 2 ** (bits - 1) - 1
    assert scale[0] > 0


def float_error(values: np.ndarray, peak: float) -> float:
    scale = np.float32(peak / 448)
    return float(np.square(decode_minifloat(encode_minifloat(values / scale, "e4m3"), "e4m3") * scale - values).sum())


@given(st.integers(0, 10**6), st.sampled_from([1e-3, 1.0, 300.0]))
@settings(max_examples=15)
def test_the_search_on_floats_is_never_worse_than_minmax(seed: int, size: float) -> None:
    values = heavy(300, 6, seed) * np.float32(size)
    peaks = {rule: watched(rule, [values]).peak("e4m3") for rule in ("minmax", "mse")}
    assert float_error(values, peaks["mse"]) <= 1.03 * float_error(values, peaks["minmax"])


def test_the_search_on_floats_finds_what_integers_need() -> None:
    """Where values are so small beside the largest that they become subnormal, clipping pays; elsewhere it does not."""
    even = np.linspace(-1, 1, 4096, dtype=np.float32)
    assert watched("mse", [even[:, None]]).peak("e4m3") == pytest.approx(1, rel=0.15)
    small = np.full((40000, 1), 3e-5, dtype=np.float32) * np.linspace(0.2, 1, 40000, dtype=np.float32)[:, None]
    loud = np.concatenate([small, [[0.1]]]).astype(np.float32)
    assert watched("percentile", [loud], percentile=99.9).peak("e4m3") < 2e-4
    assert watched("minmax", [loud]).peak("e4m3") == np.float32(0.1)


def test_entropy_of_floats_is_the_plain_rule() -> None:
    counts = np.random.default_rng(0).poisson(20 * np.exp(-np.abs(np.arange(-40, 40)) / 12))
    start, width, peak = -40.0, 1.0, 25.0
    centers = start + width * (np.arange(80) + 0.5)
    codes = np.asarray([int(np.abs(LEVELS * peak / 448 - center).argmin()) for center in centers])
    inside = np.abs(centers) * 448 / peak <= 464
    assert inside.sum() < 80
    codes[~inside] = -1
    assert float_divergence(counts, start, width, peak) == level_divergence(counts, codes, len(LEVELS))


def test_a_peak_is_what_parameters_reach_to() -> None:
    values = heavy(500, 6, 5)
    for rule in RULES:
        observer = watched(rule, [values])
        assert observer.peak("int8") == pytest.approx(float(observer.parameters(8).scale[0]) * 127.5, rel=1e-6)
    assert watched("mse", [np.zeros((4, 2), np.float32)]).peak("e4m3") == 0


def test_constants_and_nothing_are_answered() -> None:
    for rule in RULES:
        zeros = watched(rule, [np.zeros((4, 4), dtype=np.float32)]).parameters(8)
        assert (zeros.scale[0], zeros.zero[0]) == (1.0, 0)
        ones = watched(rule, [np.full((4, 4), 0.25, dtype=np.float32)]).parameters(8, symmetric=False)
        assert squared(np.full(4, 0.25, dtype=np.float32), ones) < 1e-6
    with pytest.raises(UsageError, match="nothing was observed"):
        Observer("mse", WHOLE).parameters(8)
    with pytest.raises(InputError, match="not finite"):
        Observer("mse", WHOLE).add(np.array([[np.nan]], dtype=np.float32))
    with pytest.raises(UsageError, match="percentile"):
        Observer("percentile", WHOLE, percentile=30)
    with pytest.raises(UsageError, match="do not divide"):
        Observer("mse", Sharing(kind="group", size=3)).add(np.zeros((1, 4), dtype=np.float32))
    with pytest.raises(UsageError, match="no blocks"):
        Observer("mse", Sharing(kind="block")).add(np.zeros((1, 4), dtype=np.float32))
