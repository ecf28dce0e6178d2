"""Bytes that quantizing takes at its peak: a part of the largest matrix in work, or one block with its statistics.

    matrix    float32 values, codes, scales and the search over them: 20 bytes a weight, for 34 million at a time
    block     float32 weights three times (as read, as rounded, while a group is solved), inputs of a batch of tokens,
              the Gram matrix of the widest input in float32 and its factor in float64
    always    the libraries, and the hidden states of all windows twice
Calibration text that the model writes itself takes the whole model in its own dtype.

Not here: bytes when serving (memory.py).
Source: peaks of runs over `wide`, 1.4 to 1.6 GiB at 2048 tokens, of which the head of 38 million weights makes 0.8.
"""

from __future__ import annotations

import math

from bitwright.core.plan import ModelFacts, Plan
from bitwright.core.units import MIB
from bitwright.facts.families import layer_of
from bitwright.planner.duration import SELF, needs_text
from bitwright.planner.engine_fit import is_quantized

LIBRARIES = 600 * MIB
MATRIX_BYTES, CAST_BYTES, BLOCK_BYTES = 20, 6, 12
GRAM_BYTES = 24  # float32 twice, float64 twice
PART_WEIGHTS = 1 << 25  # taken at a time (pipeline/rows.py)
BATCH_TOKENS = 4096
TRAINED_COPIES = 4
VALUE_BYTES = 4  # float32
CONTEXT_BYTES = 500 * MIB  # CUDA's own, with the libraries that torch loads
PAUSED_BYTES = 1 << 30  # at most (pipeline/blocks.py)
FACTOR_BYTES = 28  # of a Gram matrix: float32 three times while it is permuted, float64 twice
SOLVED_BYTES = 28  # of a weight: value, codes, errors, pull, and what a product of them takes
DEVICE_RESTS_ON = "one block, a batch, what is paused, a Gram matrix and its factor: counted, not measured"
RESTS_ON = "what is held at once: matrices, one block, Gram matrices, hidden states"


def working_memory(plan: Plan) -> tuple[int, str]:
    """Expected peak of `quantize`, and what the figure rests on."""
    facts, fitted = plan.model, needs_text(plan)
    tokens = plan.calibration.samples * plan.calibration.length if fitted else 0
    matrix = max(
        min(math.prod(entry.shape), PART_WEIGHTS) * (MATRIX_BYTES if is_quantized(entry) else CAST_BYTES)
        for entry in plan.tensors
    )
    block = _block_bytes(facts, min(tokens, BATCH_TOKENS)) if fitted else 0
    if fitted and plan.method == "gptq":
        block += GRAM_BYTES * max(entry.shape[-1] for entry in plan.tensors if len(entry.shape) > 1) ** 2
    if plan.method == "zeroquant":  # originals, student, gradient, two moments
        block *= TRAINED_COPIES
    whole = facts.bytes if fitted and plan.calibration.source == SELF else 0
    return LIBRARIES + max(matrix, block, whole) + 8 * tokens * facts.hidden, RESTS_ON


def device_memory(plan: Plan) -> tuple[int, str]:
    """Expected peak on each device that blocks run on, and what the figure rests on: the block, a batch, what stands
    paused in the block, and the larger of factoring and solving. Nobody has measured it."""
    facts = plan.model
    tokens = plan.calibration.samples * plan.calibration.length
    weights = VALUE_BYTES * _largest_block(facts)
    batch = VALUE_BYTES * min(tokens, BATCH_TOKENS) * (6 * facts.hidden + 3 * facts.intermediate)
    paused = min(PAUSED_BYTES, VALUE_BYTES * tokens * (2 * facts.hidden + facts.intermediate))
    widest = max(entry.shape[-1] for entry in plan.tensors if len(entry.shape) > 1)
    solving = 0
    if plan.method == "gptq":
        rows = max(min(math.prod(entry.shape), PART_WEIGHTS) for entry in plan.tensors)
        solving = max(FACTOR_BYTES * widest**2, 2 * VALUE_BYTES * widest**2 + SOLVED_BYTES * rows)
    return CONTEXT_BYTES + weights + batch + paused + solving, DEVICE_RESTS_ON


def passing_memory(facts: ModelFacts, tokens: int, *, sampled: bool) -> tuple[int, str]:
    """Expected peak of `imatrix`, which runs the model over `tokens` and solves nothing."""
    block = _block_bytes(facts, min(tokens, BATCH_TOKENS))
    return LIBRARIES + max(block, facts.bytes if sampled else 0) + 8 * tokens * facts.hidden, RESTS_ON


def converting_memory(plan: Plan) -> tuple[int, str]:
    """Expected peak of `convert`: one matrix as codes and twice decoded."""
    largest = max(math.prod(entry.shape) for entry in plan.tensors)
    return LIBRARIES + MATRIX_BYTES * largest, RESTS_ON


def _largest_block(facts: ModelFacts) -> int:
    """Weights of one block."""
    sizes: dict[int, int] = {}
    for tensor in facts.tensors:
        layer = layer_of(tensor.name)
        if layer is not None:
            sizes[layer] = sizes.get(layer, 0) + math.prod(tensor.shape)
    return max(sizes.values(), default=0)


def _block_bytes(facts: ModelFacts, batch: int) -> int:
    width = 6 * facts.hidden + 3 * facts.intermediate
    return BLOCK_BYTES * _largest_block(facts) + 4 * batch * width
