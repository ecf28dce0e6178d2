"""Facts as rows of words: a table of many rows, or everything about one.

Not here: tables on the screen (render.py) and in the documentation (scripts/make_facts_docs.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from bitwright.core.units import MIB, format_bytes
from bitwright.facts.catalogue import CatalogueRow
from bitwright.facts.checkpoint import DTYPE_BYTES
from bitwright.facts.device_rows import HardwareRow
from bitwright.facts.engine_kernels import Kernel
from bitwright.facts.sheets import (
    EngineRows,
    EngineSheet,
    FormatTypes,
    HardwareSheet,
    MethodRow,
    MethodSheet,
    ModelSheet,
    Sheet,
)
from bitwright.facts.workloads import WorkloadRow

TYPES = ("fp16", "fp8", "int8", "fp4")


@dataclasses.dataclass(frozen=True, slots=True)
class FactTable:
    """A head and rows; without a head, pairs of what and value.

    `sheds`: columns stand in the order of their weight, and where they do not fit the last ones may be left out, since
    each row can be asked for by its name.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    sheds: bool = False


def fact_tables(sheet: Sheet) -> tuple[FactTable, ...]:
    """Everything that a sheet holds, in the order in which it is shown."""
    if isinstance(sheet, HardwareSheet):
        return (device_pairs(sheet.devices[0]) if len(sheet.devices) == 1 else device_table(sheet.devices),)
    if isinstance(sheet, ModelSheet):
        return (model_pairs(sheet.models[0]) if len(sheet.models) == 1 else model_table(sheet.models),)
    if isinstance(sheet, EngineSheet):
        return engine_tables(sheet.engines[0]) if len(sheet.engines) == 1 else (engine_table(sheet.engines),)
    if isinstance(sheet, MethodSheet):
        methods = method_pairs(sheet.methods[0]) if len(sheet.methods) == 1 else method_table(sheet.methods)
        return methods, type_table(sheet.formats)
    return (workload_table(sheet.workloads),)


def device_table(rows: Sequence[HardwareRow]) -> FactTable:
    """Rates in 10^12 operations per second, links and memory in 10^9 bytes per second."""
    head = ("id", "memory", "GB/s", "FP16", "FP8", "INT8", "FP4", "$/h", "link GB/s", "device", "price of")
    return FactTable(head, tuple(
        (row.id, format_bytes(row.memory_mib * MIB), _number(row.bandwidth_gb_s),
         *(_number(getattr(row.rates, kind, None)) for kind in TYPES), _price(row)[0], _number(row.link_gb_s),
         row.name, _price(row)[1])
        for row in rows
    ), sheds=True)  # fmt: skip


def device_pairs(row: HardwareRow) -> FactTable:
    """All about one device."""
    rates = row.rates
    known = [] if rates is None else [(kind, getattr(rates, kind)) for kind in rates.__struct_fields__]
    low_high, date = _price(row)
    pairs = [
        ("id", ", ".join((row.id, *row.aliases))),
        ("device", " ".join((row.vendor, row.name)).strip()),
        ("architecture", row.architecture),
        ("compute capability", row.compute_capability or ""),
        ("memory", format_bytes(row.memory_mib * MIB) + (", shared with the processor" if row.unified else "")),
        ("bandwidth", f"{_number(row.bandwidth_gb_s)} GB/s"),
        ("dense TFLOPS", ", ".join(f"{kind.upper()} {_number(rate)}" for kind, rate in known if rate is not None)),
        ("link", f"{_number(row.link_gb_s)} GB/s, both directions" if row.link_gb_s else ""),
        ("price", f"{low_high} $/h ({date}; {row.price.source})" if row.price else ""),
        ("reported as", ", ".join(row.reported_names)),
        ("note", row.note),
        ("source", f"{row.source} ({row.date}), confidence {row.confidence}"),
    ]
    return _pairs(pairs)


