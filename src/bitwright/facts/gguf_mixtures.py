"""Which ggml type each tensor gets under a preset such as Q4_K_M: llama.cpp's own rules, tensor by tensor.

A preset is a base type plus exceptions: the output head (or the embedding, when it is also the head), the value and
down projections of chosen layers, and rows that do not fill whole blocks. Files made by these rules have the types and
the size of llama-quantize's, so that both can be compared at equal bytes.

llama-quantize knows one bit about the importance matrix: whether a file was given. A tensor without an entry in it is
quantized unweighted, to the same type. Our runs always have statistics, so the rules for `has_imatrix` stand here.

Fused q, k, v count as a value projection. Routers stay F32, as upstream's converter writes them. With 8 experts keys
and values are small beside the rest and get 8 bits; all experts of a block have one type, because they are one tensor.

Not here: codebooks below 4 bits, names (families.py).
Source: llama.cpp src/llama-quant.cpp at build 11434: tensor_allows_quantization, llama_tensor_get_type_impl,
tensor_type_fallback, llama_ftype_get_default_type; model types from src/models/{llama,qwen2}.cpp.
"""

from __future__ import annotations

from bitwright.core.errors import UnsupportedError, did_you_mean
from bitwright.core.plan import ModelFacts
from bitwright.core.schemes import GGML_BLOCKS, GGML_FLOATS
from bitwright.facts.families import EMBEDDING, FAMILIES, HEAD, expert_of, gguf_name, layer_of

