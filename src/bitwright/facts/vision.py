"""Vision-language models, as data: which tensors of a checkpoint are the decoder, the vision tower, the projector.

The decoder of every architecture here is one of the families (families.py) under other names. It is presented as that
family, with the family's names and config, so that everything that reads, solves and judges a decoder does so without
knowing that images exist; what lies beside it keeps the names of the files. On text alone that is exact: the rotary
embeddings of Qwen's models, which turn by three positions, are plain ones where the three are equal, and the
bidirectional attention of Gemma concerns tokens of images.

Names differ by age: transformers 5 calls the decoder `model.language_model` in memory and stores most models under the
older names, some under the new ones. Both are read, and an artifact keeps those of its checkpoint. Engines rename in
ways of their own, so what they are told is a pattern that ends alike under every name.

Not here: what becomes of the parts (planner/vision.py), the family's own names (families.py).
Sources: transformers 5.23, conversion_mapping.py, models/{llava,llava_next,qwen2_vl,qwen2_5_vl,qwen3_vl,idefics3,
smolvlm,internvl,gemma3,mistral3}/configuration_*.py and modeling_*.py; vLLM 0.32, hf_to_vllm_mapper of the same models.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from bitwright.core.errors import InputError, UnsupportedError, did_you_mean
from bitwright.core.plan import TensorFacts, VisionFacts
from bitwright.facts.families import FAMILIES

Part = Literal["decoder", "vision tower", "projector"]
TEXT_CONFIG, QUANTIZATION = "text_config", "quantization_config"
HEAD = "lm_head."


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VisionFamily:
    """One architecture. Prefixes are tried in the order projector, tower, decoder; each decoder prefix stands for
    `model.`, except those in `heads`, which stand for `lm_head.`.

    `text_type` is the decoder where the config does not name one.
    """

    architecture: str
    text_type: str = "llama"
    decoder: tuple[str, ...]
    heads: tuple[str, ...] = (HEAD,)
    tower: tuple[str, ...]
    projector: tuple[str, ...]

    def place(self, stored: str) -> tuple[Part, str]:
        """What a stored tensor belongs to, and its name there. Raises `UnsupportedError` for a tensor of neither."""
        prefixes: tuple[tuple[Part, tuple[str, ...]], ...] = (
            ("projector", self.projector), ("vision tower", self.tower)
        )  # fmt: skip
        for part, known in prefixes:
            if stored.startswith(known):
                return part, stored
        for ours, known in ((HEAD, self.heads), ("model.", self.decoder)):
            for prefix in known:
                if stored.startswith(prefix):
                    return "decoder", ours + stored.removeprefix(prefix)
        raise UnsupportedError(f"`{stored}` is neither decoder, vision tower nor projector of {self.architecture}")


def _llava(architecture: str, *more: str, text_type: str = "llama") -> VisionFamily:
    return VisionFamily(
        architecture=architecture,
        text_type=text_type,
        decoder=("language_model.model.", "model.language_model."),
        heads=("language_model.lm_head.", HEAD),
        tower=("vision_tower.", "model.vision_tower."),
        projector=("multi_modal_projector.", "model.multi_modal_projector.", *more),
    )


def _qwen(architecture: str, text_type: str, *more: str) -> VisionFamily:
    return VisionFamily(
        architecture=architecture,
        text_type=text_type,
        decoder=("model.language_model.", "model."),
        tower=("visual.", "model.visual."),
        projector=("visual.merger.", "model.visual.merger.", *more),
    )


def _idefics(architecture: str) -> VisionFamily:
    return VisionFamily(
        architecture=architecture,
        decoder=("model.text_model.",),
        tower=("model.vision_model.",),
        projector=("model.connector.",),
    )


DEEP = ("visual.deepstack_merger_list.", "model.visual.deepstack_merger_list.")  # into the decoder's first blocks
NEWLINE = ("image_newline", "model.image_newline")  # the embedding that ends a row of patches
VISION_FAMILIES = {
    family.architecture: family
    for family in (
        _llava("LlavaForConditionalGeneration"),
        _llava("LlavaNextForConditionalGeneration", *NEWLINE),
        _llava("LlavaOnevisionForConditionalGeneration", *NEWLINE, text_type="qwen2"),
        _llava("InternVLForConditionalGeneration", text_type="qwen2"),
        _llava("Mistral3ForConditionalGeneration", text_type="mistral"),
        _llava("Gemma3ForConditionalGeneration", text_type="gemma3_text"),
        _qwen("Qwen2VLForConditionalGeneration", "qwen2_vl_text"),
        _qwen("Qwen2_5_VLForConditionalGeneration", "qwen2_5_vl_text"),
        _qwen("Qwen3VLForConditionalGeneration", "qwen3_vl_text", *DEEP),
        _idefics("Idefics3ForConditionalGeneration"),
        _idefics("SmolVLMForConditionalGeneration"),
    )
}
# Decoders that are a plain family on text, by their model_type
TEXT_FAMILIES = {
    "qwen2_vl": "qwen2", "qwen2_vl_text": "qwen2", "qwen2_5_vl": "qwen2", "qwen2_5_vl_text": "qwen2",
    "qwen3_vl_text": "qwen3",
}  # fmt: skip
TURNING = ("mrope_section", "mrope_interleaved")  # how three positions share a head; one is left on text
# Configs of the time of transformers 4 leave out what equals the default of the decoder's class
_COUNTS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
_DEFAULTS = {
    "llama": (4096, 11008, 32, 32, 32, 32000, 2048),
    "mistral": (4096, 14336, 32, 32, 8, 32000, 131072),
    "qwen2": (4096, 22016, 32, 32, 32, 151936, 32768),
    "qwen3": (4096, 22016, 32, 32, 32, 151936, 32768),
    "gemma3_text": (2304, 9216, 26, 8, 4, 262208, 131072),
}
TEXT_DEFAULTS: dict[str, dict[str, int]] = {
    family: dict(zip((*_COUNTS, "vocab_size", "max_position_embeddings"), values, strict=True))
    for family, values in _DEFAULTS.items()
}
TEXT_DEFAULTS["gemma3_text"]["head_dim"], TEXT_DEFAULTS["qwen3"]["head_dim"] = 256, 128
_NO_LINEAR = ("embed", ".head.attention.")  # tables, patches, and attention that reads its weights past its linears
_DOT = r"\."
_DECODER = r"(?:model\.|language_model\.|text_model\.)+"


def vision_family(config: dict[str, Any]) -> VisionFamily | None:
    """The row of a vision-language model's config, `None` for any other config."""
    names = config.get("architectures")
    return VISION_FAMILIES.get(names[0]) if isinstance(names, list) and names and isinstance(names[0], str) else None


