"""Small edits of artifacts: tensors of a safetensors file, bytes and keys of a GGUF file, settings beside them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]


def tensors(change: Callable[[Tensors], None]) -> Callable[[Path], None]:
    """An edit of a folder's tensors."""

    def edit(folder: Path) -> None:
        path = folder / "model.safetensors"
        held = load_file(path)
        change(held)
        save_file({name: value.contiguous() for name, value in held.items()}, path, metadata={"format": "pt"})

    return edit


def json_file(name: str, change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    """An edit of a small file."""

    def edit(folder: Path) -> None:
        held = json.loads((folder / name).read_text())
        change(held)
        (folder / name).write_text(json.dumps(held))

    return edit


def blocks(*names: str, size: int, change: Callable[..., None]) -> Callable[[Path], None]:
    """An edit of tensors of a GGUF file, given as uint8 [blocks, size]."""

    def edit(path: Path) -> None:
        found = {tensor.name: tensor for tensor in gguf.GGUFReader(path, "r").tensors}
        file = np.memmap(path, dtype=np.uint8, mode="r+")
        spans = [
            slice(int(found[name].data_offset), int(found[name].data_offset + found[name].n_bytes)) for name in names
        ]
        values = [file[span].copy().reshape(-1, size) for span in spans]
        change(*values)
        for span, value in zip(spans, values, strict=True):
            file[span] = value.reshape(-1)
        file.flush()

    return edit


def key(name: str, value: float | str) -> Callable[[Path], None]:
    """Another value of a key; a text is as long as the one before it, or is filled up with spaces."""

    def edit(path: Path) -> None:
        field = gguf.GGUFReader(path, "r+").fields[name]
        part = field.parts[field.data[0]]
        if isinstance(value, str):
            raw = value.encode().ljust(len(part))
            assert len(raw) == len(part), f"{name} has {len(part)} bytes"
            part[:] = np.frombuffer(raw, dtype=np.uint8)
        else:
            part[0] = value

    return edit


def swap_nibbles(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Low and high half of every byte exchanged."""
    return (values >> 4 | values << 4).astype(np.uint8)


def rows_in_order(name: str, heads: int, size: int) -> Callable[[Path], None]:
    """The rows of q or k of a GGUF file as Hugging Face has them."""

    def change(values: NDArray[np.uint8]) -> None:
        rows = heads * 64
        whole = values.reshape(rows, -1)
        order = np.arange(rows).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)
        values[:] = whole[order].reshape(values.shape)

    return blocks(name, size=size, change=change)