BASE_TYPES = {
    "F32": "F32",
    "F16": "F16",
    "BF16": "BF16",
    "Q4_0": "Q4_0",
    "Q4_1": "Q4_1",
    "Q5_0": "Q5_0",
    "Q5_1": "Q5_1",
    "Q8_0": "Q8_0",
    "Q2_K": "Q2_K",
    "Q2_K_S": "Q2_K",
    "Q3_K_S": "Q3_K",
    "Q3_K_M": "Q3_K",
    "Q3_K_L": "Q3_K",
    "Q4_K_S": "Q4_K",
    "Q4_K_M": "Q4_K",
    "Q5_K_S": "Q5_K",
    "Q5_K_M": "Q5_K",
    "Q6_K": "Q6_K",
    "IQ4_NL": "IQ4_NL",
    "IQ4_XS": "IQ4_XS",
    "MXFP4": "MXFP4",
}
PRESETS = tuple(BASE_TYPES)
PURE = ("MXFP4",)  # presets without exceptions: what `llama-quantize --pure MXFP4_MOE` writes of a dense model
FALLBACKS = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0", "IQ4_XS": "IQ4_NL"}
OUTPUT_PROJECTIONS = {"Q2_K": "Q3_K", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K"}
LAYERS_OF_70B = 80
EIGHT, EIGHT_OUTPUT = 8, "Q5_K"  # experts, and what attn_output gets beside them
EIGHT_PRESETS = ("Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M", "IQ4_NL", "IQ4_XS")

Choice = tuple[str, str]  # type, reason


def ggml_types(facts: ModelFacts, preset: str) -> dict[str, Choice]:
    """Hugging Face name → (ggml type, reason) for every tensor. Raises `UnsupportedError` on an unknown preset."""
    if preset not in BASE_TYPES:
        raise UnsupportedError(f"GGUF type `{preset}` is not supported", hint=did_you_mean(preset, [*PRESETS]))
    base = BASE_TYPES[preset]
    chosen = {}
    for tensor in facts.tensors:
        if len(tensor.shape) < 2:
            chosen[tensor.name] = ("F32", "vectors stay F32")
        elif "ffn_gate_inp" in gguf_name(tensor.name, facts.family):
            chosen[tensor.name] = ("F32", "routers stay F32")
        elif base in GGML_FLOATS:
            chosen[tensor.name] = (base, f"{preset}: no quantization")
        else:
            chosen[tensor.name] = _fill_rows(_by_rule(facts, tensor.name, preset, base), tensor.shape[-1])
    return chosen


def _by_rule(facts: ModelFacts, name: str, preset: str, base: str) -> Choice:
    """Type before the row rule."""
    if preset in PURE and facts.experts is not None:
        if expert_of(name) is None:
            return "Q8_0", f"{preset}: what every token uses"
        return base, f"{preset}: experts"
    if preset in PURE:
        return base, f"{preset}: all matrices"
    if name == HEAD or (facts.tied and name == EMBEDDING):
        what = "the output head" if name == HEAD else "the embedding is also the output head"
        return ("Q8_0" if base == "Q8_0" else "Q6_K"), f"{preset}: {what}"
    layer = layer_of(name)
    if layer is None:
        return base, f"{preset}: base type"
    kind = gguf_name(name, facts.family).split(".")[2]
    eight = facts.experts is not None and facts.experts.count == EIGHT
    if eight and kind in ("attn_v", "attn_k"):
        return "Q8_0", f"{preset}: keys and values are small beside 8 experts"
    if eight and kind == "attn_output" and preset in EIGHT_PRESETS:
        return EIGHT_OUTPUT, f"{preset}: output projections are small beside 8 experts"
    if kind in ("attn_v", "attn_qkv"):
        return _value_rule(facts, layer, preset, base)
    if kind.startswith("ffn_down"):
        return _down_rule(facts, layer, preset, base)
    if kind == "attn_output" and not eight and preset in OUTPUT_PROJECTIONS:
        return OUTPUT_PROJECTIONS[preset], f"{preset}: output projections get more bits"
    return base, f"{preset}: base type"


def _value_rule(facts: ModelFacts, layer: int, preset: str, base: str) -> Choice:
    """attn_v: small and sensitive."""
    kind, reason = _value_type(facts, layer, preset, base)
    if kind in ("Q3_K", "Q4_K") and _is_70b(facts):
        return "Q5_K", f"{preset}: value projections of a 70B model are 8 times smaller than its query projections"
    return kind, reason


def _value_type(facts: ModelFacts, layer: int, preset: str, base: str) -> Choice:
    grouped = facts.heads // facts.kv_heads >= 4
    match preset:
        case "Q4_K_M" | "Q5_K_M" if more_bits(layer, facts.layers):
            return "Q6_K", f"{preset}: value projection of layer {layer} gets more bits"
        case "Q4_K_S" if layer < 4:
            return "Q5_K", f"{preset}: value projections of the first 4 layers"
        case "Q3_K_M":
            kind = "Q5_K" if layer < 2 else "Q4_K"
            return kind, f"{preset}: value projections get more bits, those of the first 2 layers most"
        case "Q3_K_L":
            return "Q5_K", f"{preset}: value projections get more bits"
        case "Q2_K" if not grouped:
            return "Q3_K", f"{preset}: value projections get more bits"
        case "Q2_K" | "Q2_K_S" if grouped:
            return "Q4_K", f"{preset}: value projections that 4 or more query heads share"
        case "IQ4_NL" | "IQ4_XS" if grouped:
            return "Q5_K", f"{preset}: value projections that 4 or more query heads share"
        case _:
            return base, f"{preset}: base type"


def _down_rule(facts: ModelFacts, layer: int, preset: str, base: str) -> Choice:
    """ffn_down: its inputs have the widest range of the block."""
    first_eighth, first_sixteenth = layer < facts.layers // 8, layer < facts.layers // 16
    match preset:
        case "Q4_K_M" | "Q5_K_M" if more_bits(layer, facts.layers):
            return "Q6_K", f"{preset}: down projection of layer {layer} gets more bits"
        case "Q4_K_S" if first_eighth:
            return "Q5_K", f"{preset}: down projections of the first eighth of the layers"
        case "Q3_K_M":
            kind = "Q5_K" if first_sixteenth else "Q4_K"
            return kind, f"{preset}: down projections get more bits, those of the first sixteenth of the layers most"
        case "Q3_K_L":
            return "Q5_K", f"{preset}: down projections get more bits"
        case "Q2_K":
            return "Q3_K", f"{preset}: down projections get more bits"
        case "Q2_K_S" if first_eighth:
            return "Q4_K", f"{preset}: down projections of the first eighth of the layers"
        case "Q4_0" | "Q5_0" if first_eighth:
            kind = {"Q4_0": "Q4_1", "Q5_0": "Q5_1"}[preset]
            return kind, f"{preset}: down projections of the first eighth of the layers, given importances"
        case _:
            return base, f"{preset}: base type"


def more_bits(layer: int, layers: int) -> bool:
    """llama.cpp's `use_more_bits`: the first and last eighth of the layers, and every third between."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def _is_70b(facts: ModelFacts) -> bool:
    """llama.cpp's LLM_TYPE_70B, which it infers from the number of layers alone in some architectures."""
    architecture = FAMILIES[facts.family].gguf_architecture
    grouped = facts.heads != facts.kv_heads
    return facts.layers == LAYERS_OF_70B and (architecture == "qwen2" or (architecture == "llama" and grouped))


def _fill_rows(choice: Choice, columns: int) -> Choice:
    """A type whose blocks divide the row: the chosen one, its 32-wide substitute, or F16."""
    kind, reason = choice
    elements = GGML_BLOCKS[kind][0]
    if columns % elements == 0:
        return choice
    other = FALLBACKS.get(kind, kind)
    if columns % GGML_BLOCKS[other][0]:
        other = "F16"
    return other, f"{reason}; {columns} inputs do not fill blocks of {elements}: {kind} → {other}"
