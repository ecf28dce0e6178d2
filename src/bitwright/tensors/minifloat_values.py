"""Floats of 8 and 4 bits: their codes, their values, and the values of whole tensors.

    name     bits s·e·m   bias   largest   smallest normal   specials
    E4M3FN   1·4·3        7      448       2^-6              S.1111.111 is NaN, no infinity
    E5M2     1·5·2        15     57344     2^-14             as in IEEE: infinities and NaN
    E2M1     1·2·1        1      6         1                 none; four bits, kept in the low nibble
    E8M0     0·8·0        127    2^127     2^-127            255 is NaN; scales only, no sign, no zero

Encoding rounds to the nearest value, ties to the even code, and saturates: what is larger than the largest value
becomes it. `nearest_by_search` says the same thing plainly, from the table of values; tests hold the two together.

Fields of a minifloat `QTensor` (O rows, I inputs); 1-D fields belong to the whole matrix:
    tensor    scale [1] float32                        w = scale * value(code)
    channel   scale [O, 1]                             the same
    block     scale [ceil(O/128), ceil(I/128)]         the same
    nv        scale_codes [O, I/16] E4M3, global_scale [1] float32
                                                       w = (value(scale_code) / global_scale) * value(code)
                                                       or, with a multiplier, value(scale_code) * global_scale
    mx        exponents [O, I/32] E8M0                 w = 2^(exponent - 127) * value(code)

Not here: choosing scales (quantize/minifloat.py), nibble order (formats/).
Sources: OCP 8-bit Floating Point Specification 1.0; OCP Microscaling Formats 1.0; compressed-tensors 0.20,
quantization/lifecycle/forward_helpers.py (order of operations).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitwright.core.schemes import FP8_BLOCK, MinifloatScheme
from bitwright.tensors.arrays import Array, Float32, spread

E8M0_BIAS = 127
E8M0_LARGEST = 254  # 255 is NaN


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Minifloat:
    """One element type. Codes are sign, exponent and mantissa from the highest bit down."""

    mantissa: int
    bias: int
    sign: int  # the code's sign bit
    largest_code: int
    largest: float

    @property
    def least_exponent(self) -> int:
        """Exponent of the smallest normal value."""
        return 1 - self.bias


MINIFLOATS = {
    "e4m3": Minifloat(mantissa=3, bias=7, sign=0x80, largest_code=0x7E, largest=448.0),
    "e5m2": Minifloat(mantissa=2, bias=15, sign=0x80, largest_code=0x7B, largest=57344.0),
    "e2m1": Minifloat(mantissa=1, bias=1, sign=0x8, largest_code=0x7, largest=6.0),
}


def values_table(element: str) -> Float32:
    """Value of every code, NaN for codes without one."""
    kind = MINIFLOATS[element]
    codes = np.arange(2 * kind.sign)
    magnitude = codes & (kind.sign - 1)
    exponent, fraction = magnitude >> kind.mantissa, magnitude & ((1 << kind.mantissa) - 1)
    normal = np.ldexp(1.0 + fraction / (1 << kind.mantissa), exponent - kind.bias)
    subnormal = np.ldexp(fraction / (1 << kind.mantissa), kind.least_exponent)
    values = np.where(exponent > 0, normal, subnormal)
    values = np.where(magnitude > kind.largest_code, np.nan, values)
    table: Float32 = np.where(codes & kind.sign, -values, values).astype(np.float32)
    return table


TABLES = {element: values_table(element) for element in MINIFLOATS}


def decode_minifloat(codes: Array, element: str) -> Float32:
    """float32 value of every code."""
    values: Float32 = TABLES[element][codes.astype(np.uint8)]
    return values


def encode_minifloat(values: NDArray[np.float32], element: str) -> NDArray[np.uint8]:
    """Nearest codes of finite or infinite float32 values: ties to even, saturating, the sign of zero kept."""
    kind = MINIFLOATS[element]
    values = np.ascontiguousarray(values, dtype=np.float32)
    assert not np.isnan(values).any(), "NaN has no saturated code"
    magnitude = np.minimum(np.abs(values), np.float32(kind.largest))
    bits = magnitude.view(np.uint32)
    shift = np.uint32(23 - kind.mantissa)
    # ties to even: half of what is cut off, less one, plus the last bit kept
    rounded = (bits + np.uint32((1 << (int(shift) - 1)) - 1) + ((bits >> shift) & np.uint32(1))) >> shift
    normal = rounded.astype(np.int32) - ((127 - kind.bias) << kind.mantissa)
    least = np.float32(2.0**kind.least_exponent)
    step = np.float32(2.0 ** (kind.mantissa - kind.least_exponent))  # subnormals are whole multiples of 1 / step
    subnormal = np.rint(np.minimum(magnitude, least) * step).astype(np.int32)
    codes = np.where(magnitude < least, subnormal, normal).astype(np.uint8)
    signed: NDArray[np.uint8] = codes | np.where(np.signbit(values), np.uint8(kind.sign), np.uint8(0))
    return signed


def nearest_by_search(values: NDArray[Any], element: str) -> NDArray[np.uint8]:
    """The plain rule: of the table's values the nearest, of two equally near the even code. Slow; for comparison."""
    kind = MINIFLOATS[element]
    levels = TABLES[element][: kind.largest_code + 1].astype(np.float64)
    magnitude = np.minimum(np.abs(values.astype(np.float64)), kind.largest)
    distance = np.abs(magnitude[..., None] - levels)
    near = distance == distance.min(axis=-1, keepdims=True)
    even = near & (np.arange(len(levels)) % 2 == 0)
    codes = np.where(even.any(axis=-1), even.argmax(axis=-1), near.argmax(axis=-1)).astype(np.uint8)
    signed: NDArray[np.uint8] = codes | np.where(np.signbit(values), np.uint8(kind.sign), np.uint8(0))
    return signed


