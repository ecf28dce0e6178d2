"""The compiled scale search for floats of few bits: which of a tile's candidate scales leaves the least weighted error.

Rounding follows from the bits of float32: the exponent of |w| / scale, but at least the smallest normal one, gives the
distance between neighbouring levels there, and the value becomes a whole multiple of it (ties to even by `rint`).

Dimension key: O outputs · I inputs · R tiles of rows · C tiles of columns · K candidates
"""

from __future__ import annotations

import numpy as np

from bitwright.quantize.compiled import loop


@loop(fastmath=True)
def best_candidate(
    weight_OI, importance_I, scale_RCK, tile_rows, tile_columns, mantissa, least_exponent, largest, best_RC
):
    rows, columns = weight_OI.shape
    tiles_down, tiles_across, candidates = scale_RCK.shape
    width = min(tile_columns, columns)
    scaled = np.empty(width, dtype=np.float32)
    bits = scaled.view(np.int32)
    gap = np.empty(width, dtype=np.float32)
    gap_bits = gap.view(np.int32)
    floor = np.int32(127 + least_exponent)
    for r in range(tiles_down):
        top, bottom = r * tile_rows, min((r + 1) * tile_rows, rows)
        for c in range(tiles_across):
            left = c * tile_columns
            count = min(tile_columns, columns - left)
            d = importance_I[left : left + count]
            least = np.float32(3e38)
            best_RC[r, c] = 0
            for k in range(candidates):
                scale = scale_RCK[r, c, k]
                if scale <= 0:
                    continue
                inverse = np.float32(1) / scale
                loss = np.float32(0)
                for o in range(top, bottom):
                    w = weight_OI[o, left : left + count]
                    for i in range(count):
                        scaled[i] = min(abs(w[i]) * inverse, largest)
                    for i in range(count):
                        gap_bits[i] = (max(bits[i] >> 23, floor) - mantissa) << 23
                    for i in range(count):
                        e = abs(w[i]) - np.rint(scaled[i] / gap[i]) * gap[i] * scale
                        loss += d[i] * e * e
                if loss < least:
                    least = loss
                    best_RC[r, c] = k
