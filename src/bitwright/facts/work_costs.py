"""What work costs: nanoseconds a weight, products a second. Rows and figures that predictions of time rest on.

    products    float32 products on one core, forward passes and Gram matrices: two runs over `wide`, GPTQ with scaled
                columns, took 162 and 270 s of processor time for 12 and 24 * 10^12 operations
    feedback    GPTQ and coordinate descent on one matrix: a term for the loop, one that grows with the inputs of a row
    sampling    self-written text: a step of 32 windows of the demo model took 0.15 to 0.20 s

Not here: how many weights, passes and products there are (planner/duration.py).
Sources: docs/log.md, 2026-11-21; bench/results/llama_quantize_wide_q4_k_m.json and llm_compressor_wide.json.
"""

from __future__ import annotations

import functools

from bitwright.core.documents import Record
from bitwright.core.schemes import WeightScheme
from bitwright.facts.rows import read_rows

PRODUCTS_PER_SECOND = 95e9  # floating point operations, one core
REDUCED_GAIN = 1.5  # of effort fast, where the processor multiplies bfloat16
SAMPLED_PER_SECOND = 25e9
FEEDBACK_NS, FEEDBACK_NS_PER_INPUT = 50.0, 0.1
SCALING_NS = 100.0  # a weight: five pairs of exponents tried
COST_TYPES = 6  # types that a byte budget measures a matrix under
CAST_NS, CHECK_NS = 4.0, 5.0  # a weight: to another float, and to find what is not finite
CONVERT_NS = 130.0  # a weight read, written, decoded twice and compared
TRAINED_TOKENS = 60 * 1024  # of every block under zeroquant (modeling/distillation.py), each forth and twice back
START_SECONDS = 8.0  # importing torch, compiled loops from their cache
SPEED_SECONDS, SPEED_BYTES_PER_SECOND, SPEED_TOKENS = 15.0, 5e9, 400


class SearchCost(Record, frozen=True, kw_only=True):
    """A row of work_costs.toml."""

    labels: tuple[str, ...]
    search: float
    source: str


@functools.cache
def _rows() -> tuple[SearchCost, ...]:
    return read_rows("work_costs.toml", "search", SearchCost)


@functools.cache
def search_ns(scheme: WeightScheme) -> float:
    """Nanoseconds of one core for a weight's scale and nearest code."""
    label = scheme.label
    return next(row.search for row in _rows() if not row.labels or {label, label.split()[0]} & {*row.labels})
