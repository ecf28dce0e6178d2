"""Text sampled from the model itself, so that nothing need be downloaded.

A model with a chat template begins where a user would speak, and writes question and answer itself (the idea of Xu et
al. 2024, Magpie, arXiv:2406.08464); any other begins at its beginning-of-text token. Sampling is plain, without
truncation, from an explicit generator: the same seed gives the same windows. Liu et al. 2023 (LLM-QAT,
arXiv:2305.17888, §3.1) train on such text in place of the training data. An end-of-text token does not stop a window;
the next document begins behind it.

Text to calibrate on is sampled at temperature 1, for breadth. Text to judge on is sampled cooler, as models are used:
at temperature 1 a small model wanders into text that it finds improbable itself (perplexity 53 for the demo model,
where absolute perplexity limits mean nothing; docs/log.md, 2026-11-21).

The whole model is held in memory while sampling. Not here: text from files (corpora.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from bitwright.calibration.corpora import TokenWindows, check_counts, load_tokenizer, make_windows
from bitwright.core.errors import InputError
from bitwright.core.protocols import SILENT, Progress, WeightSource
from bitwright.facts.families import FAMILIES, ExpertNames, expert_of

BATCH = 32  # windows sampled side by side: reading the weights, which dominates, is shared among them


def self_name(seed: int, temperature: float = 1.0) -> str:
    """What such text is called in records."""
    return f"self (seed {seed}, temperature {temperature:g})"


@torch.no_grad()
def self_windows(
    folder: Path,
    samples: int,
    length: int,
    seed: int,
    *,
    temperature: float = 1.0,
    source: WeightSource | None = None,
    progress: Progress = SILENT,
) -> TokenWindows:
    """Sample `samples` windows of `length` tokens from the checkpoint in `folder`, or from the weights of `source`
    where these are other ones (a merged adapter, a GGUF file); the tokenizer comes from `folder`.

    Raises `InputError` when the model's output is not finite, `UsageError` on counts that are not positive.
    """
    from transformers import logging  # seconds to import

    check_counts(samples, length)
    opening = _opening(folder, length)
    logging.disable_progress_bar()
    model = _load(folder) if source is None else _build(source)
    generator = torch.Generator().manual_seed(seed)
    progress.start("sampling text from the model", samples * length, "tokens")
    parts = []
    for first in range(0, samples, BATCH):
        tokens = torch.empty((min(BATCH, samples - first), length), dtype=torch.int64)
        tokens[:, : len(opening)] = torch.tensor(opening)
        parts.append(_continue(model, tokens, len(opening), temperature, generator, folder, progress))
    progress.stop()
    return make_windows(self_name(seed, temperature), torch.cat(parts))


def _load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False).eval()


def _build(source: WeightSource) -> Any:
    """The whole model in float32 from any source."""
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {key: value for key, value in source.config.items() if key not in ("quantization_config", "auto_map")}
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    weights = {name: source.load(name).float() for name in source.names()}
    if (names := FAMILIES[source.facts.family].experts) is not None:
        weights = _merge_experts(weights, names)
    left = model.load_state_dict(weights, strict=False)
    tied = {"lm_head.weight"} if source.facts.tied else set()
    assert not left.unexpected_keys, left.unexpected_keys
    assert set(left.missing_keys) <= tied, left.missing_keys
    return model.eval()


def _merge_experts(weights: dict[str, torch.Tensor], names: ExpertNames) -> dict[str, torch.Tensor]:
    """All experts of a block in two arrays, as transformers holds them: gate above up, and down."""
    merged: dict[str, torch.Tensor] = {}
    experts: dict[str, dict[tuple[int, str], torch.Tensor]] = {}
    for name, value in weights.items():
        number = expert_of(name)
        place = name.replace(f".{names.block}.", ".mlp.")
        if number is None:
            merged[place] = value
        else:
            part = name.removesuffix(".weight").rpartition(".")[2]
            experts.setdefault(place.partition(".experts.")[0] + ".experts", {})[number, part] = value
    for place, parts in experts.items():
        count = range(len(parts) // 3)
        both = [torch.cat([parts[number, names.gate], parts[number, names.up]]) for number in count]
        merged[f"{place}.gate_up_proj"] = torch.stack(both)
        merged[f"{place}.down_proj"] = torch.stack([parts[number, names.down] for number in count])
    return merged


def _continue(
    model: Any,
    tokens: torch.Tensor,
    known: int,
    temperature: float,
    generator: torch.Generator,
    folder: Path,
    progress: Progress,
) -> torch.Tensor:
    """Fill `tokens` [B, T] from column `known` on, in place."""
    from transformers import StaticCache

    cache = StaticCache(config=model.config, max_cache_len=tokens.shape[1])
    new = tokens[:, :known]
    for position in range(known, tokens.shape[1]):
        logits = model(new, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1].float()
        if not bool(torch.isfinite(logits).all()):
            raise InputError(
                f"`{folder}`: the model's output is not finite at position {position}",
                hint="the checkpoint may be damaged",
            )
        tokens[:, position] = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)[:, 0]
        new = tokens[:, position : position + 1]
        progress.advance(len(tokens))
    progress.advance(known * len(tokens))
    return tokens


def _opening(folder: Path, length: int) -> list[int]:
    """Token ids that every window begins with: the chat template up to the user's words, or the first token."""
    tokenizer = load_tokenizer(folder)
    if tokenizer.chat_template:
        mark = "\ufffc"
        text = str(tokenizer.apply_chat_template([{"role": "user", "content": mark}], tokenize=False))
        ids: list[int] = tokenizer.encode(text.split(mark)[0], add_special_tokens=False)
        if 0 < len(ids) <= length // 4:
            return ids
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if start is None:
        raise InputError(
            f"`{folder}`: the tokenizer has neither a beginning- nor an end-of-text token",
            hint="give --calibration FILE and --text FILE",
        )
    return [int(start)]
