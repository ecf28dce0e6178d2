"""The doors between rooms that do not know each other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from bitwright.core.plan import ModelFacts
    from bitwright.core.schemes import InputRounding


class Progress(Protocol):
    """Tells a person how far a long step is. The command line draws it; tests and scripts pass `SILENT`."""

    def start(self, label: str, total: int | None, unit: str) -> None:
        """Begin a step of `total` units."""

    def advance(self, count: int = 1) -> None:
        """Count work as done."""

    def stop(self) -> None:
        """End the step."""

    def say(self, message: str) -> None:
        """One line of talk."""


class Silent:
    """A progress that says nothing."""

    def start(self, label: str, total: int | None, unit: str) -> None: ...
    def advance(self, count: int = 1) -> None: ...
    def stop(self) -> None: ...
    def say(self, message: str) -> None: ...


SILENT = Silent()


class WeightSource(Protocol):
    """Weights of one model under their Hugging Face names, one tensor at a time.

    A float checkpoint and every decoded artifact look the same through this door, so that one walker
    (`modeling/walk.py`) runs them all.
    """

    @property
    def facts(self) -> ModelFacts:
        """What the model is."""
        ...

    @property
    def config(self) -> dict[str, Any]:
        """The `config.json` that a transformers model is built from, without `quantization_config`."""
        ...

    def names(self) -> Iterable[str]:
        """All tensor names."""
        ...

    def load(self, name: str) -> Any:
        """The tensor as a torch tensor on the CPU: floats in their stored dtype, quantized weights as float32.

        Raises `InputError` when the tensor is absent, truncated or not finite.
        """
        ...


@runtime_checkable
class ReadsRows(Protocol):
    """A `WeightSource` that reads some rows of a matrix without the others."""

    def load_rows(self, name: str, start: int, stop: int) -> Any:
        """Rows `start` to `stop` of the tensor that `load` would give. Raises `InputError` as `load` does."""
        ...


@runtime_checkable
class RoundsInputs(Protocol):
    """A `WeightSource` of an artifact whose engine rounds the inputs of linears too."""

    def input_rounding(self, module: str) -> InputRounding | None:
        """How the inputs of the linear `module` are rounded; `None`: not at all, or no such linear."""
        ...
