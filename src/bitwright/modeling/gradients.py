"""How much each token and each output of each linear matters to the model's own predictions: diagonal Fisher terms.

One backward pass of the cross-entropy, with labels drawn from the model's own distribution, gives g = ∂loss/∂y at the
output y of every linear. The second-order loss of an error E in its weights is ½ Σ_t Σ_o g_to² (E x_t)_o²; splitting g²
into a part per token and a part per output leaves two vectors per linear: weights of tokens for the Gram matrix
(all readers of one input share them), and weights of rows for comparing types under a byte budget.

The model is walked block by block in both directions: hidden states and gradients at block boundaries are kept by the
caller, a block is loaded, run forward again and differentiated. Memory is one block and one batch of activations with
their gradients, and at the head its weights and some logits.

Not here: where hidden states lie between the passes (pipeline/sensitivity.py), what is done with the weights.
Source: the diagonal Fisher information as in Dong et al. 2020, arXiv:1911.03852 (HAWQ-V2) and Kim et al. 2024,
arXiv:2306.07629 (SqueezeLLM, §4.1); one weight per token and input group is our own reduction (docs/log.md).
Dimension key: W windows · T tokens per window · H hidden · O outputs · V vocabulary · N tokens of all windows
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bitwright.facts.families import InputGroup
from bitwright.modeling.walk import Walker

HEAD_ROWS = 512  # positions whose logits are held at once


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BlockWeights:
    """Mean squared gradients of one block.

    `tokens` [N] per input group, in the order of the windows, averaged over outputs; `rows` [O] per linear, averaged
    over tokens; `squares` [I] per input group: the mean over tokens of the token's weight times the input squared.
    Means are over all tokens, and an expert's part of them is nothing for tokens that it did not see. Experts have no
    `tokens`: which they see may change while the block is quantized.
    """

    tokens: dict[InputGroup, NDArray[np.float32]]
    rows: dict[str, NDArray[np.float32]]
    squares: dict[InputGroup, NDArray[np.float32]]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HeadWeights:
    """The same at the output head: `tokens` [N], `rows` [V], `squares` [H]."""

    tokens: NDArray[np.float32]
    rows: NDArray[np.float32]
    squares: NDArray[np.float32]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingWeights:
    """Mean squared gradients at the embedding's output: `tokens` [N] over channels, `columns` [H] over tokens."""

    tokens: NDArray[np.float32]
    columns: NDArray[np.float32]


class EmbeddingSquares:
    """Sums of squared gradients at the input of the first block, which is `scale` times the embedding's rows."""

    def __init__(self, scale: float = 1.0) -> None:
        self._scale, self._tokens, self._columns_H = scale, list[torch.Tensor](), torch.zeros(1, dtype=torch.float64)

    def add(self, gradient_WTH: torch.Tensor) -> None:
        """Count the next windows in."""
        square_NH = (self._scale * gradient_WTH.reshape(-1, gradient_WTH.shape[-1])).square()
        self._tokens.append(square_NH.mean(dim=1))
        self._columns_H = self._columns_H + square_NH.sum(dim=0, dtype=torch.float64)

    def weights(self) -> EmbeddingWeights:
        """Of all windows that were counted."""
        tokens_N = torch.cat(self._tokens)
        columns_H = (self._columns_H / len(tokens_N)).float()
        return EmbeddingWeights(tokens=tokens_N.numpy(), columns=columns_H.numpy())


def head_gradients(
    walker: Walker, batches: Sequence[torch.Tensor], generator: torch.Generator, keep: Callable[[torch.Tensor], None]
) -> HeadWeights:
    """Weights at the head; `keep` is given the gradients at the last hidden states [W, T, H], batch by batch, of the
    sum over tokens of the cross-entropy."""
    tokens, rows_V, squares_H = [], torch.zeros(1), torch.zeros(1)
    for hidden_WTH in batches:
        flat_NH = hidden_WTH.reshape(-1, hidden_WTH.shape[-1])
        parts = []
        for part_NH in torch.split(flat_NH, HEAD_ROWS):
            with torch.enable_grad():
                leaf_NH = part_NH.detach().requires_grad_()
                logits_NV = walker.logits_with_gradient(leaf_NH)
                probabilities_NV = torch.softmax(logits_NV.detach(), dim=-1)
                labels_N = torch.multinomial(probabilities_NV, 1, generator=generator)
                gradient_NV = probabilities_NV.scatter_add_(1, labels_N, torch.full(labels_N.shape, -1.0))
                logits_NV.backward(gradient_NV)  # type: ignore[no-untyped-call]
            assert leaf_NH.grad is not None
            parts.append(leaf_NH.grad)
            square_NV = walker.before_cap(gradient_NV, logits_NV.detach()).square()
            tokens.append(square_NV.mean(dim=1))
            rows_V = rows_V + square_NV.sum(dim=0)
            squares_H = squares_H + (walker.normed(part_NH).square() * tokens[-1][:, None]).sum(dim=0)
        keep(torch.cat(parts).reshape(hidden_WTH.shape))
    tokens_N = torch.cat(tokens)
    count = len(tokens_N)
    return HeadWeights(tokens=tokens_N.numpy(), rows=(rows_V / count).numpy(), squares=(squares_H / count).numpy())


