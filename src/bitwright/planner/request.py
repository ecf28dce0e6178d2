"""What a person asked for, checked, before anything is decided. `None` means: decide for me.

Not here: the decisions (decide.py).
"""

from __future__ import annotations

import dataclasses
import re
from typing import cast, get_args

from bitwright.core.errors import UnsupportedError, UsageError, did_you_mean
from bitwright.core.plan import USE_CASES, ArtifactFormat, Effort, Method, UseCase
from bitwright.core.schemes import GGML_FLOATS, INT_BITS, FloatDtype, FloatScheme, IntScheme
from bitwright.facts.compressed_types import COMPRESSED_TYPES, LinearScheme
from bitwright.facts.float_folders import FLOAT_FOLDERS, TYPES, float_folder_type
from bitwright.facts.folder_types import (
    BITSANDBYTES_TYPES,
    INTEGER_FOLDERS,
    FolderScheme,
    bitsandbytes_type,
    integer_folder,
)
from bitwright.facts.gguf_mixtures import PRESETS

FORMATS: tuple[str, ...] = get_args(ArtifactFormat)
METHODS: tuple[str, ...] = get_args(Method)
EFFORTS: tuple[str, ...] = get_args(Effort)
DEFAULT_BITS = 4
INTEGER_TYPES = tuple(f"W{bits}A16" for bits in INT_BITS)
_LABEL = re.compile(r"W(\d+)A16(?: (?:g(\d+)|(channel)) (sym|asym))?")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A checked request. `preset` or `scheme` is set when the person named the type; `name` where it has one."""

    use_case: UseCase
    format: ArtifactFormat | None
    preset: str | None
    scheme: LinearScheme | FolderScheme | FloatScheme | None
    name: str | None
    method: Method | None
    effort: Effort
    group_size: int | None
    symmetric: bool


def check_request(
    *,
    use_case: str,
    format: str | None,
    type: str | None,
    method: str | None,
    effort: str = "balanced",
    bits: int | None,
    group_size: int | None,
    symmetric: bool,
) -> Request:
    """Check words against words: raises `UsageError` or `UnsupportedError` for an unknown or contradictory one."""
    _check_words(use_case, format, method, effort)
    other = _of_other(
        format, type, bits, use_case=use_case, method=method, effort=effort, group_size=group_size, symmetric=symmetric
    )
    if other is not None:
        return other
    label = _LABEL.fullmatch(type) if type is not None else None
    # MXFP4 is a type of both formats: of GGUF, which runs on every device, unless the other is named
    name = type if type in COMPRESSED_TYPES and (type not in PRESETS or format == "compressed-tensors") else None
    preset = type if type is not None and label is None and name is None else None
    if preset is not None:
        _check_preset(preset, format)
    if (label is not None or name is not None) and format == "gguf":
        raise UsageError(f"`{type}` is no GGUF type", hint=f"known: {', '.join(PRESETS)}")
    if bits is not None and (format == "gguf" or preset is not None):
        raise UsageError("bits are not chosen in GGUF", hint=f"name a type instead: {', '.join(PRESETS)}")
    if bits is not None and name is not None:
        raise UsageError(f"`{name}` has its bits in its name", hint="leave --bits away")
    if label is not None and bits not in (None, int(label[1])):
        raise UsageError(f"`{type}` and {bits} bits contradict each other", hint="give one of them")
    scheme: LinearScheme | None = None
    if name is not None:
        scheme = COMPRESSED_TYPES[name]
    elif label is not None:
        scheme = _labelled(label, group_size, symmetric)
    elif format == "compressed-tensors" or bits is not None:
        scheme = IntScheme(bits=bits or DEFAULT_BITS, group_size=group_size, symmetric=symmetric)
    decided = "gguf" if preset is not None else "compressed-tensors" if scheme is not None else format
    return Request(
        use_case=cast(UseCase, use_case),
        format=cast("ArtifactFormat | None", decided),
        preset=preset,
        scheme=scheme,
        name=name,
        method=cast("Method | None", method),
        effort=cast(Effort, effort),
        group_size=group_size,
        symmetric=symmetric,
    )


def _check_preset(preset: str, format: str | None) -> None:
    """Whether a name that is no type of other formats is a mixture of GGUF."""
    if format == "compressed-tensors":
        raise UsageError(
            f"`{preset}` is no compressed-tensors type", hint="use --bits and --group-size, or --format gguf"
        )
    if preset not in PRESETS:
        raise UnsupportedError(
            f"type `{preset}` is not supported",
            hint=did_you_mean(preset, [*PRESETS, *INTEGER_TYPES, *COMPRESSED_TYPES, *BITSANDBYTES_TYPES]),
        )


def _of_other(
    format: str | None, type: str | None, bits: int | None, *, use_case: str, method: str | None, effort: str,
    group_size: int | None, symmetric: bool,
) -> Request | None:  # fmt: skip
    """A request for a format that is neither GGUF nor compressed-tensors, or `None`."""
    if format is None and type in BITSANDBYTES_TYPES:
        format = "bitsandbytes"
    if format in FLOAT_FOLDERS:
        return _of_float_folder(format, type, bits, use_case=use_case, method=method, effort=effort)
    if format == "safetensors":
        return _of_floats(type, use_case=use_case, method=method, effort=effort)
    if type in BITSANDBYTES_TYPES or format in (*INTEGER_FOLDERS, "bitsandbytes"):
        return _of_folder(
            str(format), type, bits, use_case=use_case, method=method, effort=effort, group_size=group_size,
            symmetric=symmetric,
        )  # fmt: skip
    return None


def _of_float_folder(
    format: ArtifactFormat, type: str | None, bits: int | None, *, use_case: str, method: str | None, effort: str
) -> Request:
    """A request for an fp8 or ModelOpt folder."""
    name = float_folder_type(format, type, bits)
    return Request(
        use_case=cast(UseCase, use_case), format=format, preset=None, scheme=TYPES[format][name], name=name,
        method=cast("Method | None", method), effort=cast(Effort, effort), group_size=None, symmetric=True,
    )  # fmt: skip


def _of_floats(type: str | None, *, use_case: str, method: str | None, effort: str) -> Request:
    """A request for a checkpoint in another floating-point type."""
    scheme = float_scheme(type)
    if method not in (None, "rtn"):
        raise UsageError(f"a cast to {type} has no codes for `{method}` to choose", hint="leave --method away")
    return Request(
        use_case=cast(UseCase, use_case), format="safetensors", preset=None,
        scheme=scheme, name=type, method="rtn", effort=cast(Effort, effort),
        group_size=None, symmetric=True,
    )  # fmt: skip


def _of_folder(
    format: str, type: str | None, bits: int | None, *, use_case: str, method: str | None, effort: str,
    group_size: int | None, symmetric: bool,
) -> Request:  # fmt: skip
    """A request for a format of other tools."""
    name: str | None = None
    scheme: FolderScheme
    if format == "bitsandbytes":
        name = bitsandbytes_type(type, bits)
        scheme = BITSANDBYTES_TYPES[name]
        if method not in (None, "rtn"):
            raise UsageError(
                f"bitsandbytes has its own rounding, which `{method}` would not keep", hint="leave --method away"
            )
        method = "rtn"
    elif format in INTEGER_FOLDERS:
        label = _LABEL.fullmatch(type) if type is not None else None
        if type is not None and label is None:
            raise UsageError(f"`{type}` is no {format} type", hint="use --bits and --group-size")
        if label is not None and bits is not None and int(label[1]) != bits:
            raise UsageError(f"`{type}` and {bits} bits contradict each other", hint="give one of them")
        wanted = IntScheme(bits=bits or DEFAULT_BITS, group_size=group_size, symmetric=symmetric)
        if label is not None:
            wanted = _labelled(label, group_size, symmetric)
        format, scheme = integer_folder(format, wanted)
    else:
        raise UsageError(f"`{type}` is a bitsandbytes type, not one of {format}", hint="use --format bitsandbytes")
    return Request(
        use_case=cast(UseCase, use_case), format=cast(ArtifactFormat, format), preset=None, scheme=scheme, name=name,
        method=cast("Method | None", method), effort=cast(Effort, effort), group_size=group_size, symmetric=symmetric,
    )  # fmt: skip


def linear_scheme(name: str, group_size: int | None, symmetric: bool) -> LinearScheme:
    """The scheme of a compressed-tensors type by its name. Raises `UsageError` for one that is not known."""
    label = _LABEL.fullmatch(name)
    if label is not None:
        return _labelled(label, group_size, symmetric)
    if name not in COMPRESSED_TYPES:
        raise UsageError(
            f"`{name}` is no compressed-tensors type", hint=did_you_mean(name, [*INTEGER_TYPES, *COMPRESSED_TYPES])
        )
    return COMPRESSED_TYPES[name]


def float_scheme(name: str | None) -> FloatScheme:
    """The scheme of a floating-point type by its name. Raises `UsageError` for one that is none."""
    if name not in GGML_FLOATS:
        what = "no type was named" if name is None else f"`{name}` is no floating-point type"
        raise UsageError(
            f"{what}: a plain safetensors folder holds floats", hint=f"use --type {' or '.join(GGML_FLOATS)}"
        )
    return FloatScheme(dtype=cast(FloatDtype, name.lower()))


def _labelled(label: re.Match[str], group_size: int | None, symmetric: bool) -> IntScheme:
    """`W4A16` takes group and symmetry from the flags, `W4A16 g128 sym` names them."""
    bits, group, channel, sign = label.groups()
    if sign is not None:
        group_size = None if channel else int(group)
        symmetric = sign == "sym"
    return IntScheme(bits=int(bits), group_size=group_size, symmetric=symmetric)


def _check_words(use_case: str, format: str | None, method: str | None, effort: str) -> None:
    _known("use case", use_case, list(USE_CASES))
    if format is not None:
        _known("format", format, list(FORMATS))
    if method is not None:
        _known("method", method, list(METHODS))
    _known("effort", effort, list(EFFORTS))


def _known(what: str, name: str, names: list[str]) -> None:
    if name not in names:
        raise UsageError(f"unknown {what} `{name}`", hint=did_you_mean(name, names))
