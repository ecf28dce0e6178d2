"""Values of bitsandbytes' weights, and the tables that they are looked up in.

Fields (n elements in row-major order, B = ceil(n / block) blocks that run across rows):
  NF4, FP4                  codes uint8 [O, I]; absmax [B] float32;    w = LEVELS[code] * absmax
  the same, double-quantized
                            absmax_codes [B] uint8, nested_absmax [ceil(B/256)] float32, offset [1] float32;
                            absmax = DYNAMIC[absmax_codes] * nested_absmax + offset
  LLM.int8                  codes int8 [O, I]; absmax [O, 1] float32;  w = code * absmax * (1/127)
All arithmetic is float32, in this order: it is that of bitsandbytes, so that equality can be tested bit for bit.

NF4's levels are quantiles of the normal distribution as the library lists them. FP4 has sign, two bits of exponent and
one of mantissa; its levels are those numbers over the largest. The 8-bit map spends its bits on the exponent first:
decade by decade from 1e-6 to 1, twice as many evenly spaced means in each next one.

Not here: choosing codes (quantize/codebook.py), bytes (formats/packed/bnb_writer.py).
Sources: Dettmers et al. 2023, arXiv:2305.14314 (NF4, double quantization); Dettmers 2016, arXiv:1511.04561 (the 8-bit
map); bitsandbytes 0.50, functional.py get_4bit_type and create_dynamic_map.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np

from bitwright.core.schemes import CodebookScheme
from bitwright.tensors.arrays import Array, Float32

NESTED_BLOCK = 256  # block maxima per nested scale
INT8_STEP = np.float32(1 / 127)
NF4 = np.array(
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
        -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
        0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ],
    dtype=np.float32,
)  # fmt: skip
_FP4_MAGNITUDES = np.array([0, 0.0625, 8, 12, 4, 6, 2, 3])
FP4 = (np.concatenate([_FP4_MAGNITUDES, 0 - _FP4_MAGNITUDES]) / 12).astype(np.float32)
LEVELS: dict[str, Float32] = {"nf4": NF4, "fp4": FP4}


@functools.cache
def dynamic_levels() -> Float32:
    """The 256 levels of the 8-bit map, ascending, from -0.993 to 1."""
    import torch  # a second, and nothing else of this room needs it

    values = [0.0, 1.0]
    for decade in range(7):
        # torch's linspace, because numpy's differs in last bits
        edges = torch.linspace(0.1, 1, 2**decade + 1, dtype=torch.float32)
        means = (10.0 ** (decade - 6) * ((edges[:-1] + edges[1:]) / 2)).tolist()
        values += [*means, *(-mean for mean in means)]
    return np.array(sorted(values), dtype=np.float32)


def codebook_values(scheme: CodebookScheme, codes_OI: Array, fields: Mapping[str, Array]) -> Float32:
    """float32 [O, I]."""
    absmax = block_maxima(fields)
    spread = np.repeat(absmax, scheme.block)[: codes_OI.size]
    values: Float32 = LEVELS[scheme.codebook][codes_OI.reshape(-1)]
    values *= spread
    return values.reshape(codes_OI.shape)


def block_maxima(fields: Mapping[str, Array]) -> Float32:
    """The scale of every block, [B] float32, with double quantization undone."""
    if "absmax" in fields:
        return fields["absmax"].astype(np.float32)
    codes = fields["absmax_codes"]
    nested = np.repeat(fields["nested_absmax"].astype(np.float32), NESTED_BLOCK)[: len(codes)]
    maxima: Float32 = dynamic_levels()[codes] * nested + fields["offset"].astype(np.float32)
    return maxima


def int8_row_values(codes_OI: Array, fields: Mapping[str, Array]) -> Float32:
    """float32 [O, I]."""
    values: Float32 = codes_OI.astype(np.float32) * fields["absmax"].astype(np.float32) * INT8_STEP
    return values