def block_gradients(
    walker: Walker,
    index: int,
    hidden: Iterable[torch.Tensor],
    gradients: Iterable[torch.Tensor],
    keep: Callable[[torch.Tensor], None],
) -> BlockWeights:
    """Carry gradients back through block `index`: its weights.

    `hidden` are the block's inputs and `gradients` those at its outputs, both [W, T, H] batch by batch; `keep` is given
    those at its inputs.
    """
    block = walker.load_block(index)
    measured = [group for group in walker.groups(index) if group.linears]
    running = {module: _Squares() for group in measured for module in group.modules}
    handles = [block.get_submodule(module).register_full_backward_hook(square) for module, square in running.items()]
    entered: dict[str, torch.Tensor] = {}

    def keeper(leader: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        return lambda _module, args: entered.__setitem__(leader, args[0].detach())

    handles += [block.get_submodule(group.leader).register_forward_pre_hook(keeper(group.leader)) for group in measured]
    squares = {group.name: torch.zeros(1) for group in measured}
    count = 0
    try:
        for inputs_WTH, gradient_WTH in zip(hidden, gradients, strict=True):
            with torch.enable_grad():
                leaf_WTH = inputs_WTH.detach().requires_grad_()
                outputs_WTH = walker.forward_with_gradient(block, leaf_WTH)
                outputs_WTH.backward(gradient_WTH)  # type: ignore[no-untyped-call]
            assert leaf_WTH.grad is not None
            keep(leaf_WTH.grad)
            count += inputs_WTH.shape[:-1].numel()
            for group in measured:
                inputs_NI = entered.pop(group.leader).flatten(0, -2)
                weights_N = torch.stack([running[module].latest for module in group.modules]).mean(dim=0)
                squares[group.name] = squares[group.name] + (inputs_NI.square() * weights_N[:, None]).sum(dim=0)
    finally:
        for handle in handles:
            handle.remove()
    tokens = {
        group.name: np.stack([running[module].tokens() for module in group.modules]).mean(axis=0)
        for group in measured
        if group.expert is None
    }
    return BlockWeights(
        tokens=tokens,
        rows={module: square.rows(count) for module, square in running.items()},
        squares={group.name: (squares[group.name] / count).numpy() for group in measured},
    )


class _Squares:
    """Backward hook of one linear: sums of squared gradients at its output, by token and by row."""

    def __init__(self) -> None:
        self._tokens: list[torch.Tensor] = []
        self._rows_O: torch.Tensor | None = None

    def __call__(
        self, _module: nn.Module, _inputs: tuple[torch.Tensor | None, ...], outputs: tuple[torch.Tensor | None, ...]
    ) -> None:
        gradient = outputs[0]
        assert gradient is not None
        square_NO = gradient.detach().reshape(-1, gradient.shape[-1]).square()
        self._tokens.append(square_NO.mean(dim=1))
        summed_O = square_NO.sum(dim=0)
        self._rows_O = summed_O if self._rows_O is None else self._rows_O + summed_O

    @property
    def latest(self) -> torch.Tensor:
        """The tokens of the batch before."""
        return self._tokens[-1]

    def tokens(self) -> NDArray[np.float32]:
        result: NDArray[np.float32] = torch.cat(self._tokens).numpy()
        return result

    def rows(self, count: int) -> NDArray[np.float32]:
        """Mean over `count` tokens."""
        assert self._rows_O is not None
        result: NDArray[np.float32] = (self._rows_O / count).numpy()
        return result
