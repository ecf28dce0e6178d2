"""What the readers of quantized folders share: headers, names, and the float tensors beside the packed ones.

A format says which tensors belong to one matrix (`parts`), what shape they come to (`shape`), and how they are decoded
(`decode`). Shapes and types are checked against each other before a byte is decoded, because a loader would take a
wrong one at its word. Decoding itself is a foreign library's wherever one runs on a processor: a validation that read
an artifact with the code that wrote it would share its mistakes.

Not here: the formats (gptq_reader.py, awq_reader.py, bnb_reader.py; compressed/reader.py reads compressed-tensors).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from bitwright.core.errors import InputError, UnsupportedError
from bitwright.core.plan import ModelFacts, TensorFacts
from bitwright.facts.checkpoint import CONFIG, Checkpoint, read_checkpoint
from bitwright.facts.model import facts_of
from bitwright.formats.folders.ranges import locate
from bitwright.formats.folders.safetensors_file import read_tensor

SETTINGS = "quantization_config"
DAMAGED = "the artifact is damaged, or config.json belongs to another one: quantize again"


class PackedFolderSource(ABC):
    """`WeightSource` of a quantized folder: packed matrices as float32, the other tensors as stored.

    Raises `InputError` when config and tensors do not fit together, `UnsupportedError` for what is not read here.
    """

    marker: str  # the last part of the name by which a packed matrix is known

    def __init__(self, folder: Path, *, settings: dict[str, Any] | None = None) -> None:
        checkpoint = read_checkpoint(folder)
        self._folder = folder
        self._config = {key: value for key, value in checkpoint.config.items() if key != SETTINGS}
        self._stored = {tensor.name: tensor for tensor in checkpoint.tensors}
        self._places = locate(folder, checkpoint.tensors)
        found = checkpoint.config.get(SETTINGS, settings)
        if not isinstance(found, dict):
            raise InputError(f"`{folder / CONFIG}` has no {SETTINGS}", hint=DAMAGED)
        self.read_settings(found)
        self._modules = [name.removesuffix(self.marker) for name in self._stored if name.endswith(self.marker)]
        self._parts = {module: self._existing_parts(module) for module in self._modules}
        self._owned = {name for parts in self._parts.values() for name in parts}
        decoded = Checkpoint(config=self._config, tensors=tuple(self._presented()), fingerprint=checkpoint.fingerprint)
        self._facts = facts_of(folder, decoded)
        if self._facts.vision is not None:
            raise self.unsupported(
                f"{self._facts.architecture} in this format is not read", hint="compressed-tensors is read"
            )

    @abstractmethod
    def read_settings(self, settings: dict[str, Any]) -> None:
        """Check and keep `quantization_config`."""

    @abstractmethod
    def parts(self, module: str) -> list[str]:
        """Names of the tensors that make up a matrix, the packed codes first."""

    @abstractmethod
    def shape(self, module: str) -> tuple[int, int]:
        """(outputs, inputs), after checking all parts. Raises `InputError`."""

    @abstractmethod
    def decode(self, module: str) -> torch.Tensor:
        """float32 [outputs, inputs]."""

    def presented_dtype(self, module: str) -> str:
        """The dtype that the decoded matrix counts as: that of its scales."""
        return "F16"

    @property
    def facts(self) -> ModelFacts:
        """What the model is. `bytes` counts what is stored."""
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
        if self.is_packed(name):
            return self.decode(name.removesuffix(".weight"))
        if name in self._owned or name not in self._stored:
            raise InputError(f"`{self._folder}` has no tensor `{name}`")
        return self.read(name)

    def is_packed(self, name: str) -> bool:
        """Whether a tensor under its Hugging Face name is quantized here."""
        return name.endswith(".weight") and name.removesuffix(".weight") in self._parts

    def read(self, name: str) -> torch.Tensor:
        """One stored tensor."""
        return read_tensor(self._folder / self._stored[name].file, self._places[name])

    def stored(self, name: str) -> TensorFacts:
        """Shape and type of a stored tensor."""
        return self._stored[name]

    def expect(self, name: str, dtypes: tuple[str, ...], shape: tuple[int, ...]) -> None:
        """Raise `InputError` unless a stored tensor has one of `dtypes` and `shape`."""
        found = self._stored[name]
        if found.dtype not in dtypes or found.shape != shape:
            raise InputError(
                f"`{self._folder}`: `{name}` is {found.dtype} {list(found.shape)}, "
                f"expected {' or '.join(dtypes)} {list(shape)}",
                hint=DAMAGED,
            )

    def refuse(self, what: str, *, hint: str = DAMAGED) -> InputError:
        """An `InputError` that names the folder."""
        return InputError(f"`{self._folder}`: {what}", hint=hint)

    def unsupported(self, what: str, *, hint: str) -> UnsupportedError:
        """An `UnsupportedError` that names the config."""
        return UnsupportedError(f"`{self._folder / CONFIG}`: {what}", hint=hint)

    def _existing_parts(self, module: str) -> list[str]:
        parts = self.parts(module)
        for name in parts:
            if name not in self._stored:
                raise InputError(f"`{self._folder}` lacks `{name}`", hint=DAMAGED)
        return parts

    def _presented(self) -> Iterable[TensorFacts]:
        """The tensors that a float checkpoint of this model would list, with the bytes that they take here."""
        leaders = {parts[0]: module for module, parts in self._parts.items()}
        for name, tensor in self._stored.items():
            if name in leaders:
                module = leaders[name]
                yield TensorFacts(
                    name=f"{module}.weight",
                    shape=self.shape(module),
                    dtype=self.presented_dtype(module),
                    file=tensor.file,
                    bytes=sum(self._stored[part].bytes for part in self._parts[module]),
                )
            elif name not in self._owned:
                yield tensor
