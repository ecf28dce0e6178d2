"""What micro-benchmarks found out about one machine. `calibrate` writes it, predictions of speed read it.

Not here: the benchmarks (engines/micro_benchmarks.py, api/calibration.py), where the document lies (facts/machine.py).
"""

from __future__ import annotations

from typing import Literal

from bitwright.core.documents import Document, Record
from bitwright.core.records import Provenance


class TypeCost(Record, frozen=True, kw_only=True):
    """Nanoseconds of the clock that a stored weight takes, with all threads at work.

    `decode` of one token alone, whose weights come from memory; `prefill` of each token of a long prompt.
    """

    type: str  # as GgmlScheme names it
    decode: float
    prefill: float


class ProductRate(Record, frozen=True, kw_only=True):
    """A matrix product of `outputs` x `inputs` weights with `tokens` columns, 10^12 operations per second."""

    type: str  # f32, bf16, fp8, int8
    tokens: int
    inputs: int
    outputs: int
    tera_per_second: float


class EngineRun(Record, frozen=True, kw_only=True):
    """Tokens per second of a random model of one type in the engine."""

    type: str
    hidden: int
    blocks: int
    heads: int
    kv_heads: int
    head_dim: int
    block_weights: int  # of the matrices of all blocks
    head_weights: int
    vocab: int
    prompt_tokens: int
    decode_tokens: int
    prompt_tokens_s: float
    decode_tokens_s: float


class MachineCalibration(Document, frozen=True, kw_only=True):
    """Of the processor or GPU `device`, under the name that DeviceFacts has for it."""

    schema: str = "bitwright.machine/3"
    device: str
    kind: Literal["cpu", "gpu"]
    cores: int | None = None  # that the process could use: another number is another machine
    threads: int
    copy_gb_s: float  # 10^9 bytes read and written per second by a copy that fits in no cache
    products: tuple[ProductRate, ...]
    engine: str = ""  # that the rest was measured in; empty where none ran
    runs: tuple[EngineRun, ...] = ()  # from which the rest follows (planner/machine_fit.py)
    types: tuple[TypeCost, ...] = ()
    vocab_ns: float = 0.0  # of a decoded token, times the vocabulary: what it takes to choose one
    block_ns: float = 0.0  # of a block in each step, beside matrices and attention
    token_ns: float = 0.0  # of a token in a block, times hidden
    attention_ns: float = 0.0  # decoding: a position, times heads and blocks
    prompt_attention_ns: float = 0.0  # for a token of a prompt; times head_dim too
    seconds: float
    provenance: Provenance
