"""Bytes of weights on the fullest device, as the engine holds them and not as the file does.

    llama.cpp, processor   the file is mapped and all of it touched; matrices of types that have a layout for the
                           processor's vectors are copied into it (CPU_REPACK), while the file's pages stay
    llama.cpp, GPU         the embedding stays in main memory; a tied head is a copy of it on the GPU
    all others             floats are cast to 16 bits; what the kernels do not read is dropped as they repack; the
                           vocabulary is padded to 64 rows; a kernel that expands holds 16 bits
    vLLM, processor        embedding and head each pack a copy for oneDNN and keep the original
Tensor parallelism: linears are cut, norms, routers and the narrow matrices in front of a latent are copied, and keys
and values are cut by heads, of which each device has one at least. Pipeline parallelism: the first stage holds the
embedding, the last the head, and a remainder of blocks goes to stages before the last.

Sources: vLLM 0.32, model_executor/layers/{linear,vocab_parallel_embedding}.py, distributed/utils.py (get_pp_indices),
layers/quantization/utils/marlin_utils.py; llama.cpp build 11434, src/llama-model.cpp, ggml/src/ggml-cpu/repack.cpp.
"""

from __future__ import annotations

import math

from bitwright.core.plan import DeviceFacts, ModelFacts, TensorPlan
from bitwright.core.schemes import FloatScheme, GgmlScheme, IntScheme
from bitwright.facts.families import EMBEDDING, HEAD, layer_of
from bitwright.facts.packed_tensors import parts_of
from bitwright.planner.cache_bytes import ceil_div, pad
from bitwright.planner.deployment import Deployment
from bitwright.planner.engine_names import LLAMA_CPP, OLLAMA

VOCABULARY_ROWS = 64  # DEFAULT_VOCAB_PADDING_SIZE
DROPPED = (".weight_shape", ".weight_g_idx", ".g_idx")
DROPPED_SYMMETRIC = (".qzeros", ".weight_zero_point")
COPIED = ("q_a_proj.weight", "kv_a_proj_with_mqa.weight", "mlp.gate.weight", "block_sparse_moe.gate.weight")
KEY_VALUE = ("k_proj.weight", "v_proj.weight")
REPACKED = {
    "avx2": ("q4_0", "q4_k", "iq4_nl", "mxfp4"),
    "avx512": ("q4_0", "q4_k", "q2_k", "iq4_nl", "mxfp4"),
    "neon": ("q4_0", "q4_k", "q5_k", "q6_k", "q8_0", "iq4_nl", "mxfp4"),
}
REPACKED["amx"] = REPACKED["avx512"]
ROWS_TOGETHER = 8  # whose blocks the layouts interleave


def device_weights(deployment: Deployment) -> int:
    """Of the stage that holds most."""
    facts, stages = deployment.facts, deployment.pipeline_parallel
    ends = stage_ends(facts.layers, stages)
    held = [0] * stages
    known: dict[tuple[object, ...], int] = {}  # blocks repeat: a plan looks at many layouts of some hundred tensors
    for entry in deployment.tensors:
        before, _, after = entry.name.partition(".layers.")
        kind = (before, after.partition(".")[2], entry.shape, entry.scheme)
        if kind not in known:
            known[kind] = _on_device(deployment, entry)
        size = known[kind]
        if stages == 1:
            held[0] += size
            continue
        for stage in _stages(entry.name, ends, tied=facts.tied):
            held[stage] += size
    return max(held)


def stage_ends(layers: int, stages: int) -> list[int]:
    """For each stage the number of the block behind its last one."""
    counts = [layers // stages] * stages
    for back in range(layers % stages):
        counts[-2 - back] += 1
    return [sum(counts[: stage + 1]) for stage in range(stages)]


def _stages(name: str, ends: list[int], *, tied: bool) -> list[int]:
    layer, last = layer_of(name), len(ends) - 1
    if layer is not None:
        return [next((stage for stage, end in enumerate(ends) if layer < end), last)]
    if name == EMBEDDING:
        return sorted({0, last}) if tied else [0]
    return [last] if name == HEAD or name.startswith("model.norm") else [0]


def _on_device(deployment: Deployment, entry: TensorPlan) -> int:
    if deployment.engine in (LLAMA_CPP, OLLAMA):
        return _in_llamacpp(deployment, entry)
    size = held_bytes(deployment, entry)
    return math.ceil(size * share(deployment.facts, entry, deployment.tensor_parallel))


def held_bytes(deployment: Deployment, entry: TensorPlan) -> int:
    """Of a whole matrix, once the engine has loaded it."""
    shape = entry.shape
    if entry.name in (EMBEDDING, HEAD):
        shape = (pad(shape[0], VOCABULARY_ROWS), *shape[1:])
    if entry.name in (EMBEDDING, HEAD) and deployment.target.device.kind == "cpu":
        return 2 * math.prod(shape) * (3 if deployment.facts.tied else 2)
    kernel = deployment.kernel
    if isinstance(entry.scheme, FloatScheme) or (kernel is not None and kernel.how == "expands"):
        return 2 * math.prod(shape)
    dropped: tuple[str, ...] = DROPPED
    if isinstance(entry.scheme, IntScheme) and entry.scheme.symmetric:
        dropped += DROPPED_SYMMETRIC
    return sum(part.bytes for part in parts_of(deployment.format)(entry) if not part.name.endswith(dropped))


def share(facts: ModelFacts, entry: TensorPlan, devices: int) -> float:
    """The part of a tensor that each of `devices` holds under tensor parallelism."""
    if devices == 1 or len(entry.shape) < 2 or entry.name.endswith(COPIED):
        return 1.0
    kept = ceil_div(facts.kv_heads, devices)
    if entry.name.endswith(KEY_VALUE):
        return kept / facts.kv_heads
    if entry.name.endswith("qkv_proj.weight"):
        return (facts.heads / devices + 2 * kept) / (facts.heads + 2 * facts.kv_heads)
    beside = layer_of(entry.name) is None and entry.name not in (EMBEDDING, HEAD)  # vision tower, projector
    return 1.0 if beside else 1 / devices


def _in_llamacpp(deployment: Deployment, entry: TensorPlan) -> int:
    device = deployment.target.device
    if device.kind == "cpu":
        return entry.bytes + repacked_bytes(entry, device)
    if entry.name == EMBEDDING and not deployment.facts.tied:
        return 0
    return entry.bytes if len(entry.shape) < 2 else ceil_div(entry.bytes, deployment.tensor_parallel)


def repacked_bytes(entry: TensorPlan, device: DeviceFacts) -> int:
    """Of llama.cpp's second copy of a matrix; a table of embeddings is looked up and not multiplied."""
    types = REPACKED.get(device.architecture or "avx2", ())
    if not isinstance(entry.scheme, GgmlScheme) or entry.scheme.type.lower() not in types:
        return 0
    fits = len(entry.shape) > 1 and entry.shape[-2] % ROWS_TOGETHER == 0 and entry.name != EMBEDDING
    return entry.bytes if fits else 0
