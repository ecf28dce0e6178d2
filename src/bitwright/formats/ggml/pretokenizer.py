"""Which pre-tokenizer a byte-level BPE tokenizer uses, by the name llama.cpp knows it by (`tokenizer.ggml.pre`).

Upstream's converter tokenizes a test string and looks its hash up in a table, so only tokenizers that somebody listed
are known. Here the structure of tokenizer.json decides: the same splitting rules are the same pre-tokenizer, whoever
trained the vocabulary. One consequence: where a vocabulary holds no merge that a stricter rule would forbid, upstream
may choose another name with the same result (digits of SmolLM2: `gpt-2` and `smollm` then give equal tokens).

A rule is the list of splitting steps, each a pair (kind, detail). An unknown rule is refused: a wrong one would cost
quality without a word. The normalizer NFC is let through although llama.cpp does not apply it, as upstream does.

Not here: vocabulary and special tokens (tokenizer.py).
Sources: llama.cpp src/llama-vocab.cpp (regex_exprs per LLAMA_VOCAB_PRE_TYPE_*, with the original patterns quoted);
tokenizer.json of the repositories named in each row (convert_hf_to_gguf_update.py lists them).
"""

from __future__ import annotations

from typing import Any

from bitwright.core.errors import InputError, UnsupportedError

Steps = tuple[tuple[str, str], ...]

_LETTERS_AND_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BYTES_WITH_REGEX = ("ByteLevel", "regex")
_BYTES = ("ByteLevel", "plain")

RULES: dict[Steps, str] = {
    (_BYTES_WITH_REGEX,): "gpt-2",  # openai-community/gpt2
    (("Digits", "individual"), _BYTES_WITH_REGEX): "smollm",  # HuggingFaceTB/SmolLM-135M
    (("Split", _WORDS + r"\p{N}{1,3}" + _LETTERS_AND_REST), _BYTES): "llama-bpe",  # meta-llama/Meta-Llama-3-8B
    (("Split", _WORDS + r"\p{N}" + _LETTERS_AND_REST), _BYTES): "qwen2",  # Qwen/Qwen1.5-7B
    (("Split", _TEKKEN), _BYTES): "tekken",  # mistralai/Mistral-Nemo-Base-2407
}
NORMALIZERS = (None, "NFC")


def pre_tokenizer(tokenizer: dict[str, Any]) -> str:
    """The llama.cpp name for the rules in a parsed tokenizer.json.

    Raises `UnsupportedError` that names the rules when they are none of the known ones.
    """
    normalizer = _sequence(tokenizer.get("normalizer"), "normalizers")
    for step in normalizer:
        if step.get("type") not in NORMALIZERS:
            raise UnsupportedError(
                f"the tokenizer's normalizer `{step.get('type')}` has no counterpart in llama.cpp's BPE",
                hint="use --format compressed-tensors, which keeps tokenizer.json as it is",
            )
    steps = tuple(_step(step) for step in _sequence(tokenizer.get("pre_tokenizer"), "pretokenizers"))
    if steps not in RULES:
        shown = ", ".join(f"{kind} {detail}".strip() for kind, detail in steps) or "none"
        raise UnsupportedError(
            f"unknown pre-tokenizer ({shown}); known: {', '.join(sorted(RULES.values()))}",
            hint="use --format compressed-tensors, which keeps tokenizer.json as it is",
        )
    return RULES[steps]


def _sequence(part: Any, key: str) -> list[dict[str, Any]]:
    if part is None:
        return []
    if not isinstance(part, dict):
        raise InputError(f"tokenizer.json: {key} should be an object, found {type(part).__name__}")
    return list(part.get(key, [])) if part.get("type") == "Sequence" else [part]


def _step(step: dict[str, Any]) -> tuple[str, str]:
    kind = str(step.get("type"))
    match kind:
        case "ByteLevel" if not step.get("add_prefix_space", True):
            return kind, "regex" if step.get("use_regex", True) else "plain"
        case "Digits":
            return kind, "individual" if step.get("individual_digits") else "runs"
        case "Split" if step.get("behavior") == "Isolated" and not step.get("invert") and "Regex" in step["pattern"]:
            return kind, str(step["pattern"]["Regex"])
        case _:
            return kind, str({key: value for key, value in step.items() if key != "type"})
