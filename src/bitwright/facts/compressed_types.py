"""Types of compressed-tensors that have a name of their own: their schemes, and what vLLM makes of them.

Names are those of compressed-tensors' presets where there is one. Integers with 16-bit activations have labels instead
of names (W4A16 g128 sym). Not here: choosing a type (planner/decide.py).
Source: compressed-tensors 0.20, quantization/quant_scheme.py; the rows of compressed_types.toml name theirs.
"""

from __future__ import annotations

import functools

from bitwright.core.documents import Record
from bitwright.core.schemes import ActivationScheme, IntScheme, MinifloatScheme
from bitwright.facts.rows import read_rows

LinearScheme = IntScheme | MinifloatScheme


class CompressedType(Record, frozen=True, kw_only=True):
    """A row. Compute capabilities are NVIDIA's, as `major.minor`."""

    name: str
    least: str
    native: str
    source: str
    below: str = ""
    last: int | None = None
    note: str = ""


class Width(Record, frozen=True, kw_only=True):
    """What to know of integer widths."""

    bits: tuple[int, ...]
    note: str
    source: str


# It asks the library for the shapes, which are those of zero points before they are packed (docs/reference/cells.md).
ZERO_POINTS = "transformers 5.23 with compressed-tensors 0.20 refuses zero points; vLLM loads them"
FP8_TOKEN = ActivationScheme(element="e4m3", scaling="token")
MX_INPUTS = ActivationScheme(element="e2m1", scaling="mx")
COMPRESSED_TYPES: dict[str, LinearScheme] = {
    "FP8_DYNAMIC": MinifloatScheme(element="e4m3", scaling="channel", activations=FP8_TOKEN),
    "FP8": MinifloatScheme(
        element="e4m3",
        scaling="tensor",
        activations=ActivationScheme(element="e4m3", scaling="tensor", dynamic=False),
    ),
    "FP8_BLOCK": MinifloatScheme(
        element="e4m3", scaling="block", activations=ActivationScheme(element="e4m3", scaling="group")
    ),
    "W8A8": IntScheme(bits=8, group_size=None, activations=ActivationScheme(element="int8", scaling="token")),
    "W8A8_STATIC": IntScheme(
        bits=8, group_size=None, activations=ActivationScheme(element="int8", scaling="tensor", dynamic=False)
    ),
    "W4AFP8": IntScheme(bits=4, group_size=128, activations=FP8_TOKEN),
    "NVFP4": MinifloatScheme(
        element="e2m1",
        scaling="nv",
        activations=ActivationScheme(element="e2m1", scaling="nv", dynamic=False),
    ),
    "NVFP4A16": MinifloatScheme(element="e2m1", scaling="nv"),
    "MXFP4": MinifloatScheme(element="e2m1", scaling="mx", activations=MX_INPUTS),
    "MXFP4A16": MinifloatScheme(element="e2m1", scaling="mx"),
    "MXFP8": MinifloatScheme(element="e4m3", scaling="mx", activations=ActivationScheme(element="e4m3", scaling="mx")),
}


@functools.cache
def compressed_types() -> dict[str, CompressedType]:
    """By name."""
    return {row.name: row for row in read_rows("compressed_types.toml", "type", CompressedType)}


def engine_notes(name: str, scheme: LinearScheme, capability: tuple[int, int] | None) -> list[str]:
    """What a person should know of serving a type with vLLM, on a device of this compute capability (None: unknown)."""
    row = compressed_types().get(name)
    if row is None:
        widths = read_rows("compressed_types.toml", "width", Width)
        if not isinstance(scheme, IntScheme):
            return []
        found = [f"{name}: {width.note}" for width in widths if scheme.bits in width.bits]
        return found if scheme.symmetric else [*found, f"{name}: {ZERO_POINTS}"]
    notes = [f"{name}: {row.note}"] if row.note else []
    if capability is None:
        return notes
    reached = f"this device has {capability[0]}.{capability[1]}"
    if capability < _version(row.least):
        notes.append(f"vLLM loads {name} from compute capability {row.least} on; {reached}")
    elif capability < _version(row.native):
        notes.append(f"{name} needs compute capability {row.native} to be computed in, {reached}: {row.below}")
    elif row.last is not None and capability[0] > row.last:
        notes.append(
            f"vLLM has no kernel for {name} on compute capability {capability[0]}.{capability[1]}: use FP8_DYNAMIC"
        )
    return notes


def _version(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor)