def decode_e8m0(codes: Array) -> Float32:
    """2^(code - 127) as float32; 0 gives 2^-127, which float32 holds as a subnormal."""
    values: Float32 = np.ldexp(np.float32(1), codes.astype(np.int32) - E8M0_BIAS).astype(np.float32)
    return values


def encode_e8m0(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The nearest power of two of positive float32 values: midpoints to the even code, saturating."""
    fraction, exponent = np.frexp(values.astype(np.float64))  # value = fraction * 2^exponent, fraction in [0.5, 1)
    codes = exponent.astype(np.int32) - 1 + E8M0_BIAS
    up = (fraction > 0.75) | ((fraction == 0.75) & (codes % 2 == 1))
    rounded: NDArray[np.uint8] = np.clip(codes + up, 0, E8M0_LARGEST).astype(np.uint8)
    return rounded


def minifloat_values(scheme: MinifloatScheme, codes_OI: Array, fields: Mapping[str, Array]) -> Float32:
    """float32 [O, I] as readers of the format compute them."""
    values_OI = decode_minifloat(codes_OI, scheme.element)
    return values_OI * spread_scales(scheme, values_OI.shape, fields)


def spread_scales(scheme: MinifloatScheme, shape: tuple[int, ...], fields: Mapping[str, Array]) -> Float32:
    """The factor of every weight, broadcastable to [O, I]."""
    rows, columns = shape
    like = np.broadcast_to(np.float32(0), (rows, columns))
    match scheme.scaling:
        case "nv":
            local_OG: Float32 = decode_minifloat(fields["scale_codes"], "e4m3")
            return spread(nv_steps(scheme, local_OG, fields["global_scale"]), like)
        case "mx":
            return spread(decode_e8m0(fields["exponents"]), like)
        case "block":
            scale = np.repeat(np.repeat(fields["scale"], FP8_BLOCK, axis=0), FP8_BLOCK, axis=1)
            blocks: Float32 = scale[:rows, :columns].astype(np.float32)
            return blocks
        case _:
            return fields["scale"].astype(np.float32)


def nv_steps(scheme: MinifloatScheme, local: Float32, factor: Array) -> Float32:
    """Steps of NVFP4 from its local scales, with the one operation that the readers of the format do."""
    operation = np.divide if scheme.factor == "divisor" else np.multiply
    steps: Float32 = operation(local, factor.astype(np.float32), dtype=np.float32)
    return steps
