"""One decoder block in memory at a time.

A transformers model is built on the meta device, so it costs nothing; a block is copied from it, filled with float32
weights from a `WeightSource`, run, and dropped. The same walk serves calibration, quantization and validation, for
float checkpoints and decoded artifacts alike, so that a difference between two walks is a difference of weights, and
of rounded inputs where the artifact's engine rounds them.

Only model classes that ship with transformers are built; no code out of a checkpoint is run.
Not here: statistics (calibration/), stage-wise runs (stages.py).

Dimension key: W windows · T tokens per window · H hidden · V vocabulary
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from bitwright.core.errors import InputError, UnsupportedError, UsageError
from bitwright.core.protocols import RoundsInputs, WeightSource
from bitwright.core.schemes import InputRounding
from bitwright.facts.blocks import Group, block_groups
from bitwright.facts.families import FAMILIES
from bitwright.modeling.attention import implementation, layer_type, mask
from bitwright.modeling.cache_peaks import CachePeaks
from bitwright.modeling.copies import copies_of, device_of, on_device
from bitwright.modeling.experts import separate_experts
from bitwright.modeling.rounded_inputs import round_inputs
from bitwright.tensors.devices import CPU, Devices, fetched
from bitwright.tensors.products import differentiable_linear, trainable_linear

LAYERS = "model.layers"
EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
HEAD = "lm_head.weight"


class Linear(nn.Linear):
    """A linear layer on the faster product (tensors/products.py), on inputs rounded as the artifact's engine does."""

    rounding: InputRounding | None = None
    reduced = False  # products in bfloat16
    trained: Callable[[], torch.Tensor] | None = None  # weights that a gradient goes to (distillation.py)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if self.rounding is not None:
            rounded = round_inputs(input, self.rounding)
            input = input + (rounded - input).detach() if input.requires_grad else rounded
        if self.trained is not None:
            return trainable_linear(input, self.trained(), self.bias)
        return differentiable_linear(input, self.weight, self.bias, reduced=self.reduced)


