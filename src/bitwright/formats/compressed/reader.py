"""A compressed-tensors folder as a `WeightSource`, decoded by the library `compressed-tensors` and not by us.

A validation that read the artifact with our own code would share our mistakes. The source also says how the engine
rounds the inputs of each linear, because a verdict on the weights alone would flatter W8A8, FP8 and NVFP4.

Not here: values and shapes of one matrix (decode.py), writing (writer.py).
Source: compressed-tensors 0.20, utils/match.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme
from compressed_tensors.utils.match import match_name

from bitwright.core.errors import InputError, UnsupportedError, UsageError
from bitwright.core.plan import ModelFacts, TensorFacts
from bitwright.core.schemes import ActivationScheme, InputRounding
from bitwright.facts.checkpoint import CONFIG, Checkpoint, read_checkpoint
from bitwright.facts.model import facts_of
from bitwright.facts.vision import decoder_config
from bitwright.formats.compressed.decode import (
    DAMAGED,
    FLOAT_DTYPES,
    PACKED,
    check_parts,
    check_scheme,
    decode,
    holder,
    part_names,
)
from bitwright.formats.folders.ranges import locate
from bitwright.formats.folders.safetensors_file import read_tensor

HOLDERS = (".weight_packed", ".weight_scale")
PARTS = (
    "weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_global_scale", "input_global_scale",
    "input_scale", "input_zero_point", "weight_g_idx",
)  # fmt: skip


class CompressedTensorsSource:
    """Weights of the artifact under Hugging Face names: quantized matrices as float32, the others as stored.

    Raises `InputError` when config and tensors do not fit together, `UnsupportedError` for formats that are not read.
    """

    def __init__(self, folder: Path) -> None:
        checkpoint = read_checkpoint(folder)
        self._folder = folder
        config = {key: value for key, value in checkpoint.config.items() if key != "quantization_config"}
        self._config = decoder_config(config, [tensor.name for tensor in checkpoint.tensors])
        self._settings = _settings(checkpoint.config.get("quantization_config"), folder / CONFIG)
        self._places = locate(folder, checkpoint.tensors)
        self._stored = {tensor.name: tensor for tensor in checkpoint.tensors}
        modules = (name.rpartition(".")[0] for name in self._stored if name.endswith(HOLDERS))
        self._schemes = {module: self._scheme(module) for module in dict.fromkeys(modules)}
        self._facts = facts_of(
            folder,
            Checkpoint(config=config, tensors=tuple(self._decoded()), fingerprint=checkpoint.fingerprint),
        )
        self._names = {tensor.name: tensor.stored_name for tensor in self._facts.all_tensors}
        for tensor in self._facts.all_tensors:
            module = tensor.stored_name.removesuffix(".weight")
            if module in self._schemes:
                form, scheme = self._schemes[module]
                found = {part: self._stored[f"{module}.{part}"] for part in part_names(form, scheme)}
                seen = {part: (stored.dtype, stored.shape) for part, stored in found.items()}
                check_parts(form, scheme, tensor.shape, seen, module, folder)

    @property
    def facts(self) -> ModelFacts:
        """What the model is. `bytes` counts what is stored; a quantized matrix has the dtype of its scales."""
        return self._facts

    @property
    def config(self) -> dict[str, Any]:
        """`config.json` without `quantization_config`; of a vision-language model, its decoder's."""
        return dict(self._config)

    def names(self) -> Iterable[str]:
        """All tensor names of the decoder, as a float checkpoint has them."""
        return tuple(tensor.name for tensor in self._facts.tensors)

    def load(self, name: str) -> torch.Tensor:
        """One tensor on the CPU. Raises `InputError` when it is absent, truncated, or not finite."""
        name = self._names.get(name, name)
        module = name.removesuffix(".weight")
        if module in self._schemes and name.endswith(".weight"):
            form, scheme = self._schemes[module]
            state = {part: self._read(f"{module}.{part}") for part in part_names(form, scheme)}
            return decode(form, scheme, state, self._shape(module))
        inside = name.rpartition(".")[0] in self._schemes and name.endswith(PARTS)
        if inside or name not in self._stored:
            raise InputError(f"`{self._folder}` has no tensor `{name}`")
        return self._read(name)

    def input_rounding(self, module: str) -> InputRounding | None:
        """How the engine rounds the inputs of a linear. Raises `UnsupportedError` for ways that are not known here."""
        module = self._names.get(f"{module}.weight", module).removesuffix(".weight")
        if module not in self._schemes:
            return None
        _, scheme = self._schemes[module]
        if scheme.input_activations is None:
            return None
        inputs = _activations(scheme.input_activations, self._folder / CONFIG)
        if inputs.dynamic:
            return InputRounding(scheme=inputs)
        stored = self._read(f"{module}.{'input_global_scale' if inputs.scaling == 'nv' else 'input_scale'}")
        return InputRounding(scheme=inputs, scale=float(stored.float().reshape(())))

    def _read(self, name: str) -> torch.Tensor:
        return read_tensor(self._folder / self._stored[name].file, self._places[name])

    def _scheme(self, module: str) -> tuple[str, QuantizationScheme]:
        """Format and config group of a module: its own name first, then patterns, then the class name."""
        groups = self._settings.config_groups.values()
        ignored = any(match_name(module, target) for target in self._settings.ignore or [])
        named = [group for group in groups if any(match_name(module, target) for target in group.targets)]
        by_class = [group for group in groups if "Linear" in group.targets]
        if ignored or not (named or by_class):
            raise InputError(
                f"`{self._folder}` holds scales of `{module}`, but {CONFIG} says that `{module}` is not quantized",
                hint=DAMAGED,
            )
        scheme = (named or by_class)[0]
        form = str(scheme.format or self._settings.format)
        missing = [f"{module}.{part}" for part in part_names(form, scheme) if f"{module}.{part}" not in self._stored]
        if missing:
            raise InputError(f"`{self._folder}` lacks `{missing[0]}`", hint=DAMAGED)
        return form, scheme

    def _decoded(self) -> Iterable[TensorFacts]:
        """The tensors that a float checkpoint of this model would list, with the bytes that they take here."""
        floats = [tensor.dtype for tensor in self._stored.values() if tensor.dtype in FLOAT_DTYPES]
        for name, tensor in self._stored.items():
            module, _, part = name.rpartition(".")
            if module not in self._schemes or (part not in PARTS and part != "weight"):
                yield tensor
                continue
            form, scheme = self._schemes[module]
            if part == holder(form):
                parts = [self._stored[f"{module}.{part}"] for part in part_names(form, scheme)]
                scale = self._stored[f"{module}.weight_scale"].dtype
                yield TensorFacts(
                    name=f"{module}.weight",
                    shape=self._shape(module),
                    dtype=scale if scale in FLOAT_DTYPES else (floats[0] if floats else "BF16"),
                    file=tensor.file,
                    bytes=sum(part.bytes for part in parts),
                )

    def _shape(self, module: str) -> tuple[int, ...]:
        form, _ = self._schemes[module]
        codes = self._stored[f"{module}.{holder(form)}"]
        if form != PACKED:
            if len(codes.shape) != 2:
                raise InputError(f"`{self._folder}`: `{codes.name}` is {list(codes.shape)}, expected a matrix")
            rows, columns = codes.shape
            return (rows, columns) if holder(form) == "weight" else (rows, 2 * columns)
        stored = self._stored[f"{module}.weight_shape"]
        if stored.shape != (2,) or stored.dtype not in ("I64", "I32"):
            raise InputError(
                f"`{self._folder}`: `{module}.weight_shape` is {stored.dtype} {list(stored.shape)}, expected I64 [2]",
                hint=DAMAGED,
            )
        return tuple(self._read(stored.name).tolist())


