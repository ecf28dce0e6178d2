"""The importance matrix of a float model: Σ x² of every input of every linear over the calibration windows.

The model runs as it is, in float32, one decoder block in memory at a time, beside the hidden states of all windows;
nothing is quantized. Sums are taken in
float64. The output head is counted too (llama-imatrix does so only with --process-output): its input is the final norm.

Not here: the file (formats/ggml/imatrix.py). Statistics of a model that is being quantized are taken on inputs that its
already quantized part produced (blocks.py), so they differ from these.
Dimension key: W windows · T tokens · H hidden · I inputs
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from bitwright.calibration.corpora import TokenWindows
from bitwright.core.errors import InputError
from bitwright.core.protocols import SILENT, Progress, WeightSource
from bitwright.facts.families import BLOCK, EMBEDDING, HEAD, gguf_name, gguf_tensor
from bitwright.formats.ggml.imatrix import Entry, ImportanceMatrix
from bitwright.modeling.walk import Walker

BATCH_TOKENS = 4096


def measure(source: WeightSource, windows: TokenWindows, *, progress: Progress = SILENT) -> ImportanceMatrix:
    """Run the model over all windows and count. Raises `InputError` when an activation is not finite."""
    walker = Walker(source)
    per_batch = max(1, BATCH_TOKENS // windows.tokens.shape[1])
    batches = list(walker.embed_batches(windows.tokens, per_batch))
    held: dict[str, list[_Sum]] = {}  # one, or one per expert
    progress.start("measuring inputs", walker.layers, "blocks")
    for index in range(walker.layers):
        block, prefix = walker.load_block(index), BLOCK.format(layer=index)
        groups = [group for group in walker.groups(index) if group.linears]
        sums: dict[str, _Sum] = {group.leader: _Sum() for group in groups}
        handles = [
            block.get_submodule(leader).register_forward_pre_hook(_counter(counted)) for leader, counted in sums.items()
        ]
        for number, part in enumerate(batches):
            batches[number] = walker.forward(block, part)
        for handle in handles:
            handle.remove()
        for group in groups:
            for module in group.modules:
                name = gguf_tensor(gguf_name(f"{prefix}{module}.weight", source.facts.family))
                held.setdefault(name, []).append(sums[group.leader])
        progress.advance()
    head = _Sum()
    for part in batches:
        head.add(walker.normed(part))
    held[gguf_name(EMBEDDING if walker.tied else HEAD, source.facts.family)] = [head]
    entries = {name: _entry(sums, name) for name, sums in held.items()}
    progress.stop()
    return ImportanceMatrix(
        entries=entries, datasets=(windows.name,), chunks=len(windows.tokens), chunk_size=windows.tokens.shape[1]
    )


class _Sum:
    """Σ x² of one input, and the rows that were counted."""

    def __init__(self) -> None:
        self.squares_I: torch.Tensor | float = 0.0
        self.rows = 0

    def add(self, inputs: torch.Tensor) -> None:
        rows_NI = inputs.reshape(-1, inputs.shape[-1])
        self.squares_I = self.squares_I + rows_NI.square().sum(dim=0, dtype=torch.float64)
        self.rows += len(rows_NI)


def _counter(counted: _Sum) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
    return lambda _module, args: counted.add(args[0])


def _entry(sums: list[_Sum], where: str) -> Entry:
    sums_EI = torch.stack([torch.as_tensor(part.squares_I) for part in sums])
    if not bool(torch.isfinite(sums_EI).all()):
        raise InputError(
            f"activations that enter `{where}` are not finite",
            hint="the checkpoint may be damaged; run it in transformers first",
        )
    counts_E = np.array([part.rows for part in sums], dtype=np.float32)
    return Entry(sums_EI=sums_EI.float().numpy(), counts_E=counts_E)