class Walker:
    """Walks one model. Tensors are float32 on the CPU, and on its way through a block on the block's device; nothing
    records gradients."""

    def __init__(self, source: WeightSource, *, reduced: bool = False, devices: Devices = (CPU,)) -> None:
        """Build the skeleton; `reduced` multiplies in bfloat16 where that is faster. `devices` are those that copies of
        a block are put on; the head is put on the first.

        Raises `UnsupportedError` when transformers has no class for the architecture.
        """
        self._source = source
        self.devices = devices
        self._skeleton = _skeleton(source.config, reduced=reduced)
        self._config = self._skeleton.config
        for module in self._skeleton.modules():
            if isinstance(module, Linear):
                module.reduced = reduced
        self._rotary: dict[torch.device, nn.Module] = {CPU: type(self._skeleton.model.rotary_emb)(config=self._config)}
        self.cache_peaks: CachePeaks | None = None  # observes keys and values where it is set
        self._norms: dict[torch.device, nn.Module] = {}
        self._head_VH: torch.Tensor | None = None
        self._head_rounding: InputRounding | None = None
        self.layers: int = self._config.num_hidden_layers
        self.tied: bool = bool(self._config.tie_word_embeddings)
        self.embedding_scale = float(getattr(self._skeleton.model.embed_tokens, "scalar_embed_scale", 1.0))
        self._cap: float | None = getattr(self._config, "final_logit_softcapping", None)

    @property
    def skeleton(self) -> Any:
        """The transformers model without weights; `whole.py` fills it."""
        return self._skeleton

    @property
    def rotary(self) -> nn.Module:
        """The rotary embedding on the CPU."""
        return self._rotary[CPU]

    @torch.no_grad()
    def embed(self, tokens: torch.Tensor, table: torch.Tensor | None = None) -> torch.Tensor:
        """int64 [W, T] → float32 [W, T, H], by `table` [V, H] where it is not the source's own.

        Raises `UsageError` when a window is longer than the model allows.
        """
        if table is None:
            table = self._source.load(EMBEDDING)
        self.check_tokens(tokens, table.shape[0])
        rows = nn.functional.embedding(tokens, table).float()
        return rows if self.embedding_scale == 1 else rows * self.embedding_scale

    @torch.no_grad()
    def embed_batches(self, tokens: torch.Tensor, batch: int) -> Iterator[torch.Tensor]:
        """The same, some windows at a time; the table is held until all have come."""
        table = self._source.load(EMBEDDING)
        for part in torch.split(tokens, batch):
            yield self.embed(part, table)

    def check_tokens(self, tokens: torch.Tensor, vocabulary: int) -> None:
        """Refuse windows that the model cannot attend over, and ids that it has no row for."""
        limit = self._config.max_position_embeddings
        if tokens.shape[1] > limit:
            raise UsageError(
                f"windows of {tokens.shape[1]} tokens are longer than the {limit} positions the model attends to",
                hint=f"use --length {limit} or less",
            )
        if int(tokens.max()) >= vocabulary:
            raise InputError(f"token id {int(tokens.max())} is outside the vocabulary of {vocabulary}")

    def groups(self, index: int) -> tuple[Group, ...]:
        """The groups of linears of block `index`, in the order of the forward pass."""
        return block_groups(self._source.facts, index)

    def load_block(self, index: int) -> nn.Module:
        """Block `index`, filled with float32 weights. Raises `InputError` on absent or misshapen tensors."""
        block: nn.Module = copy.deepcopy(self._skeleton.model.layers[index])
        _fill(block, self._source, f"{LAYERS}.{index}.")
        if isinstance(self._source, RoundsInputs):
            for name, module in block.named_modules():
                if isinstance(module, Linear):
                    module.rounding = self._source.input_rounding(f"{LAYERS}.{index}.{name}")
        return block.eval()

    def narrow(self, block: nn.Module) -> None:
        """Let everything in the block but its linears compute in bfloat16, so that bfloat16 hidden states stay so.

        Linears keep float32 weights, which are what is solved; they round them in every product.
        """
        for module in block.modules():
            if not isinstance(module, Linear):
                for parameter in module.parameters(recurse=False):
                    parameter.data = parameter.data.bfloat16()

    def copies(self, block: nn.Module) -> list[nn.Module]:
        """What stands for a loaded block on every device; the block itself where that is the CPU."""
        return copies_of(block, self.devices)

    @torch.no_grad()
    def forward(self, block: nn.Module, hidden_WTH: torch.Tensor) -> torch.Tensor:
        """Run a loaded block on a few windows: [W, T, H] → [W, T, H], causal attention within each window.

        Outputs stay on the block's device.
        """
        return self.forward_with_gradient(block, hidden_WTH)

    def forward_with_gradient(self, block: nn.Module, hidden_WTH: torch.Tensor) -> torch.Tensor:
        """The same, recording gradients where torch is told to."""
        device = device_of(block)
        hidden_WTH = hidden_WTH.to(device)
        positions = torch.arange(hidden_WTH.shape[1], device=device)[None]
        index = int(block.get_submodule("self_attn").layer_idx)  # type: ignore[arg-type]
        kind = layer_type(self._config, index)
        own = kind in (self._config.rope_parameters or {})  # blocks of this kind have frequencies of their own
        output = block(
            hidden_WTH,
            attention_mask=mask(self._config, index, hidden_WTH.shape[1], hidden_WTH.dtype, device),
            position_ids=positions,
            position_embeddings=self._rotary_on(device)(hidden_WTH, positions, *([kind] if own else [])),
            past_key_values=self.cache_peaks,
        )
        result: torch.Tensor = output[0] if isinstance(output, tuple) else output
        return result

    @torch.no_grad()
    def run_block(self, index: int, hidden_WTH: torch.Tensor, *, batch: int = 4) -> torch.Tensor:
        """Load block `index`, run all windows through it in batches, drop it."""
        copies, batches = self.copies(self.load_block(index)), torch.split(hidden_WTH, batch)
        outputs = (self.forward(block, part) for block, part in zip(itertools.cycle(copies), batches, strict=False))
        result_WTH, start = torch.empty_like(hidden_WTH), 0
        for part in fetched(outputs, len(copies)):
            result_WTH[start : start + len(part)] = part
            start += len(part)
        return result_WTH

    def final_norm(self, device: torch.device = CPU) -> nn.Module:
        """The norm before the head, loaded at the first call and kept."""
        if CPU not in self._norms:
            self._norms[CPU] = copy.deepcopy(self._skeleton.model.norm)
            _fill(self._norms[CPU], self._source, FINAL_NORM.removesuffix("weight"))
        if device not in self._norms:
            self._norms[device] = on_device(self._norms[CPU], device)
        return self._norms[device]

    @torch.no_grad()
    def normed(self, hidden: torch.Tensor) -> torch.Tensor:
        """The input of the head: the final norm of [..., H], where that lies."""
        result: torch.Tensor = self.final_norm(hidden.device)(hidden)
        return result

    @torch.no_grad()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., H] → float32 [..., V]: final norm and head. The head's weights are kept after the first call."""
        return self.logits_with_gradient(hidden)

    def logits_with_gradient(self, hidden: torch.Tensor) -> torch.Tensor:
        """The same, recording gradients where torch is told to."""
        device = self.devices[0]
        if self._head_VH is None:
            self._head_VH = self._source.load(EMBEDDING if self.tied else HEAD).float().to(device)
            if isinstance(self._source, RoundsInputs):
                self._head_rounding = self._source.input_rounding(HEAD.removesuffix(".weight"))
        inputs = self.final_norm(device)(hidden.to(device))
        if self._head_rounding is not None:
            inputs = round_inputs(inputs, self._head_rounding)
        logits = differentiable_linear(inputs, self._head_VH).to(hidden.device)
        return logits if self._cap is None else torch.tanh(logits / self._cap) * self._cap

    def drop_head(self) -> None:
        """Let go of the head's weights, two thousand million bytes where the vocabulary is large."""
        self._head_VH = None

    def _rotary_on(self, device: torch.device) -> nn.Module:
        if device not in self._rotary:
            self._rotary[device] = on_device(self._rotary[CPU], device)
        return self._rotary[device]

    def before_cap(self, gradient: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """The gradient at the head's own output, from that at the `logits`, which some families cap."""
        return gradient if self._cap is None else gradient * (1 - (logits / self._cap).square())


def _skeleton(config: dict[str, Any], *, reduced: bool) -> Any:
    from_config = {key: value for key, value in config.items() if key not in ("quantization_config", "auto_map")}
    # transformers builds its model table while it is imported; the import stays here because it takes seconds
    import transformers

    kind = from_config.pop("model_type", None)
    if kind not in transformers.CONFIG_MAPPING:
        raise UnsupportedError(f"transformers {transformers.__version__} has no model of type {kind!r}")
    settings = transformers.AutoConfig.for_model(kind, **from_config)
    with torch.device("meta"):
        attention = implementation(settings, reduced=reduced)
        model = transformers.AutoModelForCausalLM.from_config(
            settings, attn_implementation=attention, dtype=torch.float32
        )
    if not hasattr(model, "model") or not hasattr(model.model, "rotary_emb"):
        raise UnsupportedError(f"models of type {kind!r} are not laid out as a decoder with rotary positions")
    family = FAMILIES.get(kind)
    if family is not None and family.experts is not None:
        for layer in model.model.layers:
            separate_experts(layer, family.experts)
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear
    return model.eval()


def _fill(module: nn.Module, source: WeightSource, prefix: str) -> None:
    weights = {}
    for name, empty in module.state_dict().items():
        tensor = source.load(prefix + name)
        if tensor.shape != empty.shape:
            raise InputError(
                f"`{prefix}{name}` has shape {tuple(tensor.shape)}, the config asks for {tuple(empty.shape)}"
            )
        weights[name] = tensor.float()
    module.load_state_dict(weights, assign=True)
    module.requires_grad_(False)