def _activations(args: QuantizationArgs, where: Path) -> ActivationScheme:
    """The library's words for rounded activations in ours."""
    element = {("int", 8): "int8", ("float", 8): "e4m3", ("float", 4): "e2m1"}.get((args.type, args.num_bits))
    per = {
        "tensor": "tensor",
        "token": "token",
        "tensor_group": "nv",
        "group": "mx" if args.group_size == 32 else "group",
    }
    known = (
        element is not None and args.symmetric and args.strategy in per and args.group_size in (None, -1, 16, 32, 128)
    )
    try:
        if known:
            return ActivationScheme(
                element=element,  # type: ignore[arg-type]  # one of the three above
                scaling=per[args.strategy],  # type: ignore[arg-type]
                dynamic=args.dynamic is True,
            )
        raise UsageError("unknown")
    except UsageError as error:
        raise UnsupportedError(
            f"`{where}`: activations of {args.num_bits} bits ({args.type}, per {args.strategy}, "
            f"dynamic {args.dynamic}, symmetric {args.symmetric}) are not read here",
            hint="known: int8 or e4m3 per token or static per tensor, e4m3 per 128 inputs, NVFP4, MX",
        ) from error


def _settings(raw: object, where: Path) -> QuantizationConfig:
    """Parse and narrow `quantization_config`."""
    if not isinstance(raw, dict) or raw.get("quant_method") != "compressed-tensors":
        raise InputError(f"`{where}` describes no compressed-tensors artifact", hint=DAMAGED)
    try:
        settings = QuantizationConfig.model_validate(raw)
    except ValueError as error:  # pydantic's ValidationError is one
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"`{where}`: compressed-tensors refuses its quantization_config: {reason}") from error
    for name, group in settings.config_groups.items():
        check_scheme(name, group.format or settings.format, group, where)
    return settings
