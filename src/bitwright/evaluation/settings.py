"""Constants and tokenizer of an artifact held against the reference's: what logits on plain text do not show.

Compared is what changes an answer: constants that the forward pass reads, ids that begin and end a text, how text
becomes tokens, and what a chat template renders. Formats spell these differently, and repackagers add what is harmless,
so a template is judged by what it renders, an end of text by any of the ids that the original names, and a
pre-tokenizer only where both names are known.

Not here: reading them (formats/settings.py), weights (weights.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from bitwright.core.findings import Diagnosis
from bitwright.core.plan import ModelFacts
from bitwright.core.protocols import WeightSource
from bitwright.facts.doctor_rules import diagnosis
from bitwright.facts.families import FAMILIES
from bitwright.formats.settings import KNOWN_SPLITTING, Settings

SAME = ("layers", "hidden", "intermediate", "heads", "kv_heads", "head_dim", "vocab")
ROPE, EPSILON = "rope_parameters", "rms_norm_eps"
CONSTANTS = (
    "attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar", "num_experts_per_tok",
    "norm_topk_prob", "attention_bias", "mlp_bias",
)  # fmt: skip
ACTIVATION = ("hidden_activation", "hidden_act")  # Gemma's configs hold both and mean the first
WINDOWS = ("max_position_embeddings", "sliding_window")
RELATIVE = 1e-5  # GGUF keeps constants in float32
TALKS: tuple[list[dict[str, str]], ...] = (
    [{"role": "user", "content": "What is 7 times 6?"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
    [
        {"role": "user", "content": "Name a colour."},
        {"role": "assistant", "content": "Blue."},
        {"role": "user", "content": "Another?"},
    ],
)
SHOWN = 60  # characters of a template's output


def setting_findings(
    reference: WeightSource, artifact: WeightSource, here: Settings, there: Settings
) -> list[Diagnosis]:
    """All differences that change what the model answers, and some that may."""
    return [
        *constant_findings(reference.config, artifact.config, reference.facts.family),
        *_special(here, there),
        *_vocabulary(here, there, reference.facts.vocab),
        *_splitting(here, there),
        *_template(here, there),
    ]


def dimension_findings(here: ModelFacts, there: ModelFacts) -> list[Diagnosis]:
    """Dimensions that differ: nothing else can be compared then, nor where tensors have other names and uses."""
    if FAMILIES[here.family].gguf_architecture != FAMILIES[there.family].gguf_architecture:  # llama is mistral too
        return [_differs("dimension", "architecture", here.architecture, there.architecture)]
    pairs = [(field, getattr(here, field), getattr(there, field)) for field in SAME]
    return [_differs("dimension", field, expected, found) for field, expected, found in pairs if expected != found]


def constant_findings(here: Mapping[str, Any], there: Mapping[str, Any], family: str) -> Iterator[Diagnosis]:
    """What two configs of a family say otherwise that the forward pass reads; nothing of an empty one."""
    if not there:
        return
    yield from _rope(_turning(here), _turning(there))
    pairs = [("norm-epsilon", EPSILON, here.get(EPSILON), there.get(EPSILON))]
    expected = FAMILIES[family].activation
    pairs.append(("constant", "hidden_act", _first(here, ACTIVATION, expected), _first(there, ACTIVATION, expected)))
    for key in CONSTANTS:
        if key in here and key in there:
            pairs.append(("constant", key, here[key], there[key]))
    pairs += [("window", key, here.get(key), there.get(key)) for key in WINDOWS if here.get(key) or there.get(key)]
    for rule, key, expected_value, found in pairs:
        if expected_value is not None and found is not None and not _same(expected_value, found):
            yield _differs(rule, key, expected_value, found)


def _turning(config: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary constants in one spelling; those of the blocks that see everything, and of the others under `local.`."""
    found = dict(config.get(ROPE) or config.get("rope_scaling") or {})
    local = found.pop("sliding_attention", None)
    found = dict(found.get("full_attention") or found)
    found.setdefault("rope_type", found.pop("type", "default"))
    found.setdefault("rope_theta", config.get("rope_theta", 10000.0))
    if isinstance(local, dict):
        found |= {f"local.{key}": value for key, value in local.items()}
    return found


def _rope(here: Mapping[str, Any], there: Mapping[str, Any]) -> Iterator[Diagnosis]:
    for key in sorted({"rope_theta", "rope_type", *here}):
        if here.get("rope_type") == "default" and key not in ("rope_theta", "rope_type", "partial_rotary_factor"):
            continue
        expected, found = here.get(key), there.get(key)
        absent_is_one = key == "partial_rotary_factor" and found is None and _same(expected, 1.0)
        if expected is not None and not absent_is_one and not _same(expected, found):
            yield _differs("rope", f"{ROPE}.{key}", expected, found)


