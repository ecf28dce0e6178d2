"""Weights of tokens and rows for every block, taken in the unquantized model before anything is rounded.

A forward pass leaves the hidden states at every block boundary in the work directory, in bfloat16, and goes on from
what it stored, so that an interrupted pass ends with the same figures; a backward pass consumes them from the last
block to the first. What is kept at the end is one small file per block.

Disk: layers * tokens * hidden * 2 bytes while it runs. Memory: one block, the hidden states of all windows twice.
Not here: the gradients themselves (modeling/gradients.py), their use (blocks.py).
Dimension key: W windows · T tokens · H hidden
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bitwright.core.protocols import Progress
from bitwright.modeling.gradients import (
    BlockWeights,
    EmbeddingWeights,
    HeadWeights,
    block_gradients,
    embedding_weights,
    head_gradients,
)
from bitwright.modeling.walk import Walker
from bitwright.pipeline.sealed import load_array, load_arrays, save_array, save_arrays

FOLDER = "gradients"
HEAD, EMBEDDING = "head.npz", "embedding.npz"
SEED = 7  # of the labels that the model draws for itself


class Sensitivities:
    """The finished weights in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def block(self, index: int) -> BlockWeights:
        """Weights of block `index`. Raises `MismatchError` when the file is lost or damaged."""
        arrays = _load_all(_block_path(self._folder, index))
        parts: dict[str, dict[str, NDArray[np.float32]]] = {"tokens": {}, "rows": {}, "squares": {}}
        for key, values in arrays.items():
            kind, _, name = key.partition(".")
            parts[kind][name] = values
        return BlockWeights(**parts)

    def head(self) -> HeadWeights:
        """Weights at the output head."""
        arrays = _load_all(self._folder / HEAD)
        return HeadWeights(tokens=arrays["tokens"], rows=arrays["rows"], squares=arrays["squares"])

    def embedding(self) -> EmbeddingWeights:
        """Weights at the embedding's output."""
        arrays = _load_all(self._folder / EMBEDDING)
        return EmbeddingWeights(tokens=arrays["tokens"], columns=arrays["columns"])


def take_sensitivities(
    work: Path, walker: Walker, tokens_WT: torch.Tensor, *, batch: int, progress: Progress
) -> Sensitivities:
    """Run both passes in `work`, or go on with them; finished ones are only opened. `batch` counts windows."""
    folder = work / FOLDER
    folder.mkdir(exist_ok=True)
    if not _block_path(folder, 0).exists():
        progress.start("weighing tokens", 2 * walker.layers + 1, "blocks")
        if not any(folder.glob("gradient-*.npy")):
            _forward(folder, walker, tokens_WT, batch, progress)
        else:
            progress.advance(walker.layers)
        _backward(folder, walker, batch, progress)
        progress.stop()
    return Sensitivities(folder)


def _forward(folder: Path, walker: Walker, tokens_WT: torch.Tensor, batch: int, progress: Progress) -> None:
    """Leave hidden-0000 … hidden-<layers>: the input of every block, and of the final norm."""
    begun = _newest(folder, "hidden")
    if begun is None:
        _save(folder / "hidden-0000.npy", walker.embed(tokens_WT))
        begun = 0
    progress.advance(begun)
    for index in range(begun, walker.layers):
        hidden_WTH = _load(folder / f"hidden-{index:04d}.npy")
        _save(folder / f"hidden-{index + 1:04d}.npy", walker.run_block(index, hidden_WTH, batch=batch))
        progress.advance()


def _backward(folder: Path, walker: Walker, batch: int, progress: Progress) -> None:
    """Turn hidden states into weights, last block first; gradient-<i> is the gradient at the input of block i."""
    found = sorted(folder.glob("gradient-*.npy"))
    if not found:
        last = folder / f"hidden-{walker.layers:04d}.npy"
        generator = torch.Generator().manual_seed(SEED)
        gradients, head = head_gradients(walker, torch.split(_load(last), batch), generator)
        save_arrays(folder / HEAD, {"tokens": head.tokens, "rows": head.rows, "squares": head.squares})
        _save(folder / f"gradient-{walker.layers:04d}.npy", torch.cat(gradients), exact=True)
        last.unlink()
        at = walker.layers
    else:
        at = _number(found[0])
    progress.advance(1 + walker.layers - at)
    for index in reversed(range(at)):
        path = folder / f"gradient-{index + 1:04d}.npy"
        hidden = torch.split(_load(folder / f"hidden-{index:04d}.npy"), batch)
        back, weights = block_gradients(walker, index, hidden, torch.split(_load(path), batch))
        if index == 0:
            embedding = embedding_weights(back, walker.embedding_scale)
            save_arrays(folder / EMBEDDING, {"tokens": embedding.tokens, "columns": embedding.columns})
        save_arrays(_block_path(folder, index), _named(weights))
        if index:
            _save(folder / f"gradient-{index:04d}.npy", torch.cat(back), exact=True)
        path.unlink()
        (folder / f"hidden-{index:04d}.npy").unlink()
        progress.advance()


def _named(weights: BlockWeights) -> dict[str, NDArray[np.float32]]:
    return {
        **{f"tokens.{group}": values for group, values in weights.tokens.items()},
        **{f"squares.{group}": values for group, values in weights.squares.items()},
        **{f"rows.{module}": values for module, values in weights.rows.items()},
    }


def _block_path(folder: Path, index: int) -> Path:
    return folder / f"block-{index:04d}.npz"


def _newest(folder: Path, kind: str) -> int | None:
    return max((_number(path) for path in folder.glob(f"{kind}-*.npy")), default=None)


def _number(path: Path) -> int:
    found = re.search(r"-(\d+)$", path.stem)
    assert found is not None, path
    return int(found[1])


def _save(path: Path, values: torch.Tensor, *, exact: bool = False) -> None:
    save_array(path, values.numpy() if exact else values.bfloat16().view(torch.int16).numpy())


def _load(path: Path) -> torch.Tensor:
    stored = torch.from_numpy(load_array(path, path.parent.parent))
    return stored.view(torch.bfloat16).float() if stored.dtype == torch.int16 else stored


def _load_all(path: Path) -> dict[str, NDArray[np.float32]]:
    return load_arrays(path, path.parent.parent)