def decoder_config(config: dict[str, Any], stored: Iterable[str] = ()) -> dict[str, Any]:
    """The `config.json` that the decoder alone would have; any other config as it is.

    `stored` are the names of the checkpoint's tensors: where inner and outer config disagree on whether the head is
    the embedding, or keep silent, a head that is stored says that it is not.
    Raises `UnsupportedError` when the decoder is of no family.
    """
    family = vision_family(config)
    if family is None:
        return config
    nested = config.get(TEXT_CONFIG)
    text = dict(nested if isinstance(nested, dict) else config)
    kind = str(text.get("model_type", family.text_type))
    name = TEXT_FAMILIES.get(kind, kind)
    if name not in TEXT_DEFAULTS:
        raise UnsupportedError(
            f"{family.architecture} with a decoder of type `{kind}` is not supported",
            hint=did_you_mean(kind, [*TEXT_DEFAULTS, *TEXT_FAMILIES]),
        )
    said = {bool(level["tie_word_embeddings"]) for level in (text, config) if "tie_word_embeddings" in level}
    tied = said == {True} or (len(said) != 1 and not any(item.startswith(family.heads) for item in stored))
    found = TEXT_DEFAULTS[name] | {key: value for key, value in text.items() if value is not None}
    if name == "llama" and "num_key_value_heads" not in text:
        found["num_key_value_heads"] = found["num_attention_heads"]
    for key in ("rope_parameters", "rope_scaling"):
        if isinstance(found.get(key), dict):
            found[key] = _one_position(found[key])
    for key in ("vision_config", TEXT_CONFIG):
        found.pop(key, None)
    if config.get(QUANTIZATION):
        found[QUANTIZATION] = config[QUANTIZATION]
    return found | {"architectures": [FAMILIES[name].architecture], "model_type": name, "tie_word_embeddings": tied}


def split(family: VisionFamily, tensors: Iterable[TensorFacts]) -> tuple[tuple[TensorFacts, ...], VisionFacts]:
    """The decoder's tensors under its family's names, and those beside it. Raises `InputError` for a model without a
    vision tower, `UnsupportedError` for a tensor that is part of nothing."""
    held: dict[Part, list[TensorFacts]] = {"decoder": [], "vision tower": [], "projector": []}
    for tensor in tensors:
        part, name = family.place(tensor.name)
        stored = "" if name == tensor.name else tensor.name
        held[part].append(msgspec.structs.replace(tensor, name=name, stored=stored))
    for part in ("vision tower", "projector"):
        if not held[part]:
            raise InputError(f"no tensor of a {part} is stored, which {family.architecture} has")
    beside = VisionFacts(tower=tuple(held["vision tower"]), projector=tuple(held["projector"]))
    return tuple(held["decoder"]), beside


def part_patterns(family: VisionFamily, part: Part) -> list[str]:
    """What matches every module of tower or projector, under whichever names an engine gives them."""
    of_projector = _inner(family.projector)
    found = []
    for prefix in of_projector if part == "projector" else _inner(family.tower):
        inside = [other.removeprefix(prefix) for other in of_projector if other.startswith(prefix) and other != prefix]
        without = f"(?!{'|'.join(map(re.escape, inside))})" if inside else ""
        found.append(f"re:.*{re.escape(prefix)}{without}.*")
    return found


def module_pattern(family: VisionFamily, stored: str, *, any_layer: bool) -> str:
    """What matches one module by its stored name, or its like in every layer, under whichever names."""
    part, name = family.place(f"{stored}.weight")
    name = name.removesuffix(".weight")
    inside = name.removeprefix("model.")
    words = (r"\d+" if any_layer and word.isdigit() else re.escape(word) for word in inside.split("."))
    start = _DECODER if part == "decoder" and inside != name else ".*"
    return f"re:{start}{_DOT.join(words)}$"


def is_part_linear(tensor: TensorFacts) -> bool:
    """Whether a tensor of tower or projector is the weight of a linear that an engine can run in few bits."""
    matrix = len(tensor.shape) == 2 and tensor.name.endswith(".weight")
    return matrix and not any(mark in tensor.name for mark in _NO_LINEAR)


def _one_position(rope: dict[str, Any]) -> dict[str, Any]:
    """Rotary parameters without what concerns three positions."""
    kept = {key: value for key, value in rope.items() if key not in TURNING}
    return {key: "default" if value == "mrope" else value for key, value in kept.items()}


def _inner(prefixes: tuple[str, ...]) -> tuple[str, ...]:
    """Prefixes of modules as every engine ends them."""
    return tuple(sorted({prefix.removeprefix("model.") for prefix in prefixes if prefix.endswith(".")}))