def model_table(rows: Sequence[CatalogueRow]) -> FactTable:
    """Dimensions that memory and speed follow from."""
    head = ("name", "parameters", "size", "context", "experts", "sees", "blocks", "heads", "width", "checkpoint")
    return FactTable(head, tuple(
        (row.id, _billions(row.parameters), _size(row), f"{row.config['max_position_embeddings']:,}", _experts(row),
         "images" if row.vision else "", str(row.config["num_hidden_layers"]), _heads(row),
         str(row.config["hidden_size"]), row.hub)
        for row in rows
    ), sheds=True)  # fmt: skip


def model_pairs(row: CatalogueRow) -> FactTable:
    """All about one model."""
    pairs = [
        ("name", ", ".join((row.id, *row.aliases))),
        ("checkpoint", row.hub),
        ("architecture", row.vision or row.architecture),
        ("parameters", f"{row.parameters:,}"),
        ("size", f"{_size(row)} {row.dtype}"),
        ("vision tower", f"{row.tower:,} parameters" if row.tower else ""),
        ("projector", f"{row.projector:,} parameters" if row.projector else ""),
        *((key, str(value)) for key, value in row.config.items()),
        ("note", row.note),
        ("source", f"config.json of {row.hub} ({row.date})"),
    ]
    return _pairs(pairs)


def engine_table(rows: Sequence[EngineRows]) -> FactTable:
    """What is known of each engine; by name there is more."""
    head = ("engine", "version", "kernels", "flags", "gone", "port", "health", "metrics", "formats")
    return FactTable(head, tuple(
        (row.engine, _version(row), str(len(row.kernels)), str(sum(not flag.removed for flag in row.flags)),
         str(sum(bool(flag.removed) for flag in row.flags)), *_doors(row),
         ", ".join(dict.fromkeys(name for kernel in row.kernels for name in kernel.formats)))
        for row in rows
    ), sheds=True)  # fmt: skip


def engine_tables(row: EngineRows) -> tuple[FactTable, ...]:
    """All about one engine: doors, kernels, what happens where none matches, flags, flags that are gone, metrics."""
    port, health, scrape = _doors(row)
    doors = _pairs(
        [("engine", f"{row.engine} {_version(row)}".strip()), ("port", port), ("health", health), ("metrics", scrape)]
    )
    head = ("formats", "type", "inputs", "devices", "kernel", "how", "because")
    kernels = FactTable(head, tuple(
        (", ".join(kernel.formats), _scheme(kernel), kernel.inputs, _devices(kernel), kernel.kernel, kernel.how,
         kernel.because)
        for kernel in row.kernels
    ))  # fmt: skip
    rest = FactTable(
        ("all else of", "devices", "because"),
        tuple((", ".join(other.formats), ", ".join(other.architectures), other.because) for other in row.otherwise),
    )
    places = FactTable(("runs on", "by", "to know"), tuple(
        (", ".join(other.architectures), other.name, "; ".join(filter(None, (other.note, other.advice))))
        for other in row.platforms
    ))  # fmt: skip
    flags = FactTable(("flag", "for", "values", "default"), tuple(
        (flag.name, flag.purpose, flag.values, flag.default) for flag in row.flags if not flag.removed
    ))  # fmt: skip
    metrics = FactTable(("metric", "measures", "was"), tuple(
        (metric.name, metric.measures, ", ".join(metric.was)) for metric in row.metrics
    ))  # fmt: skip
    return tuple(table for table in (doors, kernels, rest, places, flags, gone_table([row]), metrics) if table.rows)


def gone_table(rows: Sequence[EngineRows]) -> FactTable:
    """Flags that engines no longer know."""
    head = ("engine", "flag that is gone", "since", "instead")
    return FactTable(head, tuple(
        (row.engine, flag.name, flag.removed, flag.instead) for row in rows for flag in row.flags if flag.removed
    ))  # fmt: skip


