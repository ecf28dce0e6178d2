"""Bytes that quantizing takes at its peak. What is counted is what is held at once, by the way that a run goes.

    direct    a GGUF file without text: neither torch nor a forward pass; bytes of the units that wait to be written
    plain     float32 values of a part of a matrix, its codes, and the search over them; or that part being cast
    fitted    one block in float32, twice where a group of it is solved, with the activations of some windows; the Gram
              matrix of the widest input in float32, its factor in float64 and then in float32; batches that wait at a
              linear, up to `PAUSED_BYTES`
    weighed   with effort best, the head in float32 and the logits of some positions
    trained   copies of a block's matrices: codes, gradients, two moments; all windows several times
The libraries come on top. Calibration text that the model writes itself takes the whole model in float32. Factors are
the smallest round ones that stay above every measured peak; those of `trained` are counted and not measured.

Not here: bytes when serving (memory.py).
Source: docs/log.md, 2026-11-21, "peak memory foreseen and measured".
"""

from __future__ import annotations

import math

from bitwright.core.plan import ModelFacts, Plan, TensorPlan
from bitwright.core.schemes import FloatScheme, GgmlScheme
from bitwright.core.units import MIB
from bitwright.facts.families import EMBEDDING, layer_of
from bitwright.planner.duration import SELF, needs_text, weighs_tokens
from bitwright.planner.engine_fit import is_quantized

DIRECT_LIBRARIES, LIBRARIES, FITTING_LIBRARIES = 200 * MIB, 560 * MIB, 600 * MIB
UNITS_AHEAD = 4  # pipeline/direct.py
MATRIX_BYTES, CAST_BYTES = 16, 8  # of a weight
BLOCK_BYTES = 6  # of a weight: all of the block, and half of it again while a group is solved
GRAM_BYTES = 16  # of an entry: float32 twice, float64
PART_WEIGHTS = 1 << 25  # taken at a time (pipeline/rows.py)
BATCH_TOKENS, WIDEST = 4096, 1 << 25  # of one forward pass, and values of its widest activation (pipeline/blocks.py)
PAUSED_BYTES = 1 << 30  # pipeline/blocks.py
TRAINED_COPIES, TRAINED_STATES = 7, 7
WEIGHED_TOKENS, WEIGHED_VALUES = 2048, 4  # pipeline/preparation.py; activations and their gradients, to those of a pass
HEAD_ROWS, HEAD_BYTES, LOGITS = 512, 6, 6  # modeling/gradients.py
CONVERTED_BYTES = 20  # of a weight
VALUE_BYTES = 4  # float32
CONTEXT_BYTES = 500 * MIB  # CUDA's own, with the libraries that torch loads
FACTOR_BYTES = 28  # of a Gram matrix on a device: float32 three times while it is permuted, float64 twice
SOLVED_BYTES = 40  # of a weight on a device: value twice, codes of 64 bits twice, errors, pull, a product of them
DEVICE_RESTS_ON = "one block, a batch, what is paused, a Gram matrix and its factor: counted, not measured"
RESTS_ON = "what is held at once: matrices, one block, activations, Gram matrices"


def working_memory(plan: Plan) -> tuple[int, str]:
    """Expected peak of `quantize`, and what the figure rests on."""
    if _is_direct(plan):
        return DIRECT_LIBRARIES + _waiting(plan), RESTS_ON
    matrix = max(
        min(math.prod(entry.shape), PART_WEIGHTS) * (MATRIX_BYTES if is_quantized(entry) else CAST_BYTES)
        for entry in plan.tensors
    )
    if not needs_text(plan):
        return LIBRARIES + matrix, RESTS_ON
    facts, tokens = plan.model, plan.calibration.samples * plan.calibration.length
    sampled = 4 * facts.parameters if plan.calibration.source == SELF else 0
    return FITTING_LIBRARIES + max(matrix, _fitted(plan, tokens), _weighed(plan, tokens), sampled), RESTS_ON


def device_memory(plan: Plan) -> tuple[int, str]:
    """Expected peak on each device that blocks run on, and what the figure rests on: the block, a batch, what stands
    paused in the block, and the larger of factoring and solving. Nobody has measured it."""
    facts = plan.model
    tokens = plan.calibration.samples * plan.calibration.length
    weights = VALUE_BYTES * _largest_block(facts)
    batch = _activations(facts, min(tokens, BATCH_TOKENS))
    paused = min(PAUSED_BYTES, VALUE_BYTES * tokens * (2 * facts.hidden + facts.intermediate))
    widest = max(entry.shape[-1] for entry in plan.tensors if len(entry.shape) > 1)
    solving = 0
    if plan.method == "gptq":
        rows = max(min(math.prod(entry.shape), PART_WEIGHTS) for entry in plan.tensors)
        solving = max(FACTOR_BYTES * widest**2, 2 * VALUE_BYTES * widest**2 + SOLVED_BYTES * rows)
    return CONTEXT_BYTES + weights + batch + paused + solving, DEVICE_RESTS_ON


