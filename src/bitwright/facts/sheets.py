"""The tables of this room as documents, whole or by name: what `bitwright facts` prints.

A name is an id, an alias, or the beginning of several ids.

Not here: the tables themselves, and what is drawn of them (cli/fact_tables.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

from bitwright.core.choices import ArtifactFormat
from bitwright.core.documents import Document, Record
from bitwright.core.errors import UsageError, nearest
from bitwright.core.schemes import GGML_FLOATS, INT_BITS
from bitwright.facts.catalogue import CatalogueRow, catalogue
from bitwright.facts.compressed_types import COMPRESSED_TYPES
from bitwright.facts.device_rows import HardwareRow, hardware_rows
from bitwright.facts.engine_flags import Endpoint, EngineFlag, Metric, endpoints, engine_flags, metrics
from bitwright.facts.engine_kernels import Kernel, Otherwise, Platform, engines_of, kernels, otherwise, platforms
from bitwright.facts.float_folders import TYPES as FLOAT_FOLDER_TYPES
from bitwright.facts.folder_types import BITSANDBYTES_TYPES, GPTQ_BITS
from bitwright.facts.gguf_mixtures import PRESETS
from bitwright.facts.rows import read_rows
from bitwright.facts.workloads import WorkloadRow, workloads

Topic = Literal["hardware", "engines", "models", "methods", "workloads"]
R = TypeVar("R")


class MethodRow(Record, frozen=True, kw_only=True):
    """One row of methods.toml."""

    name: str
    what: str
    types: str
    text: bool
    page: str
    source: str


class FormatTypes(Record, frozen=True, kw_only=True):
    """What `--type` knows in a format, and the engines of which something is known for it."""

    format: ArtifactFormat
    types: tuple[str, ...]
    engines: tuple[str, ...]


class EngineRows(Record, frozen=True, kw_only=True):
    """All about one engine; kernels in the order in which it looks for one."""

    engine: str
    endpoint: Endpoint | None
    kernels: tuple[Kernel, ...]
    otherwise: tuple[Otherwise, ...]
    platforms: tuple[Platform, ...]
    flags: tuple[EngineFlag, ...]
    metrics: tuple[Metric, ...]


class HardwareSheet(Document, frozen=True, kw_only=True):
    """Devices."""

    schema: str = "bitwright.facts.hardware/1"
    devices: tuple[HardwareRow, ...]


class EngineSheet(Document, frozen=True, kw_only=True):
    """Engines and their kernels."""

    schema: str = "bitwright.facts.engines/1"
    engines: tuple[EngineRows, ...]


class ModelSheet(Document, frozen=True, kw_only=True):
    """The catalogue of models."""

    schema: str = "bitwright.facts.models/1"
    models: tuple[CatalogueRow, ...]


class MethodSheet(Document, frozen=True, kw_only=True):
    """Methods, and the types of formats."""

    schema: str = "bitwright.facts.methods/1"
    methods: tuple[MethodRow, ...]
    formats: tuple[FormatTypes, ...]


class WorkloadSheet(Document, frozen=True, kw_only=True):
    """Loads, with what is counted where a person says nothing."""

    schema: str = "bitwright.facts.workloads/1"
    workloads: tuple[WorkloadRow, ...]


Sheet = HardwareSheet | EngineSheet | ModelSheet | MethodSheet | WorkloadSheet


def sheet(topic: str, name: str | None = None) -> Sheet:
    """The document of a topic, or its rows of one name. Raises `UsageError` for an unknown topic or name."""
    if topic not in SHEETS:
        raise UsageError(f"unknown topic `{topic}`", hint=nearest(topic, [*SHEETS], f"known: {', '.join(SHEETS)}"))
    return SHEETS[topic](name)


def _hardware(name: str | None) -> HardwareSheet:
    rows = [*hardware_rows().values()]
    return HardwareSheet(devices=_chosen("hardware", rows, lambda row: (row.id, *row.aliases), name))


def _models(name: str | None) -> ModelSheet:
    rows = [*catalogue().values()]
    return ModelSheet(models=_chosen("models", rows, lambda row: (row.id, *row.aliases), name))


def _workloads(name: str | None) -> WorkloadSheet:
    return WorkloadSheet(workloads=_chosen("workloads", [*workloads().values()], lambda row: (row.load,), name))


def _engines(name: str | None) -> EngineSheet:
    names = [*map(engine_of, kernels()), *map(engine_of, otherwise()), *(row.engine for row in engine_flags())]
    found = [
        EngineRows(
            engine=engine,
            endpoint=endpoints().get(engine),
            kernels=tuple(row for row in kernels() if engine_of(row) == engine),
            otherwise=tuple(row for row in otherwise() if engine_of(row) == engine),
            platforms=tuple(row for row in platforms() if engine_of(row) == engine),
            flags=tuple(row for row in engine_flags() if row.engine == engine),
            metrics=tuple(row for row in metrics() if row.engine == engine),
        )
        for engine in dict.fromkeys(names)
    ]
    return EngineSheet(engines=_chosen("engines", found, lambda row: (row.engine,), name))


def engine_of(row: Kernel | Otherwise | Platform) -> str:
    """The engine of a row of kernels, which names its version too, as rows of flags name it."""
    return row.engine.casefold().split()[0]


def _methods(name: str | None) -> MethodSheet:
    rows = read_rows("methods.toml", "method", MethodRow)
    types: dict[ArtifactFormat, tuple[str, ...]] = {
        "gguf": PRESETS,
        "compressed-tensors": (*_integers(INT_BITS), *COMPRESSED_TYPES),
        "gptq": _integers(GPTQ_BITS),
        "awq": _integers((4,)),
        "bitsandbytes": tuple(BITSANDBYTES_TYPES),
        **{format: tuple(known) for format, known in FLOAT_FOLDER_TYPES.items()},
        "safetensors": GGML_FLOATS,
    }
    formats = tuple(
        FormatTypes(format=format, types=known, engines=tuple(engines_of(format))) for format, known in types.items()
    )
    return MethodSheet(methods=_chosen("methods", rows, lambda row: (row.name,), name), formats=formats)


def _integers(widths: Sequence[int]) -> tuple[str, ...]:
    return tuple(f"W{bits}A16" for bits in widths)


def _chosen(
    topic: Topic, rows: Sequence[R], names_of: Callable[[R], tuple[str, ...]], name: str | None
) -> tuple[R, ...]:
    """All rows; the one of this name; or those whose id begins with it."""
    wanted = (name or "").casefold()
    exact = tuple(row for row in rows if wanted in names_of(row))
    found = exact or tuple(row for row in rows if names_of(row)[0].startswith(wanted))
    if not found:
        known = [each for row in rows for each in names_of(row)]
        hint = nearest(wanted, known, f"`bitwright facts {topic}` lists all")
        raise UsageError(f"`bitwright facts {topic}` has no `{name}`", hint=hint)
    return found


SHEETS: dict[str, Callable[[str | None], Sheet]] = {
    "hardware": _hardware, "engines": _engines, "models": _models, "methods": _methods, "workloads": _workloads,
}  # fmt: skip