def method_table(rows: Sequence[MethodRow]) -> FactTable:
    """What each method does, and for what."""
    head = ("method", "what it does", "types", "text", "page")
    return FactTable(head, tuple((row.name, row.what, row.types, _needs(row), row.page) for row in rows))


def method_pairs(row: MethodRow) -> FactTable:
    """All about one method."""
    pairs = [("method", row.name), ("what it does", row.what), ("types", row.types), ("text", _needs(row)),
             ("page", row.page), ("source", row.source)]  # fmt: skip
    return _pairs(pairs)


def type_table(rows: Sequence[FormatTypes]) -> FactTable:
    """What `--type` knows in each format."""
    head = ("format", "types", "engines")
    return FactTable(head, tuple((row.format, ", ".join(row.types), ", ".join(row.engines)) for row in rows))


def workload_table(rows: Sequence[WorkloadRow]) -> FactTable:
    """Tokens of a typical request, and requests at once."""
    head = ("load", "prompt", "shared", "output", "at once", "limits of", "because", "source")
    return FactTable(head, tuple(
        (row.load, str(row.prompt_tokens), str(row.shared_prefix_tokens), str(row.output_tokens),
         str(row.concurrency), row.use_case, row.because, row.source)
        for row in rows
    ))  # fmt: skip


def _pairs(pairs: Sequence[tuple[str, str]]) -> FactTable:
    return FactTable((), tuple(pair for pair in pairs if pair[1]))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _price(row: HardwareRow) -> tuple[str, str]:
    price = row.price
    if price is None:
        return "", ""
    return f"{price.low:.2f}" if price.low == price.high else f"{price.low:.2f}-{price.high:.2f}", price.date


def _billions(parameters: int) -> str:
    return f"{parameters / 1e9:.3g}B" if parameters >= 10**9 else f"{parameters / 1e6:.0f}M"


def _size(row: CatalogueRow) -> str:
    return format_bytes(row.parameters * DTYPE_BYTES[row.dtype])


def _heads(row: CatalogueRow) -> str:
    if "kv_lora_rank" in row.config:
        return f"{row.config['num_attention_heads']}, latent {row.config['kv_lora_rank']}"
    return f"{row.config['num_attention_heads']}/{row.config['num_key_value_heads']}"


def _experts(row: CatalogueRow) -> str:
    keys = ("num_local_experts", "num_experts", "n_routed_experts")
    count = next((row.config[key] for key in keys if key in row.config), None)
    return "" if count is None else f"{row.config['num_experts_per_tok']} of {count}"


def _version(row: EngineRows) -> str:
    """The version whose kernels were looked up."""
    return ", ".join(dict.fromkeys(kernel.engine.partition(" ")[2] for kernel in row.kernels))


def _doors(row: EngineRows) -> tuple[str, str, str]:
    """Port, path of health, path of metrics."""
    door = row.endpoint
    if door is None:
        return "", "", ""
    needs = f" with {door.needs}" if door.needs else ""
    return str(door.port), door.health, f"{door.metrics}{needs}" if door.metrics else ""


def _scheme(row: Kernel) -> str:
    bits = "/".join(map(str, row.bits))
    sign = {True: " symmetric", False: " asymmetric", None: ""}[row.symmetric]
    groups = f" groups {'/'.join('channel' if size == 0 else str(size) for size in row.groups)}" if row.groups else ""
    kind = f"int{bits}" if row.kind == "int" else row.kind
    return f"{kind or 'any'}{sign}{groups}"


def _devices(row: Kernel) -> str:
    if row.cpu:
        return "CPU"
    if row.architectures:
        return ", ".join(row.architectures)
    if not row.least and not row.last:
        return "any"
    return f"{row.least or '0.0'} to {row.last}" if row.last else f"{row.least} and later"


def _needs(row: MethodRow) -> str:
    return "needed" if row.text else "helps"