def _special(here: Settings, there: Settings) -> Iterator[Diagnosis]:
    """Every id that the artifact names must be one that the reference names for that role."""
    for token in there.special:
        allowed = [other.ids for other in here.special if other.role == token.role]
        union = frozenset().union(*allowed)
        if union and not token.ids <= union:
            rule = "pad-token" if token.role == "pad" else "special-token"
            yield _differs(rule, token.where, _ids(union), _ids(token.ids))


def _vocabulary(here: Settings, there: Settings, rows: int) -> Iterator[Diagnosis]:
    if not here.tokens or not there.tokens:
        return
    expected = {index: text for index, text in here.tokens.items() if index < rows}
    wrong = [index for index, text in expected.items() if _plain(there.tokens.get(index)) != _plain(text)]
    if wrong:
        first = min(wrong)
        shown = f"{first}, {there.tokens.get(first)!r} instead of {expected[first]!r}"
        yield diagnosis(
            "vocabulary", there.tokens_where, part="settings", count=len(wrong), total=len(expected), first=shown,
            evidence={"tokens": len(expected), "wrong": len(wrong), "first": first},
        )  # fmt: skip
    elif here.merges and there.merges and here.merges != there.merges:
        gone = len(set(here.merges) - set(there.merges)) or sum(
            a != b for a, b in zip(here.merges, there.merges, strict=False)
        )
        yield diagnosis("merges", there.tokens_where, part="settings", count=gone, total=len(here.merges))


def _plain(text: str | None) -> str | None:
    """A token's text, however a space is written in it."""
    return text if text is None else text.replace("▁", " ").replace("Ġ", " ")


def _splitting(here: Settings, there: Settings) -> Iterator[Diagnosis]:
    if here.splitting is None or there.splitting is None or here.splitting == there.splitting:
        return
    if there.splitting in (*KNOWN_SPLITTING, "default"):
        yield _differs("pre-tokenizer", there.splitting_where, here.splitting, there.splitting)


def _template(here: Settings, there: Settings) -> Iterator[Diagnosis]:
    if here.template is None or here.template == there.template:
        return
    if there.template is None:
        yield diagnosis("chat-template-missing", there.template_where, part="settings")
        return
    for talk in TALKS:
        expected, found = (_rendered(settings, talk) for settings in (here, there))
        if expected is not None and found != expected:
            yield diagnosis(
                "chat-template", there.template_where, part="settings",
                expected=_excerpt(expected, found or ""), found=_excerpt(found, expected) if found else "nothing",
            )  # fmt: skip
            return


def _rendered(settings: Settings, talk: Sequence[Mapping[str, str]]) -> str | None:
    """What the template makes of a conversation, `None` where it refuses it."""

    def refuse(message: str) -> None:
        raise TemplateError(message)

    # as transformers renders: blocks take their line ends with them, and nothing outside the sandbox is reached
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals |= {"raise_exception": refuse, "strftime_now": lambda pattern: pattern}
    words = {f"{token.role}_token": settings.tokens.get(min(token.ids), "") for token in reversed(settings.special)}
    try:
        return environment.from_string(settings.template or "").render(
            messages=talk, add_generation_prompt=True, **({"bos_token": "", "eos_token": ""} | words)
        )
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError):
        return None


def _excerpt(text: str, other: str) -> str:
    """Where the two begin to differ."""
    start = next((i for i, (a, b) in enumerate(zip(text, other, strict=False)) if a != b), min(len(text), len(other)))
    return repr(text[max(0, start - 10) : start + SHOWN])


def _differs(rule: str, key: str, expected: Any, found: Any) -> Diagnosis:
    evidence = {
        name: float(value)
        for name, value in (("reference", expected), ("artifact", found))
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
    return diagnosis(rule, key, part="settings", evidence=evidence, key=key, expected=expected, found=found)


def _same(expected: Any, found: Any) -> bool:
    numbers = [value for value in (expected, found) if isinstance(value, int | float)]
    if len(numbers) == 2:
        return math.isclose(expected, found, rel_tol=RELATIVE, abs_tol=0.0)
    if isinstance(expected, list | tuple) and isinstance(found, list | tuple) and len(expected) == len(found):
        return all(_same(a, b) for a, b in zip(expected, found, strict=True))
    return bool(expected == found)


def _first(config: Mapping[str, Any], keys: Sequence[str], default: Any) -> Any:
    return next((config[key] for key in keys if config.get(key) is not None), default)


def _ids(ids: frozenset[int]) -> str:
    return " or ".join(map(str, sorted(ids)))
