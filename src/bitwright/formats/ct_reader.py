"""A compressed-tensors folder as a `WeightSource`, decoded by the library `compressed-tensors` and not by us.

A validation that read the artifact with our own code would share our mistakes. So the codes are unpacked and multiplied
by the library; scales are widened to float32 first, because the library computes in the scale's type and bf16 products
would add an error of the reader to the error of the artifact.

Only `pack-quantized` integers are read; other formats are refused by name. Shapes are distrusted before the library
sees them: it would take a wrong `weight_shape` at its word.

Not here: writing (compressed_tensors.py). Source: compressed-tensors 0.20, compressors/pack_quantized/base.py,
utils/match.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationConfig, QuantizationScheme
from compressed_tensors.utils.match import match_name

from bitwright.core.errors import InputError, UnsupportedError
from bitwright.core.plan import ModelFacts, TensorFacts
from bitwright.facts.checkpoint import CONFIG, Checkpoint, read_checkpoint
from bitwright.facts.model import facts_of
from bitwright.formats.packing import words_for
from bitwright.formats.safetensors_file import locate, read_tensor

FORMAT = "pack-quantized"
PACKED = ".weight_packed"
PARTS = ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point")
_DAMAGED = "the artifact is damaged, or config.json belongs to another one: quantize again"


class CompressedTensorsSource:
    """Weights of the artifact under Hugging Face names: packed matrices as float32, the others as stored.

    Raises `InputError` when config and tensors do not fit together, `UnsupportedError` for formats other than
    `pack-quantized`.
    """

    def __init__(self, folder: Path) -> None:
        checkpoint = read_checkpoint(folder)
        self._folder = folder
        self._config = {key: value for key, value in checkpoint.config.items() if key != "quantization_config"}
        self._settings = _settings(checkpoint.config.get("quantization_config"), folder / CONFIG)
        self._places = locate(folder, checkpoint.tensors)
        self._stored = {tensor.name: tensor for tensor in checkpoint.tensors}
        self._modules = [name.removesuffix(PACKED) for name in self._stored if name.endswith(PACKED)]
        self._schemes = {module: self._scheme(module) for module in self._modules}
        self._facts = facts_of(
            folder,
            Checkpoint(config=self._config, tensors=tuple(self._decoded()), fingerprint=checkpoint.fingerprint),
        )
        for tensor in self._facts.tensors:
            if tensor.name.removesuffix(".weight") in self._schemes:
                self._check_shapes(tensor.name.removesuffix(".weight"), tensor.shape)

    @property
    def facts(self) -> ModelFacts:
        """What the model is. `bytes` counts what is stored; a packed matrix has the dtype of its scales."""
        return self._facts

    @property
    def config(self) -> dict[str, Any]:
        """`config.json` without `quantization_config`."""
        return dict(self._config)

    def names(self) -> Iterable[str]:
        """All tensor names as a float checkpoint has them."""
        return tuple(tensor.name for tensor in self._facts.tensors)

    def load(self, name: str) -> torch.Tensor:
        """One tensor on the CPU. Raises `InputError` when it is absent, truncated, or not finite."""
        module = name.removesuffix(".weight")
        if module in self._schemes and name.endswith(".weight"):
            return self._decode(module)
        inside = name.rpartition(".")[0] in self._schemes and name.endswith(PARTS)
        if inside or name not in self._stored:
            raise InputError(f"`{self._folder}` has no tensor `{name}`")
        return self._read(name)

    def _read(self, name: str) -> torch.Tensor:
        return read_tensor(self._folder / self._stored[name].file, self._places[name])

    def _decode(self, module: str) -> torch.Tensor:
        scheme = self._schemes[module]
        state = {part: self._read(f"{module}.{part}") for part in _parts(scheme)}
        state["weight_scale"] = state["weight_scale"].float()
        decoded: torch.Tensor = BaseCompressor.get_value_from_registry(FORMAT).decompress(state, scheme)["weight"]
        return decoded.contiguous()

    def _scheme(self, module: str) -> QuantizationScheme:
        """The config group of a module: its own name first, then patterns, then the class name."""
        groups = self._settings.config_groups.values()
        ignored = any(match_name(module, target) for target in self._settings.ignore or [])
        named = [group for group in groups if any(match_name(module, target) for target in group.targets)]
        by_class = [group for group in groups if "Linear" in group.targets]
        if ignored or not (named or by_class):
            raise InputError(
                f"`{self._folder}` holds `{module}{PACKED}`, but {CONFIG} says that `{module}` is not quantized",
                hint=_DAMAGED,
            )
        scheme = (named or by_class)[0]
        missing = [f"{module}.{part}" for part in _parts(scheme) if f"{module}.{part}" not in self._stored]
        if missing:
            raise InputError(f"`{self._folder}` lacks `{missing[0]}`", hint=_DAMAGED)
        return scheme

    def _decoded(self) -> Iterable[TensorFacts]:
        """The tensors that a float checkpoint of this model would list, with the bytes that they take here."""
        for name, tensor in self._stored.items():
            module, _, part = name.rpartition(".")
            if module not in self._schemes or part not in PARTS:
                yield tensor
            elif part == "weight_packed":
                parts = [self._stored[f"{module}.{part}"] for part in _parts(self._schemes[module])]
                yield TensorFacts(
                    name=f"{module}.weight",
                    shape=self._shape(module),
                    dtype=self._stored[f"{module}.weight_scale"].dtype,
                    file=tensor.file,
                    bytes=sum(part.bytes for part in parts),
                )

    def _shape(self, module: str) -> tuple[int, ...]:
        stored = self._stored[f"{module}.weight_shape"]
        if stored.shape != (2,) or stored.dtype not in ("I64", "I32"):
            raise InputError(
                f"`{self._folder}`: `{module}.weight_shape` is {stored.dtype} {list(stored.shape)}, expected I64 [2]",
                hint=_DAMAGED,
            )
        return tuple(self._read(stored.name).tolist())

    def _check_shapes(self, module: str, shape: tuple[int, ...]) -> None:
        """Every part has the shape and type that (out, in) and the scheme give it."""
        weights = self._schemes[module].weights
        rows, columns = shape
        if weights.group_size and weights.group_size > 0 and columns % weights.group_size:
            raise InputError(
                f"`{self._folder}`: groups of {weights.group_size} do not divide the {columns} inputs of `{module}`",
                hint=_DAMAGED,
            )
        groups = columns // weights.group_size if weights.group_size and weights.group_size > 0 else 1
        expected = {
            "weight_packed": (("I32",), (rows, words_for(columns, weights.num_bits))),
            "weight_scale": (("BF16", "F16", "F32"), (rows, groups)),
            "weight_zero_point": (("I32",), (words_for(rows, weights.num_bits), groups)),
        }
        for part in _parts(self._schemes[module]):
            stored = self._stored[f"{module}.{part}"]
            if part in expected and (stored.dtype not in expected[part][0] or stored.shape != expected[part][1]):
                dtypes, wanted = expected[part]
                raise InputError(
                    f"`{self._folder}`: `{stored.name}` is {stored.dtype} {list(stored.shape)}, "
                    f"expected {' or '.join(dtypes)} {list(wanted)}",
                    hint=_DAMAGED,
                )


def _parts(scheme: QuantizationScheme) -> tuple[str, ...]:
    return PARTS[:3] if scheme.weights.symmetric else PARTS


def _settings(raw: object, where: Path) -> QuantizationConfig:
    """Parse and narrow `quantization_config`."""
    if not isinstance(raw, dict) or raw.get("quant_method") != "compressed-tensors":
        raise InputError(f"`{where}` describes no compressed-tensors artifact", hint=_DAMAGED)
    try:
        settings = QuantizationConfig.model_validate(raw)
    except ValueError as error:  # pydantic's ValidationError is one
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"`{where}`: compressed-tensors refuses its quantization_config: {reason}") from error
    for name, group in settings.config_groups.items():
        weights, form = group.weights, group.format or settings.format
        if form != FORMAT or weights is None or weights.type != "int" or weights.num_bits not in (4, 8):
            raise UnsupportedError(
                f"`{where}`: `{name}` is stored as {form}, expected {FORMAT} with 4 or 8 bit integers",
                hint="other formats of compressed-tensors are not read yet",
            )
        if weights.strategy not in ("group", "channel"):
            raise UnsupportedError(f"`{where}`: `{name}` has strategy {weights.strategy}, expected group or channel")
    return settings
