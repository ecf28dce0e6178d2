"""What each matrix of a finished artifact loses, in nats per token: the prediction of costs.py on errors as they are.

½ Σ_o r_o Σ_i s_i E_oi² with r and s as in sensitivity.py. Errors of different columns are taken as unrelated, so that
feedback, which makes them cancel, is not seen: what GPTQ wrote loses less than is said here. Right for ranking.

Not here: the weights of rows and columns (sensitivity.py), which advice
follows (api/advice.py), what that saves in fact (evaluation/gains.py).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bitwright.core.plan import ModelFacts
from bitwright.facts.blocks import block_groups
from bitwright.facts.families import BLOCK
from bitwright.pipeline.sensitivity import Sensitivities

TINY = 1e-30
Errors = Callable[[str], NDArray[np.float32] | None]


def predicted_losses(facts: ModelFacts, sensitivities: Sensitivities, errors: Errors) -> dict[str, float]:
    """Name → nats per token, for every linear in the blocks that `errors` gives an error [O, I] for."""
    found: dict[str, float] = {}
    for layer in range(facts.layers):
        weights = sensitivities.block(layer)
        for group in block_groups(facts, layer):
            if not group.linears or group.name not in weights.squares:
                continue
            level = float(np.mean([weights.rows[module].mean() for module in group.linears])) + TINY
            squares_I = weights.squares[group.name].astype(np.float64)
            for module in group.linears:
                name = f"{BLOCK.format(layer=layer)}{module}.weight"
                error_OI = errors(name)
                if error_OI is not None:
                    rows_O = weights.rows[module].astype(np.float64) / level
                    found[name] = 0.5 * float(rows_O @ (np.square(error_OI, dtype=np.float64) @ squares_I))
    return found
