"""Text sampled from the model itself, so that nothing need be downloaded.

Plain sampling (temperature 1, no truncation) from the beginning-of-text token, with an explicit generator: the same
seed gives the same windows. What the model writes is what it is used for; Liu et al. 2023 (LLM-QAT, arXiv:2305.17888,
§3.1) train on such text in place of the training data. An end-of-text token does not stop a window; the next document
begins behind it.

The whole model is held in memory while sampling. Not here: text from files (corpora.py).
"""

from __future__ import annotations

from pathlib import Path

import torch

from bitwright.calibration.corpora import TokenWindows, check_counts, load_tokenizer, make_windows
from bitwright.core.errors import InputError
from bitwright.core.protocols import SILENT, Progress

BATCH = 32  # windows sampled side by side: reading the weights, which dominates, is shared among them


@torch.no_grad()
def self_windows(folder: Path, samples: int, length: int, seed: int, *, progress: Progress = SILENT) -> TokenWindows:
    """Sample `samples` windows of `length` tokens from the checkpoint in `folder`.

    Raises `InputError` when the model's output is not finite, `UsageError` on counts that are not positive.
    """
    from transformers import AutoModelForCausalLM, StaticCache, logging  # seconds to import

    check_counts(samples, length)
    tokenizer = load_tokenizer(folder)
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if start is None:
        raise InputError(
            f"`{folder}`: the tokenizer has neither a beginning- nor an end-of-text token",
            hint="give --calibration FILE and --text FILE",
        )
    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False).eval()
    generator = torch.Generator().manual_seed(seed)
    progress.start("sampling text from the model", samples * length, "tokens")
    parts = []
    for first in range(0, samples, BATCH):
        count = min(BATCH, samples - first)
        tokens = torch.full((count, length), start, dtype=torch.int64)
        cache = StaticCache(config=model.config, max_cache_len=length)
        for position in range(length - 1):
            logits = (
                model(tokens[:, position : position + 1], past_key_values=cache, use_cache=True).logits[:, -1].float()
            )
            if not bool(torch.isfinite(logits).all()):
                raise InputError(
                    f"`{folder}`: the model's output is not finite at position {position}",
                    hint="the checkpoint may be damaged",
                )
            tokens[:, position + 1] = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
            progress.advance(count)
        parts.append(tokens)
        progress.advance(count)
    progress.stop()
    return make_windows(f"self (seed {seed})", torch.cat(parts))
