"""A GPTQ folder as a `WeightSource`: 2, 3, 4, 8 bits, version 1 and 2, in any order of columns.

Codes and zero points are unpacked by the library `compressed-tensors`, whose dense packing is the same stream of bits;
what remains is one product per weight, in float32: `scales[g_idx] * (q - z)`. Whole other decoders (AutoRound's,
GPTQModel's) need packages that clash with ours; tests/formats holds one written from the format's description.

In version 1 a stored zero point of all ones means 0 to readers that wrap and 2^b to those that do not. Such a file has
no agreed value, and is refused.

Not here: writing (gptq_writer.py). Sources: AutoGPTQ 0.7, qlinear_cuda_old.py; GPTQModel 7.7, utils/model.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32

from bitwright.core.errors import InputError
from bitwright.core.plan import ArtifactFormat
from bitwright.core.schemes import GROUP_SIZES, IntScheme
from bitwright.facts.checkpoint import read_config
from bitwright.formats.packed.folder import DAMAGED, SETTINGS, PackedFolderSource
from bitwright.formats.packed.gptq_packing import BITS, SIDE_CONFIG, VERSIONS, WORD, unpack
from bitwright.tensors.qtensor import QTensor


class GptqSource(PackedFolderSource):
    """Weights of the artifact under Hugging Face names."""

    marker = ".qweight"

    def __init__(self, folder: Path) -> None:
        self._bits_of: dict[str, int] = {}
        super().__init__(folder, settings=None if SETTINGS in read_config(folder) else _side_settings(folder))

    def read_settings(self, settings: dict[str, Any]) -> None:
        bits = settings.get("bits")
        if bits not in BITS:
            raise self.unsupported(f"{bits} bits, expected {', '.join(map(str, BITS))}", hint="quantize again")
        version = settings.get("checkpoint_format", settings.get("format", VERSIONS[0]))
        if version not in VERSIONS:
            raise self.unsupported(
                f"checkpoint_format `{version}`, expected {' or '.join(VERSIONS)}", hint="convert it to gptq_v2 first"
            )
        self.version: ArtifactFormat = "gptq" if version == VERSIONS[0] else "gptq_v2"
        self._first = version == VERSIONS[0]

    def parts(self, module: str) -> list[str]:
        names = [f"{module}.{part}" for part in ("qweight", "qzeros", "scales")]
        ordered = f"{module}.g_idx"
        return [*names, ordered] if ordered in self._stored else names

    def shape(self, module: str) -> tuple[int, int]:
        """Bits and inputs follow from the shapes together: words, groups of words, and outputs."""
        codes, zeros, scales = (self.stored(name) for name in self.parts(module)[:3])
        if len(codes.shape) != 2 or len(scales.shape) != 2 or len(zeros.shape) != 2 or not all(scales.shape):
            raise self.refuse(f"the parts of `{module}` are no matrices")
        rows, groups = codes.shape[1], scales.shape[0]
        bits = zeros.shape[1] * WORD // rows if rows else 0
        if bits not in BITS:
            raise self.refuse(f"`{zeros.name}` holds {bits} bits per output, expected {', '.join(map(str, BITS))}")
        columns = codes.shape[0] * WORD // bits
        self.expect(codes.name, ("I32",), (columns * bits // WORD, rows))
        self.expect(zeros.name, ("I32",), (groups, rows * bits // WORD))
        self.expect(scales.name, ("F16", "BF16", "F32"), (groups, rows))
        if len(self.parts(module)) == 4:
            self.expect(f"{module}.g_idx", ("I32", "I64"), (columns,))
        elif columns % groups:
            raise self.refuse(f"{groups} groups do not divide the {columns} inputs of `{module}`")
        self._bits_of[module] = bits
        return rows, columns

    def presented_dtype(self, module: str) -> str:
        return self.stored(f"{module}.scales").dtype

    def decode(self, module: str) -> torch.Tensor:
        rows, columns = self.shape(module)
        bits, half = self._bits_of[module], 1 << (self._bits_of[module] - 1)
        scales = self.read(f"{module}.scales").float()
        words, zero_words = self.read(f"{module}.qweight"), self.read(f"{module}.qzeros")
        codes = unpack_from_int32(words, bits, torch.Size((columns, rows)), packed_dim=0).int() + half
        zeros = unpack_from_int32(zero_words, bits, torch.Size(scales.shape), packed_dim=1).int() + half
        self._check_zeros(module, zeros.numpy(), bits)
        groups = self.groups(module, columns, len(scales))
        values: torch.Tensor = scales[groups] * (codes - (zeros + int(self._first))[groups]).float()
        return values.T.contiguous()

    def scheme(self, module: str) -> IntScheme | None:
        """The scheme, where ours has a word for it: groups of one size, in any order.

        Symmetric: every zero point in the middle.
        """
        _, columns = self.shape(module)
        groups = self.stored(f"{module}.scales").shape[0]
        size = columns // groups
        regular = np.arange(columns) // size
        if columns % groups or (groups > 1 and size not in GROUP_SIZES):
            return None
        stored = self.groups(module, columns, groups).numpy()
        ordered = not np.array_equal(stored, regular)
        if ordered and (np.bincount(stored, minlength=groups) != size).any():
            return None
        bits = self._bits_of[module]
        middle = (1 << (bits - 1)) - int(self._first)
        zeros = unpack(self.read(f"{module}.qzeros").numpy(), bits)
        return IntScheme(
            bits=bits, group_size=size if size in GROUP_SIZES else None, symmetric=bool((zeros == middle).all()),
            scale_dtype="f16", ordered=ordered,
        )  # fmt: skip

    def codes(self, module: str, scheme: IntScheme) -> QTensor:
        """The integers as they are stored, for `convert`. Unpacked by our own code."""
        bits, half = scheme.bits, 1 << (scheme.bits - 1)
        words = np.ascontiguousarray(self.read(f"{module}.qweight").numpy().T)
        fields: dict[str, Any] = {"scale": np.ascontiguousarray(self.read(f"{module}.scales").float().numpy().T)}
        if not scheme.symmetric:
            zeros = unpack(self.read(f"{module}.qzeros").numpy(), bits).astype(np.int16)
            self._check_zeros(module, zeros, bits)
            fields["zero_point"] = np.ascontiguousarray((zeros + int(self._first) - half).T).astype(np.int8)
        if scheme.ordered:
            columns, groups = words.shape[1] * WORD // bits, fields["scale"].shape[1]
            fields["group_index"] = self.groups(module, columns, groups).numpy().astype(np.int32)
        codes = (unpack(words, bits).astype(np.int16) - half).astype(np.int8)
        return QTensor(scheme=scheme, codes=codes, fields=fields)

    def groups(self, module: str, columns: int, count: int) -> torch.Tensor:
        """The group of every input. Raises `InputError` for one that has no scale."""
        if f"{module}.g_idx" not in self._stored:
            return torch.arange(columns) // (columns // count)
        groups = self.read(f"{module}.g_idx").long()
        if groups.numel() and not 0 <= int(groups.min()) <= int(groups.max()) < count:
            raise self.refuse(f"`{module}.g_idx` names group {int(groups.max())} of {count}")
        return groups

    def _check_zeros(self, module: str, zeros: np.ndarray[Any, Any], bits: int) -> None:
        count = int((zeros == (1 << bits) - 1).sum()) if self._first else 0
        if count:
            raise self.refuse(
                f"`{module}.qzeros` stores {count} zero points that version 1 of the format has no agreed value for",
                hint="loaders disagree on this file; write it as gptq_v2",
            )


def _side_settings(folder: Path) -> dict[str, Any]:
    """`quantize_config.json`, which older writers left beside a plain config."""
    path = folder / SIDE_CONFIG
    try:
        settings = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"`{path}` cannot be read: {error}", hint=DAMAGED) from error
    if not isinstance(settings, dict):
        raise InputError(f"`{path}` is no JSON object", hint=DAMAGED)
    return settings
