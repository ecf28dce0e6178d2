"""Scales of 8-bit and 4-bit floats: candidates around the plain one, and the one that leaves the least weighted error.

The plain scale puts the largest magnitude of a tile on the largest level. A float keeps its relative precision over
many octaves, so for FP8 only the fraction of the scale matters, not its size: candidates span one octave upwards,
where nothing saturates. The few levels of E2M1 make it worth to saturate the largest weight, or to put it on 4 instead
of 6. Scales that are stored as floats of few bits have few neighbours, and all that matter are tried (docs/log.md).

Whole-matrix parts (the scale of `tensor`, the factor of `nv`) follow from the largest magnitude alone, which matrices
that an engine fuses share: `peak` is then taken over all of them.

Not here: values (tensors/minifloat_values.py), codes with error feedback (gptq.py on a grid of levels).
Dimension key: O outputs · I inputs · G groups along I · K candidates
Sources: compressed-tensors 0.20, quantization/utils/{helpers,mxfp_utils}.py (plain scales); OCP Microscaling 1.0 §6.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bitwright.core.schemes import FP8_BLOCK, MX_GROUP, NV_GROUP, MinifloatScheme
from bitwright.quantize import minifloat_kernels
from bitwright.quantize.grid import Grid
from bitwright.quantize.integer import round_scale
from bitwright.tensors.minifloat_values import (
    E8M0_BIAS,
    E8M0_LARGEST,
    MINIFLOATS,
    TABLES,
    decode_e8m0,
    decode_minifloat,
    encode_minifloat,
    nv_steps,
    spread_scales,
)
from bitwright.tensors.qtensor import Array, Float32

Search = Literal["weighted", "plain"]
OCTAVE = np.geomspace(1, 2, 12, endpoint=False).astype(np.float32)  # of the plain scale of FP8
NV_NEIGHBOURS = np.arange(-7, 8)  # codes of E4M3 around the plain one: 0.55 to 1.8 of it
MX_NEIGHBOURS = np.arange(-1, 2)  # powers of two around the one that leaves nothing to saturate
NO_SCALE = 2.0**-126  # where all weights are zero, any positive scale does


def shared_fields(peak: float, scheme: MinifloatScheme) -> dict[str, Array]:
    """Fields of the whole matrix. `peak` is the largest magnitude of all matrices that share them."""
    match scheme.scaling:
        case "tensor":
            plain = np.array([peak / MINIFLOATS[scheme.element].largest], dtype=np.float32)
            return {"scale": round_scale(np.maximum(plain, np.float32(NO_SCALE)), scheme.scale_dtype)}
        case "nv":
            largest = MINIFLOATS["e4m3"].largest * MINIFLOATS["e2m1"].largest
            ratio = (largest, peak) if scheme.factor == "divisor" else (peak, largest)
            factor = np.float32(ratio[0]) / np.float32(ratio[1]) if peak > 0 else np.float32(1)
            return {"global_scale": np.array([factor if np.isfinite(factor) else 1], dtype=np.float32)}
        case _:
            return {}


def minifloat_grid(
    weight_OI: Float32,
    weights_I: Float32,
    scheme: MinifloatScheme,
    shared: Mapping[str, Array],
    *,
    search: Search = "weighted",
) -> tuple[Grid, dict[str, Array]]:
    """Levels of some rows (whole tiles of them), and the fields that the format stores for these rows."""
    rows, columns = weight_OI.shape
    match scheme.scaling:
        case "tensor":
            fields: dict[str, Array] = {}
        case "nv":
            fields = {"scale_codes": _nv_scales(weight_OI, weights_I, scheme, shared["global_scale"], search)}
        case "mx":
            fields = {"exponents": _mx_scales(weight_OI, weights_I, scheme, search)}
        case _:
            tile = (FP8_BLOCK, FP8_BLOCK) if scheme.scaling == "block" else (1, columns)
            fields = {"scale": _float_scales(weight_OI, weights_I, scheme, tile, search)}
    step_OG, group = _steps(scheme, (rows, columns), {**shared, **fields})
    levels_K, stored_K = _levels(scheme.element)
    return Grid.of_levels(step_OG, levels_K, group_size=group, stored_K=stored_K), fields


def nearest_codes(weight_OI: Float32, scheme: MinifloatScheme, fields: Mapping[str, Array]) -> NDArray[np.uint8]:
    """The codes that readers' own quantizers choose under these scales: nearest, ties to even."""
    scale = np.broadcast_to(spread_scales(scheme, weight_OI.shape, fields), weight_OI.shape)
    scaled_OI = np.divide(weight_OI, scale, out=np.zeros_like(weight_OI), where=scale > 0)
    return encode_minifloat(scaled_OI, scheme.element)


