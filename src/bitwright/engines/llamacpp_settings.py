"""What llamacpp.py tells its worker, and how the worker says that llama.cpp refused."""

from __future__ import annotations

from bitwright.core.documents import Record

API_KEY_VARIABLE = "BITWRIGHT_API_KEY"  # not among the settings: they are an argument, and `ps` shows arguments
CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")  # common/arg.cpp, kv_cache_types
LOAD_FAILED = 65  # exit code; EX_DATAERR of sysexits.h


class WorkerSettings(Record, frozen=True, kw_only=True):
    """Settings of one llama.cpp server. `context` is in tokens, shared by `parallel` requests."""

    model: str
    alias: str  # the model's name for clients
    host: str
    port: int
    context: int
    threads: int | None
    gpu_layers: int
    parallel: int
    verbose: bool
    kv_cache: str = "f16"  # type of keys and values, one of CACHE_TYPES
