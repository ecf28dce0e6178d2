"""The process that llama.cpp lives in: `python -m bitwright.engines.llamacpp_worker SETTINGS`.

SETTINGS is `WorkerSettings` as JSON; the API key comes by environment variable. SIGTERM keeps its default
disposition on purpose: the kernel ends the process at once, also while C code holds the interpreter lock.

Sources: xllamacpp `CommonParams` mirrors `common_params` of llama.cpp common/common.h; cors_origins: llama.cpp
pull request 25655.
"""

from __future__ import annotations

import os
import signal
import sys

import msgspec
import xllamacpp

from bitwright.engines.llamacpp_settings import API_KEY_VARIABLE, LOAD_FAILED, WorkerSettings

SIXTEEN_BITS_AND_MORE = ("f32", "f16", "bf16")  # other types of values need flash attention
LOG_WARNINGS, LOG_INFORMATION = 2, 3  # llama.cpp common/log.h


def parameters(settings: WorkerSettings, api_key: str | None) -> xllamacpp.CommonParams:
    """The settings in llama.cpp's own structure."""
    params = xllamacpp.CommonParams()
    params.model.path = settings.model
    params.model_alias = {settings.alias}
    params.hostnames = [settings.host]
    params.port = settings.port
    params.api_keys = [] if api_key is None else [api_key]
    # Without a key, any page in the user's browser could otherwise use the model and read the answers.
    params.cors_origins = "localhost" if api_key is None else "*"
    params.n_ctx = settings.context
    params.n_parallel = settings.parallel
    params.kv_unified = True
    params.cache_type_k = params.cache_type_v = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{settings.kv_cache.upper()}")
    if settings.kv_cache not in SIXTEEN_BITS_AND_MORE:
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED
    params.n_gpu_layers = settings.gpu_layers
    if settings.threads is not None:
        params.cpuparams.n_threads = settings.threads
        params.cpuparams_batch.n_threads = settings.threads
    params.use_jinja = True
    params.ui = False
    params.endpoint_slots = False  # shows other users' requests
    params.endpoint_metrics = True
    params.verbosity = LOG_INFORMATION if settings.verbose else LOG_WARNINGS
    return params


def main(settings: WorkerSettings) -> int:
    """Serve until a signal ends the process; `LOAD_FAILED` if llama.cpp refuses the model."""
    try:
        server = xllamacpp.Server(parameters(settings, os.environ.get(API_KEY_VARIABLE)))
    except RuntimeError as error:
        sys.stderr.write(f"{error}\n")
        return LOAD_FAILED
    while server is not None:
        signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main(msgspec.json.decode(sys.argv[1], type=WorkerSettings)))