def _levels(element: str) -> tuple[Float32, NDArray[np.uint8]]:
    """Distinct values in ascending order, and the code of each; zero is stored without a sign."""
    kind = MINIFLOATS[element]
    positive = np.arange(kind.largest_code + 1)
    codes = np.concatenate([positive[:0:-1] | kind.sign, positive]).astype(np.uint8)
    return TABLES[element][codes], codes


def _steps(scheme: MinifloatScheme, shape: tuple[int, int], fields: Mapping[str, Array]) -> tuple[Float32, int]:
    """The scale of every group of inputs of every row, and the inputs of a group."""
    columns = shape[1]
    factors = np.broadcast_to(spread_scales(scheme, shape, fields), shape)
    group = {"nv": NV_GROUP, "mx": MX_GROUP, "block": FP8_BLOCK}.get(scheme.scaling, columns)
    group = group if columns % group == 0 else 1  # the last block of a row may be narrower than the others
    return np.ascontiguousarray(factors[:, ::group], dtype=np.float32), group


def _peaks(weight_OI: Float32, tile: tuple[int, int]) -> Float32:
    """Largest magnitude of every tile; the last ones may be smaller than the others."""
    down, across = (np.arange(0, count, size) for count, size in zip(weight_OI.shape, tile, strict=True))
    peaks: Float32 = np.maximum.reduceat(np.maximum.reduceat(np.abs(weight_OI), down, axis=0), across, axis=1)
    return peaks


def _best(
    weight_OI: Float32, weights_I: Float32, scales: Float32, tile: tuple[int, int], element: str
) -> NDArray[np.int64]:
    """Index of the candidate scale with the least weighted error, for every tile."""
    kind = MINIFLOATS[element]
    best = np.zeros(scales.shape[:2], dtype=np.int64)
    minifloat_kernels.best_candidate(
        weight_OI, weights_I, scales, *tile, kind.mantissa, kind.least_exponent, np.float32(kind.largest), best
    )
    return best


def _take(candidates: Array, best: NDArray[np.int64]) -> Array:
    return np.take_along_axis(candidates, best[..., None], axis=-1)[..., 0]


def _float_scales(
    weight_OI: Float32, weights_I: Float32, scheme: MinifloatScheme, tile: tuple[int, int], search: Search
) -> Float32:
    plain = _peaks(weight_OI, tile) / np.float32(MINIFLOATS[scheme.element].largest)
    plain = np.maximum(plain, np.float32(NO_SCALE))
    if search == "plain":
        return round_scale(plain, scheme.scale_dtype)
    candidates = round_scale(plain[..., None] * OCTAVE, scheme.scale_dtype)
    return _take(candidates, _best(weight_OI, weights_I, candidates, tile, scheme.element)).astype(np.float32)


def _nv_scales(
    weight_OI: Float32, weights_I: Float32, scheme: MinifloatScheme, factor: Array, search: Search
) -> NDArray[np.uint8]:
    tile = (1, NV_GROUP)
    wanted = _peaks(weight_OI, tile) / np.float32(MINIFLOATS["e2m1"].largest)
    ratio: Float32 = factor.astype(np.float32)
    plain = encode_minifloat(ratio * wanted if scheme.factor == "divisor" else wanted / ratio, "e4m3")
    if search == "plain":
        # what compressed-tensors stores where the plain scale would round to zero
        return np.where(plain == 0, encode_minifloat(np.array(0.125, dtype=np.float32), "e4m3"), plain)
    highest = MINIFLOATS["e4m3"].largest_code
    candidates = np.clip(plain[..., None].astype(np.int64) + NV_NEIGHBOURS, 1, highest).astype(np.uint8)
    steps = nv_steps(scheme, decode_minifloat(candidates, "e4m3"), factor)
    return _take(candidates, _best(weight_OI, weights_I, steps, tile, "e2m1")).astype(np.uint8)


def _mx_scales(weight_OI: Float32, weights_I: Float32, scheme: MinifloatScheme, search: Search) -> NDArray[np.uint8]:
    tile, kind = (1, MX_GROUP), MINIFLOATS[scheme.element]
    peaks = _peaks(weight_OI, tile)
    if search == "plain":
        # compressed-tensors rounds the magnitude up to a power of two from 1.75 on, for either element
        fraction, exponent = np.frexp(peaks)
        exponent = exponent - 1 + (fraction >= 0.875) - int(np.floor(np.log2(kind.largest)))
        plain: NDArray[np.uint8] = np.clip(exponent + E8M0_BIAS, 0, E8M0_LARGEST).astype(np.uint8)
        return plain
    fraction, exponent = np.frexp(peaks / np.float32(kind.largest))  # peak <= largest * 2^exponent
    exponent = np.where(fraction == 0.5, exponent - 1, exponent)
    candidates = np.clip(exponent[..., None] + MX_NEIGHBOURS + E8M0_BIAS, 0, E8M0_LARGEST).astype(np.uint8)
    best = _best(weight_OI, weights_I, decode_e8m0(candidates), tile, scheme.element)
    return _take(candidates, best).astype(np.uint8)
