"""`adapter_config.json` of a LoRA adapter: scale and rank of every module, and a refusal of what cannot be merged.

`r` and `lora_alpha` hold for all modules but those that a key of `rank_pattern` or `alpha_pattern` matches, as a
regular expression against the end of the module's name; the first match counts.

Not here: the adapter's tensors (lora.py).
Source: peft 0.21, tuners/lora/config.py (LoraConfig), utils/other.py (get_pattern_key).
"""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

from bitwright.core.errors import InputError, UnsupportedError
from bitwright.facts.checkpoint import read_json_object

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
CHANGED_BASE = (
    "pissa",
    "olora",
    "corda",
    "loftq",
    "lora_ga",
)  # these rewrite the base's weights before training begins
UNMERGEABLE = {  # key → what it means
    "lora_bias": "biases inside the adapter",
    "layer_replication": "layers that are used twice",
    "target_parameters": "adapters on parameters that belong to no linear layer",
    "trainable_token_indices": "single trained tokens",
    "alora_invocation_tokens": "an adapter that is switched on by tokens",
    "use_qalora": "pooled inputs",
    "use_bdlora": "block-diagonal factors",
    "arrow_config": "a router between adapters",
    "monteclora_config": "sampled factors",
    "velora_config": "compressed activations",
    "kasa_config": "singular values cut from the base",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig:
    """What merging needs to know."""

    default_rank: int
    default_alpha: float
    ranks: dict[str, int]
    alphas: dict[str, float]
    rank_stabilized: bool
    dora: bool

    def rank(self, module: str) -> int:
        """Rank of the module's factors."""
        return self.ranks.get(_pattern(self.ranks, module), self.default_rank)

    def scale(self, module: str) -> float:
        """What the product of the factors is multiplied by."""
        alpha = self.alphas.get(_pattern(self.alphas, module), self.default_alpha)
        rank = self.rank(module)
        return alpha / (math.sqrt(rank) if self.rank_stabilized else rank)


def read_lora_config(folder: Path) -> LoraConfig:
    """Read and check. Raises `InputError` for what is no adapter, `UnsupportedError` for one that cannot be merged."""
    if not (folder / CONFIG).is_file():
        raise InputError(f"`{folder}` has no {CONFIG}", hint="give the folder of a PEFT adapter to --lora")
    if not (folder / WEIGHTS).is_file():
        pickled = (folder / PICKLE).exists()
        raise InputError(
            f"`{folder}` holds its weights as pickle ({PICKLE}), which can run code and is never loaded"
            if pickled
            else f"`{folder}` has no {WEIGHTS}",
            hint="save the adapter with a recent PEFT, which writes safetensors",
        )
    config = read_json_object(folder / CONFIG)
    where = folder / CONFIG
    if config.get("peft_type") != "LORA":
        raise UnsupportedError(
            f"`{where}` describes an adapter of type {config.get('peft_type')!r}, expected 'LORA'",
            hint="merge it with PEFT (merge_and_unload) and give the merged folder as MODEL",
        )
    _refuse(config, where)
    return LoraConfig(
        default_rank=int(_number(config.get("r"), "r", where)),
        default_alpha=_number(config.get("lora_alpha"), "lora_alpha", where),
        ranks={key: int(value) for key, value in _patterns(config, "rank_pattern", where).items()},
        alphas=_patterns(config, "alpha_pattern", where),
        rank_stabilized=bool(config.get("use_rslora", False)),
        dora=bool(config.get("use_dora", False)),
    )


def _refuse(config: dict[str, Any], where: Path) -> None:
    for key, meaning in UNMERGEABLE.items():
        if config.get(key):
            raise UnsupportedError(
                f"`{where}` sets {key}: {meaning} cannot be merged here",
                hint="merge it with PEFT (merge_and_unload) and give the merged folder as MODEL",
            )
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower().startswith(CHANGED_BASE):
        raise UnsupportedError(
            f"`{where}` was begun with {start!r}, which changes the base model's weights",
            hint="save it with PEFT's path_initial_model_for_weight_conversion, which turns it into a plain adapter",
        )


def _pattern(patterns: dict[str, Any], module: str) -> str:
    return next((key for key in patterns if re.match(rf"(.*\.)?({key})$", module)), module)


def _patterns(config: dict[str, Any], key: str, where: Path) -> dict[str, float]:
    given = config.get(key) or {}
    if not isinstance(given, dict):
        raise InputError(f"`{where}`: {key} is {given!r}, expected an object")
    for pattern in given:
        try:
            re.compile(pattern)
        except re.error as error:
            raise InputError(f"`{where}`: {key} has `{pattern}`, which is no regular expression: {error}") from error
    return {pattern: _number(value, f"{key} of `{pattern}`", where) for pattern, value in given.items()}


def _number(value: object, key: str, where: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0 or math.isinf(value):
        raise InputError(f"`{where}`: {key} is {value!r}, expected a positive number")
    return float(value)
