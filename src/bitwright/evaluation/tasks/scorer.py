"""Any weight source behind the three questions that lm-evaluation-harness asks of a model.

Likelihoods take one block in memory at a time (evaluation/likelihood.py), generation the whole model in float32, which
is dropped afterwards. Text becomes tokens as in the harness's own model of Hugging Face folders, so that its figures
come out (a slow test holds them against it).

Imported only where the harness is installed. Source: lm-eval 0.4.13, api/model.py and models/huggingface.py.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, has_bos_prefix, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from bitwright.core.errors import UnsupportedError
from bitwright.core.protocols import Progress, WeightSource
from bitwright.evaluation.likelihood import Continuation, log_likelihoods
from bitwright.modeling.continuation import Decoding, continuations
from bitwright.modeling.walk import Walker
from bitwright.modeling.whole import whole_model

MAX_NEW_TOKENS = 256  # where a task does not say; the harness's default
UNKNOWN_TO_US = ("top_k", "top_p", "num_beams", "min_p", "repetition_penalty")  # settings that would change an answer


class SourceScorer(TemplateLM):  # type: ignore[misc]  # the harness has no types
    """Answers for `source`; `tokenizer` is the reference's for both models, so that both read the same prompts."""

    def __init__(self, source: WeightSource, tokenizer: Any, *, progress: Progress, seed: int = 0) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self._source, self._progress, self._seed = source, progress, seed
        self._screen = sys.stderr  # the harness's talk is held back while it asks, ours is not
        self.max_length = int(source.facts.context)

    @property
    def eot_token_id(self) -> int:
        """What ends a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What a text begins with where nothing is before it."""
        return int(self.tokenizer.bos_token_id if self.tokenizer.bos_token_id is not None else self.eot_token_id)

    @property
    def tokenizer_name(self) -> str:
        """Distinguishes requests that the harness keeps."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids as the harness's Hugging Face model makes them."""
        if add_special_tokens is None and has_bos_prefix(string, self.tokenizer.decode(self.prefix_token_id)):
            add_special_tokens = False
        chosen = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        ids: list[int] = self.tokenizer.encode(string, **chosen)
        return ids

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        asked = [Continuation(context=tuple(context), answer=tuple(answer)) for _, context, answer in requests]
        with contextlib.redirect_stderr(self._screen):
            return log_likelihoods(Walker(self._source), asked, most=self.max_length, progress=self._progress)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, window by window, each token predicted once."""
        windows, owners = [], []
        for owner, request in enumerate(requests):
            rolling = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            for context, answer in map(make_disjoint_window, rolling):
                windows.append(("", list(context), list(answer)))
                owners.append(owner)
        totals = [0.0] * len(requests)
        for owner, (value, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[owner] += value
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Text behind each prompt, up to a stop sequence."""
        model = whole_model(self._source)
        found = [""] * len(requests)
        by_settings: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            by_settings.setdefault(repr(request.args[1]), []).append(index)
        for group in by_settings.values():
            texts = self._write(model, [requests[index].args[0] for index in group], requests[group[0]].args[1])
            for index, text in zip(group, texts, strict=True):
                found[index] = text
        return found

    def _write(self, model: Any, prompts: Sequence[str], settings: dict[str, Any]) -> list[str]:
        known = normalize_gen_kwargs(settings, MAX_NEW_TOKENS)
        if strange := sorted(name for name in UNKNOWN_TO_US if known.get(name) not in (None, 1, 1.0, 0)):
            raise UnsupportedError(
                f"a task asks for `{strange[0]}` in its generation_kwargs, which is not served here",
                hint="greedy and plain sampling at a temperature are",
            )
        until = handle_stop_sequences(known.get("until"), eos=self.tokenizer.decode([self.eot_token_id]))
        new_tokens = int(known["max_gen_toks"])
        sampled = bool(known.get("do_sample")) and float(known.get("temperature") or 0.0)
        decoding = Decoding(
            new_tokens=new_tokens, ends=frozenset({self.eot_token_id}), temperature=float(sampled), seed=self._seed
        )

        def said(tokens: Sequence[int]) -> bool:
            text = self.tokenizer.decode(tokens)
            return any(stop and stop in text for stop in until)

        room = max(1, self.max_length - new_tokens)
        ids = [self.tok_encode(prompt)[-room:] for prompt in prompts]
        with contextlib.redirect_stderr(self._screen):
            written = continuations(model, ids, decoding, enough=said, progress=self._progress)
        return [postprocess_generated_text(self.tokenizer.decode(tokens), until, None) for tokens in written]
