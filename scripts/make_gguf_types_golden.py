"""Write tests/golden/gguf_types.json: the tensor types that llama-quantize chooses, to hold our rules against.

usage: make_gguf_types_golden.py LLAMA_QUANTIZE VERSION OUT.json [NAME=F16_GGUF,IMATRIX_GGUF]...

Needs gguf and numpy, and a built llama-quantize. Types come from its `--dry-run`, which prints the type that a real run
writes. Each NAME is a real model; beside them stand tiny invented ones (zero weights, real headers) that reach the
rules which real models of this size do not: 80 layers, rows of odd length, other architectures.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np

FLOATS = ["F32", "F16", "BF16"]
LOW = ["Q2_K", "Q2_K_S", "Q3_K_S", "Q3_K_M", "Q3_K_L", "IQ4_NL", "IQ4_XS", "MXFP4"]
PRESETS = [*FLOATS, "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", *LOW]
OPTIONS = {"MXFP4": ["--pure", "MXFP4_MOE"]}  # the word on its command line, where it is not the preset's own
INVENTED = {
    # name: (architecture, layers, hidden, heads, key-value heads, head_dim, intermediate, tied)
    "llama-80-layers": ("llama", 80, 256, 8, 1, 32, 512, False),
    "llama-80-layers-ungrouped": ("llama", 80, 256, 8, 8, 32, 256, True),
    "qwen2-80-layers": ("qwen2", 80, 256, 8, 8, 32, 256, False),
    "qwen3-80-layers": ("qwen3", 80, 256, 4, 2, 64, 256, True),
    "llama-16-layers-odd-rows": ("llama", 16, 264, 4, 2, 66, 520, False),
    "llama-7-layers-tied-odd-rows": ("llama", 7, 48, 4, 2, 12, 96, True),
    "qwen3-36-layers": ("qwen3", 36, 96, 4, 2, 128, 288, False),
    "phi3-20-layers": ("phi3", 20, 256, 8, 2, 32, 256, False),
    "gemma3_text-20-layers": ("gemma3", 20, 256, 8, 2, 32, 256, True),
    "mixtral-20-layers-8-experts": ("llama", 20, 256, 8, 2, 32, 256, False),
    "qwen2_moe-20-layers-16-experts": ("qwen2moe", 20, 256, 8, 8, 32, 256, False),
    "qwen3_moe-20-layers-8-experts": ("qwen3moe", 20, 256, 8, 4, 32, 256, False),
}
SHARED = 192  # inputs of the shared expert's down projection
LINE = re.compile(r"\] +(\S+) +- \[.*?type = +(\S+), size = .*?(?:\((\w+)\))?\s*$")


def experts_in(name: str) -> int:
    found = re.search(r"(\d+)-experts", name)
    return int(found[1]) if found else 0


def write_keys(writer: gguf.GGUFWriter, spec: tuple, experts: int) -> None:
    architecture, layers, hidden, heads, kv_heads, width, inner, _ = spec
    writer.add_block_count(layers)
    writer.add_context_length(128)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(32)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_tokenizer_model("no_vocab")
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(2)
        writer.add_expert_feed_forward_length(inner)
        writer.add_expert_shared_feed_forward_length(SHARED)
    if architecture == "gemma3":
        writer.add_sliding_window(64)
    if architecture == "phi3":
        writer.add_rope_scaling_orig_ctx_len(128)
        writer.add_rope_dimension_count(width)


def write_invented(path: Path, spec: tuple) -> None:
    experts = experts_in(path.stem)
    architecture, layers, hidden, heads, kv_heads, width, inner, tied = spec
    writer = gguf.GGUFWriter(str(path), architecture)
    write_keys(writer, spec, experts)

    def add(name: str, *shape: int) -> None:
        writer.add_tensor(name, np.zeros(shape, np.float16 if len(shape) > 1 else np.float32))

    add("token_embd.weight", 32, hidden)
    add("output_norm.weight", hidden)
    if not tied:
        add("output.weight", 32, hidden)
    for layer in range(layers):
        block = f"blk.{layer}."
        add(block + "attn_norm.weight", hidden)
        add(block + "ffn_norm.weight", hidden)
        parts = [("q", heads * width), ("k", kv_heads * width), ("v", kv_heads * width)]
        for part, rows in [("qkv", sum(rows for _, rows in parts))] if architecture == "phi3" else parts:
            add(f"{block}attn_{part}.weight", rows, hidden)
            if architecture in ("qwen2", "qwen2moe"):
                add(f"{block}attn_{part}.bias", rows)
        if architecture == "gemma3":
            add(block + "post_attention_norm.weight", hidden)
            add(block + "post_ffw_norm.weight", hidden)
        if architecture in ("qwen3", "qwen3moe", "gemma3"):
            add(block + "attn_q_norm.weight", width)
            add(block + "attn_k_norm.weight", width)
        add(block + "attn_output.weight", hidden, heads * width)
        if architecture == "phi3":
            add(block + "ffn_up.weight", 2 * inner, hidden)
            add(block + "ffn_down.weight", hidden, inner)
            continue
        for suffix, lead, wide in feed_forwards(architecture, experts, inner):
            add(f"{block}ffn_gate{suffix}.weight", *lead, wide, hidden)
            add(f"{block}ffn_up{suffix}.weight", *lead, wide, hidden)
            add(f"{block}ffn_down{suffix}.weight", *lead, hidden, wide)
        if experts:
            writer.add_tensor(block + "ffn_gate_inp.weight", np.zeros((experts, hidden), np.float32))
        if architecture == "qwen2moe":
            writer.add_tensor(block + "ffn_gate_inp_shexp.weight", np.zeros(hidden, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def feed_forwards(architecture: str, experts: int, inner: int) -> list[tuple[str, tuple[int, ...], int]]:
    """Suffix of the names, leading dimensions, width."""
    if not experts:
        return [("", (), inner)]
    return [("_exps", (experts,), inner), *([("_shexp", (), SHARED)] if architecture == "qwen2moe" else [])]


def dry_run(tool: str, model: Path, imatrix: Path, preset: str) -> dict[str, str]:
    *flags, word = OPTIONS.get(preset, [preset])
    if experts_in(model.stem):  # the preset is made for them
        flags = []
    command = [tool, "--dry-run", *flags, "--imatrix", str(imatrix), str(model), word, "1"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    types = {}
    for line in (ran.stdout + ran.stderr).splitlines():
        # a fallback warning is printed inside of the line of its tensor's type
        if found := LINE.search(line):
            types[found[1]] = (found[3] or found[2]).upper()
    return types


def shape_of(model: Path) -> dict:
    reader = gguf.GGUFReader(str(model))
    architecture = reader.get_field("general.architecture").contents()
    value = lambda key: reader.get_field(f"{architecture}.{key}").contents()  # noqa: E731
    tensors = {tensor.name: [int(n) for n in reversed(tensor.shape)] for tensor in reader.tensors}
    heads, hidden = value("attention.head_count"), value("embedding_length")
    field = reader.get_field(f"{architecture}.attention.key_length")
    return {
        "architecture": architecture,
        "layers": value("block_count"),
        "hidden": hidden,
        "intermediate": value("feed_forward_length"),
        "heads": heads,
        "kv_heads": value("attention.head_count_kv"),
        "head_dim": field.contents() if field else hidden // heads,
        "vocab": tensors["token_embd.weight"][0],
        "tied": "output.weight" not in tensors,
    }


def compact(types: dict[str, str]) -> dict[str, str]:
    """`blk.N.x` of all layers → runs such as `Q6_K*3 Q4_K*2`."""
    rows: dict[str, dict[int, str]] = {}
    for name, kind in types.items():
        found = re.fullmatch(r"blk\.(\d+)\.(.+)", name)
        rows.setdefault(found[2] if found else name, {})[int(found[1]) if found else 0] = kind
    lists = {name: [kinds[layer] for layer in sorted(kinds)] for name, kinds in sorted(rows.items())}
    return {name: runs(kinds) for name, kinds in lists.items()}


def runs(kinds: list[str]) -> str:
    return " ".join(f"{kind}*{len(list(run))}" for kind, run in itertools.groupby(kinds))


def main() -> None:
    tool, version, out, *real = sys.argv[1:]
    models: dict[str, tuple[Path, Path]] = {}
    for item in real:
        name, paths = item.split("=", 1)
        model, imatrix = paths.split(",")
        models[name] = (Path(model), Path(imatrix))
    some_imatrix = next(iter(models.values()))[1]
    with tempfile.TemporaryDirectory() as folder:
        for name, spec in INVENTED.items():
            path = Path(folder) / f"{name}.gguf"
            write_invented(path, spec)
            models[name] = (path, some_imatrix)
        result = {
            "made_by": "scripts/make_gguf_types_golden.py",
            "tool": f"llama-quantize --dry-run --imatrix, {version}",
            "models": {
                name: shape_of(model)
                | ({"architecture": name.split("-")[0], "experts": experts_in(name)} if experts_in(name) else {})
                | {"types": {preset: compact(dry_run(tool, model, imatrix, preset)) for preset in PRESETS}}
                for name, (model, imatrix) in models.items()
            },
        }
    Path(out).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
