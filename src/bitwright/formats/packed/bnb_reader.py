"""A bitsandbytes folder as a `WeightSource`, decoded by bitsandbytes.

The library is loaded when a matrix is decoded, because it is not needed for anything else and is no requirement of
ours. Its 4-bit kernel for AVX-512 processors takes the wrong block maxima where the inputs are a multiple of 16
and not of the block (0.50.2; docs/log.md), so a matrix is given to it as one row, and shaped afterwards.

Not here: writing (bnb_writer.py). Sources: bitsandbytes 0.50.2, functional.py QuantState.from_dict, dequantize_4bit and
int8_vectorwise_dequant; transformers 5.23, integrations/bitsandbytes.py.
"""

from __future__ import annotations

import importlib
import json
import logging
import math
from typing import Any

import torch

from bitwright.core.errors import EnvironmentFault
from bitwright.formats.packed.folder import PackedFolderSource

BLOCKS = (32, 64, 128, 256, 512, 1024, 2048, 4096)  # sizes that the library takes
NESTED_BLOCK = 256
STATE = ".quant_state.bitsandbytes__"
DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
MAX_STATE_BYTES = 1 << 16


class BitsandbytesSource(PackedFolderSource):
    """Weights of the artifact under Hugging Face names. Decoding raises `EnvironmentFault` without bitsandbytes."""

    def read_settings(self, settings: dict[str, Any]) -> None:
        flags = [
            any(settings.get(key) is True for key in (name, f"_{name}")) for name in ("load_in_4bit", "load_in_8bit")
        ]
        if flags[0] == flags[1]:
            raise self.refuse("quantization_config names neither or both of load_in_4bit and load_in_8bit")
        self._four = flags[0]
        self.marker = ".weight.absmax" if self._four else ".SCB"
        self._states: dict[str, dict[str, Any]] = {}

    def parts(self, module: str) -> list[str]:
        if not self._four:
            order = f"{module}.weight_format"
            return [f"{module}.weight", f"{module}.SCB", *([order] if order in self._stored else [])]
        weight = f"{module}.weight"
        names = [name for kind in ("nf4", "fp4") if (name := f"{weight}{STATE}{kind}") in self._stored]
        if len(names) != 1:
            raise self.refuse(f"`{weight}` has {len(names)} quant_state tensors, expected one of nf4 and fp4")
        parts = [weight, f"{weight}.absmax", f"{weight}.quant_map", names[0]]
        if f"{weight}.nested_absmax" in self._stored:
            parts += [f"{weight}.nested_absmax", f"{weight}.nested_quant_map"]
        return parts

    def shape(self, module: str) -> tuple[int, int]:
        if not self._four:
            return self._int8_shape(module)
        names = self.parts(module)
        state = self._state(module, names[3])
        rows, columns = state["shape"]
        count = rows * columns
        blocks = -(-count // state["blocksize"])
        nested = len(names) > 4
        self.expect(names[0], ("U8",), (-(-count // 2), 1))
        self.expect(names[1], ("U8",) if nested else ("F32",), (blocks,))
        self.expect(names[2], ("F32",), (16,))
        if nested:
            self.expect(names[4], ("F32",), (-(-blocks // state["nested_blocksize"]),))
            self.expect(names[5], ("F32",), (256,))
        return rows, columns

    def presented_dtype(self, module: str) -> str:
        if not self._four:
            return "F16"
        return DTYPES[self._state(module, self.parts(module)[3])["dtype"]]

    def decode(self, module: str) -> torch.Tensor:
        library = _library()
        if not self._four:
            codes, maxima = self.read(f"{module}.weight"), self.read(f"{module}.SCB")
            decoded: torch.Tensor = library.int8_vectorwise_dequant(codes, maxima)
            return decoded.float()
        names = self.parts(module)
        rows, columns = self.shape(module)
        parts = {name.removeprefix(f"{module}.weight."): self.read(name) for name in names[1:]}
        state = library.QuantState.from_dict(parts, device=torch.device("cpu"))
        state.dtype, state.shape = torch.float32, torch.Size((1, rows * columns))
        values: torch.Tensor = library.dequantize_4bit(self.read(names[0]), state)
        return values.reshape(rows, columns)

    def _int8_shape(self, module: str) -> tuple[int, int]:
        shape = self.stored(f"{module}.weight").shape if f"{module}.weight" in self._stored else ()
        if len(shape) != 2:
            raise self.refuse(f"`{module}.weight` has shape {list(shape)}, expected a matrix")
        self.expect(f"{module}.weight", ("I8",), shape)
        self.expect(f"{module}.SCB", ("F32",), (shape[0],))
        order = f"{module}.weight_format"
        if order in self._stored:
            self.expect(order, ("U8",), ())
            if int(self.read(order)) != 0:
                raise self.refuse(f"`{order}` is {int(self.read(order))}, expected 0 (rows)", hint="save it anew")
        return shape[0], shape[1]

    def _state(self, module: str, name: str) -> dict[str, Any]:
        """The note beside a matrix, checked before anything is sized by it."""
        if module in self._states:
            return self._states[module]
        stored = self.stored(name)
        if stored.dtype != "U8" or stored.bytes > MAX_STATE_BYTES:
            raise self.refuse(f"`{name}` is {stored.dtype} with {stored.bytes} bytes, expected a short JSON text")
        try:
            state = json.loads(bytes(self.read(name).numpy()))
        except ValueError as error:
            raise self.refuse(f"`{name}` is no JSON: {error}") from error
        nested = f"{module}.weight.nested_absmax" in self._stored
        problem = _state_problem(state, name.rpartition("__")[2], nested)
        if problem:
            raise self.refuse(f"`{name}` has {problem}")
        self._states[module] = state
        return self._states[module]


def _state_problem(state: Any, kind: str, nested: bool) -> str | None:
    if not isinstance(state, dict):
        return "no JSON object"
    shape = state.get("shape")
    if not (isinstance(shape, list) and len(shape) == 2 and all(type(size) is int and size > 0 for size in shape)):
        return f"shape {shape}, expected two counts"
    expected: dict[str, tuple[Any, ...]] = {"quant_type": (kind,), "blocksize": BLOCKS, "dtype": tuple(DTYPES)}
    if nested:
        expected |= {"nested_blocksize": (NESTED_BLOCK,), "nested_dtype": ("float32",)}
        offset = state.get("nested_offset")
        if not (isinstance(offset, int | float) and math.isfinite(offset)):
            return f"nested_offset {offset}, expected a finite number"
    for key, values in expected.items():
        if state.get(key) not in values:
            return f"{key} {state.get(key)}, expected {' or '.join(map(str, values))}"
    return None


def _library() -> Any:
    # its remark on a missing optional kernel is not for users of ours
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        return importlib.import_module("bitsandbytes.functional")
    except ImportError as error:
        raise EnvironmentFault(
            f"decoding a bitsandbytes artifact needs the package bitsandbytes: {error}",
            hint="pip install 'bitwright[bitsandbytes]'",
        ) from error