def passing_memory(facts: ModelFacts, tokens: int, *, sampled: bool) -> tuple[int, str]:
    """Expected peak of `imatrix`, which runs the model over `tokens` and solves nothing."""
    passed = (
        BLOCK_BYTES * _largest_block(facts) + _activations(facts, _at_once(facts, tokens)) + 4 * tokens * facts.hidden
    )
    return FITTING_LIBRARIES + max(passed, 4 * facts.parameters if sampled else 0), RESTS_ON


def converting_memory(plan: Plan) -> tuple[int, str]:
    """Expected peak of `convert`: one matrix as codes and twice decoded."""
    largest = max(math.prod(entry.shape) for entry in plan.tensors)
    return LIBRARIES + CONVERTED_BYTES * largest, RESTS_ON


def _is_direct(plan: Plan) -> bool:
    """Whether rows go straight from file to file (pipeline/direct.py)."""
    plain = not plan.model.adapter and plan.model.vision is None and not plan.model.path.endswith(".gguf")
    return plan.format == "gguf" and plain and not needs_text(plan) and not any(map(_is_half, plan.tensors))


def _is_half(entry: TensorPlan) -> bool:
    scheme = entry.scheme
    return scheme == FloatScheme(dtype="f16") or (isinstance(scheme, GgmlScheme) and scheme.type == "F16")


def _waiting(plan: Plan) -> int:
    """Bytes of the largest units in a row that wait to be written: embedding, blocks, head."""
    sizes = [0] * (plan.model.layers + 2)
    for entry in plan.tensors:
        layer = layer_of(entry.name)
        alone = entry.name == EMBEDDING and not plan.model.tied
        sizes[(0 if alone else -1) if layer is None else layer + 1] += entry.bytes
    return max(sum(sizes[start : start + UNITS_AHEAD]) for start in range(len(sizes)))


def _fitted(plan: Plan, tokens: int) -> int:
    """One block with its statistics."""
    facts = plan.model
    held = BLOCK_BYTES * _largest_block(facts)
    batch = _activations(facts, _at_once(facts, tokens))
    if plan.method == "gptq":
        held += GRAM_BYTES * max(entry.shape[-1] for entry in plan.tensors if layer_of(entry.name) is not None) ** 2
        paused = 4 * tokens * (2 * facts.hidden + facts.intermediate)
        if paused <= PAUSED_BYTES or facts.experts:  # with inputs and outputs of the block, beside the batch that runs
            batch += paused + 2 * 4 * tokens * facts.hidden
    if plan.method == "zeroquant":
        held = 4 * TRAINED_COPIES * _largest_block(facts)
        batch += 4 * TRAINED_STATES * tokens * facts.hidden
    if facts.experts:  # what entered the router, for experts that see few tokens
        batch += 4 * tokens * facts.hidden
    return held + batch


def _weighed(plan: Plan, tokens: int) -> int:
    """The backward pass, at the head and in a block."""
    if not weighs_tokens(plan):
        return 0
    facts, batch = plan.model, min(tokens, WEIGHED_TOKENS)
    head = HEAD_BYTES * facts.vocab * facts.hidden + 4 * LOGITS * min(tokens, HEAD_ROWS) * facts.vocab
    return max(head, BLOCK_BYTES * _largest_block(facts) + WEIGHED_VALUES * _activations(facts, batch))


def _at_once(facts: ModelFacts, tokens: int) -> int:
    return min(tokens, BATCH_TOKENS, WIDEST // max(facts.intermediate, facts.heads * facts.head_dim))


def _activations(facts: ModelFacts, tokens: int) -> int:
    return 4 * tokens * (6 * facts.hidden + 3 * facts.intermediate)


def _largest_block(facts: ModelFacts) -> int:
    """Of the largest block."""
    sizes: dict[int, int] = {}
    for tensor in facts.tensors:
        layer = layer_of(tensor.name)
        if layer is not None:
            sizes[layer] = sizes.get(layer, 0) + math.prod(tensor.shape)
    return max(sizes.values(), default=0)
