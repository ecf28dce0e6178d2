"""Weights of tokens and rows for every block, taken in the unquantized model before anything is rounded.

A forward pass leaves the hidden states at every block boundary in the work directory, in bfloat16, and goes on from
what it stored, so that an interrupted pass ends with the same figures; a backward pass consumes them from the last
block to the first. What is kept at the end is one small file per block.

Disk: layers * tokens * hidden * 2 bytes while it runs, of gradients twice 4. Memory: one block and one batch.
Not here: the gradients themselves (modeling/gradients.py), their use (blocks.py).
Dimension key: W windows · T tokens · H hidden
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bitwright.core.protocols import Progress
from bitwright.modeling.gradients import (
    BlockWeights,
    EmbeddingSquares,
    EmbeddingWeights,
    HeadWeights,
    block_gradients,
    head_gradients,
)
from bitwright.modeling.walk import Walker
from bitwright.pipeline.hidden import StoredStates, writing_states
from bitwright.pipeline.sealed import check_seal, load_arrays, save_arrays

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
        _save(_hidden_path(folder, 0), len(tokens_WT), walker.embed_batches(tokens_WT, batch))
        begun = 0
    progress.advance(begun)
    for index in range(begun, walker.layers):
        block = walker.load_block(index)
        inputs = _open(_hidden_path(folder, index)).batches(batch, dtype=torch.float32)
        outputs = (walker.forward(block, part) for part in inputs)
        _save(_hidden_path(folder, index + 1), len(tokens_WT), outputs)
        progress.advance()


def _backward(folder: Path, walker: Walker, batch: int, progress: Progress) -> None:
    """Turn hidden states into weights, last block first; gradient-<i> is the gradient at the input of block i."""
    found = sorted(folder.glob("gradient-*.npy"))
    if not found:
        last = _hidden_path(folder, walker.layers)
        hidden, generator = _open(last), torch.Generator().manual_seed(SEED)
        with writing_states(_gradient_path(folder, walker.layers), hidden.windows, sealed=True) as writer:
            head = head_gradients(walker, hidden.batches(batch, dtype=torch.float32), generator, writer.add)
            save_arrays(folder / HEAD, {"tokens": head.tokens, "rows": head.rows, "squares": head.squares})
        walker.drop_head()
        last.unlink()
        at = walker.layers
    else:
        at = _number(found[0])
    progress.advance(1 + walker.layers - at)
    for index in reversed(range(at)):
        before, after = _gradient_path(folder, index), _gradient_path(folder, index + 1)
        hidden = _open(_hidden_path(folder, index))
        pairs = hidden.batches(batch, dtype=torch.float32), _open(after).batches(batch)
        if index == 0:
            squares = EmbeddingSquares(walker.embedding_scale)
            weights = block_gradients(walker, index, *pairs, squares.add)
            embedding = squares.weights()
            save_arrays(folder / EMBEDDING, {"tokens": embedding.tokens, "columns": embedding.columns})
            save_arrays(_block_path(folder, index), _named(weights))
        else:
            with writing_states(before, hidden.windows, sealed=True) as writer:
                weights = block_gradients(walker, index, *pairs, writer.add)
                save_arrays(_block_path(folder, index), _named(weights))
        after.unlink()
        _hidden_path(folder, index).unlink()
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


def _hidden_path(folder: Path, index: int) -> Path:
    return folder / f"hidden-{index:04d}.npy"


def _gradient_path(folder: Path, index: int) -> Path:
    return folder / f"gradient-{index:04d}.npy"


def _save(path: Path, windows: int, parts: Iterable[torch.Tensor]) -> None:
    """Hidden states, in bfloat16."""
    with writing_states(path, windows, sealed=True) as writer:
        for part in parts:
            writer.add(part.bfloat16())


def _open(path: Path) -> StoredStates:
    check_seal(path, path.parent.parent)
    return StoredStates(path)


def _load_all(path: Path) -> dict[str, NDArray[np.float32]]:
    return load_arrays(path, path.parent.parent)
