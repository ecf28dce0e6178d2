"""A float checkpoint as a `WeightSource`: one Hugging Face folder, single file or shards, read tensor by tensor.

Memory is one tensor plus the headers, whatever the size of the model: every load reads one range of one file and keeps
nothing open.

Not here: headers and config, and the checks on them (facts/), the container (folders/safetensors_file.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from bitwright.core.errors import InputError
from bitwright.core.plan import ModelFacts
from bitwright.facts.checkpoint import read_checkpoint
from bitwright.facts.model import facts_of
from bitwright.facts.vision import decoder_config
from bitwright.formats.folders.ranges import StoredTensor, locate
from bitwright.formats.folders.safetensors_file import read_rows, read_tensor


class CheckpointSource:
    """Weights of a float checkpoint in their stored types.

    Raises `InputError` when the folder is no sound checkpoint; headers are read at once, weights on `load`.
    """

    def __init__(self, folder: Path) -> None:
        checkpoint = read_checkpoint(folder)
        self._folder = folder
        self._config = decoder_config(checkpoint.config, [tensor.name for tensor in checkpoint.tensors])
        self._facts = facts_of(folder, checkpoint)
        self._places = locate(folder, checkpoint.tensors)
        self._tensors = {tensor.name: tensor for tensor in self._facts.all_tensors}

    @property
    def facts(self) -> ModelFacts:
        """What the model is."""
        return self._facts

    @property
    def config(self) -> dict[str, Any]:
        """`config.json`; of a vision-language model, its decoder's."""
        return dict(self._config)

    def names(self) -> Iterable[str]:
        """All tensor names of the decoder, in file order."""
        return tuple(tensor.name for tensor in self._facts.tensors)

    def load(self, name: str) -> torch.Tensor:
        """One tensor on the CPU. Raises `InputError` when it is absent, truncated or not finite."""
        return read_tensor(*self._place(name))

    def load_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows `start` to `stop` of one tensor. Raises `InputError` as `load` does."""
        return read_rows(*self._place(name), start, stop)

    def _place(self, name: str) -> tuple[Path, StoredTensor]:
        if name not in self._tensors:
            raise InputError(f"`{self._folder}` has no tensor `{name}`")
        tensor = self._tensors[name]
        return self._folder / tensor.file, self._places[tensor.stored_name]
