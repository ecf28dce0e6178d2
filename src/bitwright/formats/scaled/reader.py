"""What the readers of fp8 and ModelOpt folders share: a matrix is small floats and scales, one scheme for the model.

Values are computed by the library `compressed-tensors`, in float32, as every loader of these formats does before it
rounds to the type of the model: nibbles by its unpacking, products by its dequantization. The factor of NVFP4 is
multiplied into the local scales first, in ModelOpt's order.

Not here: what each config says (fp8_reader.py, modelopt_reader.py).
Source: compressed-tensors 0.20, quantization/lifecycle/forward.py; ModelOpt 0.47, quantization/qtensor/nvfp4_tensor.py.
"""

from __future__ import annotations

from typing import Any

import torch
from compressed_tensors.compressors.mx_utils import decompress_mx_scale
from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import dequantize

from bitwright.core.plan import ArtifactFormat, TensorPlan
from bitwright.core.schemes import FP8_BLOCK, MX_GROUP, NV_GROUP, InputRounding, MinifloatScheme
from bitwright.facts.packed_tensors import local_parts
from bitwright.formats.packed.folder import PackedFolderSource
from bitwright.formats.scaled.encode import BLOCK_SCALE, FACTOR, INPUT_SCALE, SCALE, matrix_of
from bitwright.tensors.qtensor import QTensor


class ScaledFloatSource(PackedFolderSource):
    """Weights of the artifact under Hugging Face names. A format sets `marker` and `_kind` in `read_settings`."""

    format: ArtifactFormat
    _kind: MinifloatScheme

    def parts(self, module: str) -> list[str]:
        return [f"{module}.{name}" for name in self._expected(module, 1, 1)]

    def shape(self, module: str) -> tuple[int, int]:
        codes = self.stored(f"{module}.weight")
        if len(codes.shape) != 2:
            raise self.refuse(f"`{codes.name}` is {list(codes.shape)}, expected a matrix")
        rows, columns = codes.shape[0], codes.shape[1] * (2 if self._kind.element == "e2m1" else 1)
        if self._kind.input_group is not None and columns % self._kind.input_group:
            raise self.refuse(f"groups of {self._kind.input_group} do not divide the {columns} inputs of `{module}`")
        for name, (dtype, shape) in self._expected(module, rows, columns).items():
            found = self.stored(f"{module}.{name}")
            loose = shape in ((), (1,)) and found.shape in ((), (1,))
            flat = self._kind.scaling == "channel" and found.shape == (rows, 1)
            dtypes = ("F32", "BF16", "F16") if dtype == "F32" else (dtype,)
            self.expect(found.name, dtypes, found.shape if loose or flat else shape)
        return rows, columns

    def presented_dtype(self, module: str) -> str:
        """That of the tensors beside it: scales are F32 in models of any type."""
        dtypes = [tensor.dtype for tensor in self._stored.values() if tensor.name.endswith("norm.weight")]
        return dtypes[0] if dtypes else "BF16"

    def decode(self, module: str) -> torch.Tensor:
        rows, columns = self.shape(module)
        state = self._state(module)
        codes = state["weight"].float() if self._kind.element == "e4m3" else None
        if codes is None:
            codes = unpack_fp4_from_uint8(state["weight"], rows, columns, dtype=torch.float32)
        bits = 4 if self._kind.element == "e2m1" else 8
        match self._kind.scaling:
            case "nv":
                scale = state[SCALE].float() * state[FACTOR].float()
                args = QuantizationArgs(num_bits=bits, type="float", strategy="group", group_size=NV_GROUP)
            case "mx":
                scale = decompress_mx_scale(state[SCALE].view(torch.uint8)).float()
                args = QuantizationArgs(num_bits=bits, type="float", strategy="group", group_size=MX_GROUP)
            case "block":
                scale = state[BLOCK_SCALE].float()
                blocks = [FP8_BLOCK, FP8_BLOCK]
                args = QuantizationArgs(num_bits=bits, type="float", strategy="block", block_structure=blocks)
            case "channel":
                scale = state[SCALE].float().reshape(-1, 1)
                args = QuantizationArgs(num_bits=bits, type="float", strategy="channel")
            case _:
                scale = state[SCALE].float().reshape(1)
                args = QuantizationArgs(num_bits=bits, type="float", strategy="tensor")
        return torch.as_tensor(dequantize(codes, scale, args=args, dtype=torch.float32)).contiguous()

    def input_rounding(self, module: str) -> InputRounding | None:
        """How the engine rounds the inputs of a linear."""
        inputs = self._kind.activations
        if inputs is None or module not in self._parts:
            return None
        if inputs.dynamic:
            return InputRounding(scheme=inputs)
        stored = float(self.read(f"{module}.{INPUT_SCALE}").float().reshape(()))
        return InputRounding(scheme=inputs, scale=1 / stored if inputs.scaling == "nv" else stored)

    def scheme(self, module: str) -> MinifloatScheme:
        """The scheme of every matrix."""
        return self._kind

    def codes(self, module: str, scheme: MinifloatScheme) -> QTensor:
        """What is stored, for `convert`. Unpacked by our own code."""
        return matrix_of(scheme, self._state(module))

    def _state(self, module: str) -> dict[str, Any]:
        return {name.removeprefix(f"{module}."): self.read(name) for name in self._parts[module]}

    def _expected(self, module: str, rows: int, columns: int) -> dict[str, tuple[str, tuple[int, ...]]]:
        entry = TensorPlan(
            name=f"{module}.weight", stored_name=module, shape=(rows, columns), scheme=self._kind, bytes=0, reason=""
        )
        return local_parts(entry, self.format)
