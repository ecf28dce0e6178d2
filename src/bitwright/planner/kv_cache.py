"""`--kv-cache fp8`: stored scales for an 8-bit cache of keys and values, two numbers per decoder block.

    compressed-tensors, fp8   model.layers.N.self_attn.k_scale, v_scale
    modelopt                  model.layers.N.self_attn.k_proj.k_scale, v_proj.v_scale
F32 [1] each: the largest magnitude that calibration saw, over 448. An engine divides by it before it rounds to E4M3.

Not here: observing keys and values (modeling/cache_peaks.py).
Sources: vLLM 0.32, model_loader/weight_utils.py (maybe_remap_kv_scale_name), layers/quantization/kv_cache.py;
llm-compressor 0.14, modifiers/quantization (kv_cache_scheme); ModelOpt 0.47, torch/export.
"""

from __future__ import annotations

import msgspec

from bitwright.core.errors import UnsupportedError, UsageError, did_you_mean
from bitwright.core.plan import Plan, Reason, TensorPlan
from bitwright.core.schemes import FloatScheme
from bitwright.facts.cache_scales import CACHE_FORMATS, cache_scale_names
from bitwright.facts.families import BLOCK
from bitwright.facts.packed_tensors import parts_of
from bitwright.facts.stored_tensors import safetensors_bytes
from bitwright.planner.launch import kv_cache_words
from bitwright.planner.tensors import bits_per_weight

KINDS = ("fp8",)


def with_kv_cache(plan: Plan, wanted: str | None) -> Plan:
    """The plan with scales of the cache. Raises `UsageError`; `UnsupportedError` where no engine would read them."""
    if wanted is None:
        return plan
    if wanted not in KINDS:
        raise UsageError(f"unknown type of key-value cache `{wanted}`", hint=did_you_mean(wanted, list(KINDS)))
    if plan.format not in CACHE_FORMATS:
        raise UnsupportedError(
            f"{plan.format} files hold no scales of the key-value cache",
            hint=f"use --format {' or '.join(CACHE_FORMATS)}",
        )
    if plan.model.vision is not None:
        raise UnsupportedError(
            "scales of the key-value cache are not written for vision-language models", hint="leave --kv-cache away"
        )
    if not plan.calibration.source:
        raise UsageError(
            "scales of the key-value cache are observed on calibration text, and there is none",
            hint="use --calibration",
        )
    entries = list(plan.tensors)
    for layer in range(plan.model.layers):
        prefix = BLOCK.format(layer=layer)
        last = max(number for number, entry in enumerate(entries) if entry.name.startswith(prefix))
        entries[last + 1 : last + 1] = [_scale(name) for name in cache_scale_names(plan.format, layer)]
    tensors = tuple(entries)
    words = kv_cache_words(plan.engine, wanted, plan.device)
    halved = words[0] not in plan.launch  # else the ranking took such a cache already, and counted it so
    cache = plan.memory.kv_cache // (2 if halved else 1)
    memory = msgspec.structs.replace(
        plan.memory, kv_cache=cache, total=plan.memory.total - plan.memory.kv_cache + cache
    )
    reason = Reason(
        choice="8-bit key-value cache", because="half the bytes per token of context; scales are stored",
        source="the request",
    )  # fmt: skip
    warning = (
        "the cache is rounded where an engine is started with --kv-cache-dtype fp8; "
        "the verdict of `validate` leaves it in full precision"
    )
    launch = (*plan.launch, *words) if halved else plan.launch
    return msgspec.structs.replace(
        plan, kv_cache="fp8", tensors=tensors, memory=memory, launch=launch,
        file_bytes=safetensors_bytes(tensors, parts_of(plan.format)), bits_per_weight=bits_per_weight(tensors),
        reasons=(*plan.reasons, reason), warnings=(*plan.warnings, warning),
    )  # fmt: skip


def _scale(name: str) -> TensorPlan:
    return TensorPlan(
        name=name, stored_name=name, shape=(1,), scheme=FloatScheme(dtype="f32"), bytes=4,
        reason="scale of the key-value cache",
    )  # fmt: skip
