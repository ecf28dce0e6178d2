"""The importance matrix of a float model: Σ x² of every input of every linear over the calibration windows.

The model runs as it is, in float32, one decoder block in memory at a time; nothing is quantized. Sums are taken in
float64. The output head is counted too (llama-imatrix does so only with --process-output): its input is the final norm.

Not here: the file (formats/imatrix.py). Statistics of a model that is being quantized are taken on inputs that its
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
from bitwright.facts.families import BLOCK, EMBEDDING, HEAD, LINEARS, gguf_name
from bitwright.formats.imatrix import Entry, ImportanceMatrix
from bitwright.modeling.walk import Walker

BATCH_TOKENS = 4096


def measure(source: WeightSource, windows: TokenWindows, *, progress: Progress = SILENT) -> ImportanceMatrix:
    """Run the model over all windows and count. Raises `InputError` when an activation is not finite."""
    walker = Walker(source)
    hidden_WTH = walker.embed(windows.tokens)
    per_batch = max(1, BATCH_TOKENS // windows.tokens.shape[1])
    rows = windows.tokens.numel()
    entries: dict[str, Entry] = {}
    progress.start("measuring inputs", walker.layers, "blocks")
    for index in range(walker.layers):
        block, prefix = walker.load_block(index), BLOCK.format(layer=index)
        sums: dict[str, torch.Tensor] = {}
        handles = [
            block.get_submodule(modules[0]).register_forward_pre_hook(_counter(sums, modules[0]))
            for modules in LINEARS.values()
        ]
        hidden_WTH = torch.cat([walker.forward(block, part) for part in torch.split(hidden_WTH, per_batch)])
        for handle in handles:
            handle.remove()
        for modules in LINEARS.values():
            for module in modules:
                entries[gguf_name(f"{prefix}{module}.weight")] = _entry(sums[modules[0]], rows, prefix + module)
        progress.advance()
    head: dict[str, torch.Tensor] = {}
    for part in torch.split(hidden_WTH, per_batch):
        _add(head, "", walker.normed(part))
    entries[gguf_name(EMBEDDING if walker.tied else HEAD)] = _entry(head[""], rows, "the head")
    progress.stop()
    return ImportanceMatrix(
        entries=entries, datasets=(windows.name,), chunks=len(windows.tokens), chunk_size=windows.tokens.shape[1]
    )


def _counter(sums: dict[str, torch.Tensor], name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
    def count(_module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        _add(sums, name, args[0])

    return count


def _add(sums: dict[str, torch.Tensor], name: str, inputs: torch.Tensor) -> None:
    squares_I = inputs.reshape(-1, inputs.shape[-1]).square().sum(dim=0, dtype=torch.float64)
    sums[name] = sums[name] + squares_I if name in sums else squares_I


def _entry(sums_I: torch.Tensor, rows: int, where: str) -> Entry:
    if not bool(torch.isfinite(sums_I).all()):
        raise InputError(
            f"activations that enter `{where}` are not finite",
            hint="the checkpoint may be damaged; run it in transformers first",
        )
    return Entry(sums_EI=sums_I.float().numpy()[None], counts_E=np.array([rows], dtype=np.float32))
