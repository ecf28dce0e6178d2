"""Float32 matrix products, on the CPU by the faster of the libraries that torch carries.

torch sends float32 products to MKL, which keeps to AVX2 on processors that are not Intel's; oneDNN, in the same build,
generates code for whatever the processor has. Same precision, another order of sums. On an AMD EPYC with AVX-512 a
product of 4096 × 768 by 768 × 1536 took 0.043 s with oneDNN and 0.099 s with MKL (docs/log.md, 2026-11-21).

`reduced` products round both factors and the result to bfloat16 and sum in float32, where the processor multiplies
bfloat16 itself: 0.023 s for the same product. Checkpoints are served in that precision; effort `fast` takes it.

On other devices products are torch's own.

The operator is the one that torch's own compiler emits for linear layers. Where a build lacks it, the ordinary product
is taken. Not here: what is multiplied, and threads.

Dimension key: O outputs · I inputs · N rows
"""

from __future__ import annotations

import functools
import platform
from typing import Any

import torch

X86 = platform.machine() in ("x86_64", "AMD64")
CPU = torch.device("cpu")
TENSOR_CORES = (8, 0)  # the first compute capability that multiplies bfloat16
TRANSPOSED_WEIGHTS = 1 << 26  # at once, 256 MiB: more than a decoder's matrices have, less than large vocabularies
PANEL = 384  # columns per product of `add_gram`: what lies left of the diagonal is not computed


def linear(
    inputs: torch.Tensor, weight_OI: torch.Tensor, bias_O: torch.Tensor | None = None, *, reduced: bool = False
) -> torch.Tensor:
    """inputs [..., I] times weightᵀ plus bias: [..., O]. Other dtypes and devices take torch's own path.

    bfloat16 inputs give bfloat16 outputs, whatever the weight's type.
    """
    if inputs.dtype == torch.bfloat16:
        return _narrow(inputs, weight_OI, bias_O)
    if inputs.device.type != "cpu" and reduced and has_bfloat16(inputs.device):
        return _narrow(inputs.bfloat16(), weight_OI, bias_O).float()
    if not (has_onednn() and inputs.dtype == weight_OI.dtype == torch.float32 and inputs.device.type == "cpu"):
        return torch.nn.functional.linear(inputs, weight_OI, bias_O)
    rows_NI = inputs.reshape(-1, inputs.shape[-1]).contiguous()
    if reduced and has_bfloat16():
        return _narrow(rows_NI.bfloat16(), weight_OI, bias_O).float().view(*inputs.shape[:-1], weight_OI.shape[0])
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows_NI, weight_OI, bias_O, "none", [], "")
    return product.view(*inputs.shape[:-1], weight_OI.shape[0])


def _narrow(inputs: torch.Tensor, weight_OI: torch.Tensor, bias_O: torch.Tensor | None) -> torch.Tensor:
    """bfloat16 [..., I] → bfloat16 [..., O], summed in float32."""
    bias_O = None if bias_O is None else bias_O.bfloat16()
    if not (has_onednn() and inputs.device.type == "cpu"):
        return torch.nn.functional.linear(inputs, weight_OI.bfloat16(), bias_O)
    rows_NI = inputs.reshape(-1, inputs.shape[-1]).contiguous()
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows_NI, weight_OI.bfloat16(), bias_O, "none", [], "")
    return product.view(*inputs.shape[:-1], weight_OI.shape[0])


class FrozenLinear(torch.autograd.Function):
    """`linear` with a gradient for its inputs alone: the weights are data here."""

    @staticmethod
    def forward(
        context: Any, inputs: torch.Tensor, weight_OI: torch.Tensor, bias_O: torch.Tensor | None
    ) -> torch.Tensor:
        """[..., I] → [..., O]."""
        context.weight_OI = weight_OI
        return linear(inputs, weight_OI, bias_O)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """[..., O] → [..., I]."""
        return _back(gradients[0], context.weight_OI), None, None


def _back(gradient: torch.Tensor, weight_OI: torch.Tensor) -> torch.Tensor:
    """gradient [..., O] times weight: [..., I]. A head is transposed some outputs at a time, for that takes a copy."""
    step = max(1, TRANSPOSED_WEIGHTS // weight_OI.shape[1])
    total = linear(gradient[..., :step], weight_OI[:step].T.contiguous())
    for start in range(step, len(weight_OI), step):
        part = slice(start, start + step)
        total += linear(gradient[..., part], weight_OI[part].T.contiguous())
    return total


def differentiable_linear(
    inputs: torch.Tensor, weight_OI: torch.Tensor, bias_O: torch.Tensor | None = None, *, reduced: bool = False
) -> torch.Tensor:
    """`linear`, recorded for a backward pass when the inputs ask for one."""
    if torch.is_grad_enabled() and inputs.requires_grad:
        recorded: torch.Tensor = FrozenLinear.apply(inputs, weight_OI, bias_O)  # type: ignore[no-untyped-call]
        return recorded
    return linear(inputs, weight_OI, bias_O, reduced=reduced)


class TrainableLinear(torch.autograd.Function):
    """`linear` with gradients for inputs and weights."""

    @staticmethod
    def forward(
        context: Any, inputs: torch.Tensor, weight_OI: torch.Tensor, bias_O: torch.Tensor | None
    ) -> torch.Tensor:
        """[..., I] → [..., O]."""
        context.save_for_backward(inputs, weight_OI)
        return linear(inputs, weight_OI, bias_O)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        """[..., O] → [..., I] and [O, I]."""
        inputs, weight_OI = context.saved_tensors
        to_NO, from_NI = (tensor.reshape(-1, tensor.shape[-1]) for tensor in (gradients[0], inputs))
        to_weight = linear(to_NO.T.contiguous(), from_NI.T.contiguous())
        return linear(gradients[0], weight_OI.T.contiguous()), to_weight, None


def trainable_linear(inputs: torch.Tensor, weight_OI: torch.Tensor, bias_O: torch.Tensor | None) -> torch.Tensor:
    """`linear`, recorded for a backward pass to weights too."""
    recorded: torch.Tensor = TrainableLinear.apply(inputs, weight_OI, bias_O)  # type: ignore[no-untyped-call]
    return recorded


def add_gram(upper_II: torch.Tensor, rows_NI: torch.Tensor, *, reduced: bool = False) -> None:
    """Add xᵀ x of float32 rows to the upper triangle of `upper_II`, in place; what lies below means nothing.

    bfloat16 rows are as good as `reduced` float32 ones, and half the bytes.
    """
    if reduced and has_bfloat16(rows_NI.device):
        rows_NI = rows_NI.bfloat16()
    columns_IN = rows_NI.T.contiguous()
    for start in range(0, len(columns_IN), PANEL):
        panel = slice(start, start + PANEL)
        upper_II[panel, start:] += linear(columns_IN[panel], columns_IN[start:])


def has_onednn() -> bool:
    """Whether this build has the operator."""
    available = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    return X86 and available and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@functools.cache
def has_bfloat16(device: torch.device = CPU) -> bool:
    """Whether the processor multiplies bfloat16 itself; elsewhere it would be slower than float32."""
    if device.type != "cpu":
        return device.type == "cuda" and torch.cuda.get_device_capability(device) >= TENSOR_CORES
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
