"""Records → the charts of the page. Each function gives finished SVG, or nothing where there is nothing to draw."""

from __future__ import annotations

import re
from collections.abc import Sequence

from markupsafe import Markup

from bitwright.core.records import Gate, LayerError, QuantRecord, SpeedPoint, SpeedRecord, TextResult, ValidationRecord
from bitwright.core.units import MIB, format_bytes
from bitwright.report.charts import HALF_WIDTH, Bar, Point, Series, bars, chart, interval
from bitwright.report.verdict_words import limit_of

BLOCK = re.compile(r"\.(\d+)\.")


def gauge(gate: Gate) -> Markup:
    """The estimate of one gate against its limit."""
    estimate = gate.estimate
    return interval(
        value=estimate.value, low=estimate.low, high=estimate.high, limit=gate.limit, verdict=gate.verdict,
        said=limit_of(gate),
    )  # fmt: skip


def kl_by_position(texts: Sequence[TextResult]) -> Markup:
    """One line for each text."""
    series = [
        Series(
            name=text.name,
            points=tuple(
                Point(
                    x=(b.start + b.stop) / 2,
                    y=b.kl,
                    tip=f"{text.name}, tokens {b.start} to {b.stop - 1}: {b.kl:.4g} nats",
                    low=None if b.interval is None else b.interval.low,
                    high=None if b.interval is None else b.interval.high,
                )
                for b in text.by_position
            ),
        )
        for text in texts
    ]
    return chart(
        series, title="KL by position in the window", x_label="position in the window (tokens)",
        y_label="mean KL (nats)", x_span=(0.0, float(max((text.length for text in texts), default=1))),
    )  # fmt: skip


def error_by_layer(layers: Sequence[LayerError]) -> Markup:
    """How the residual stream departs, block by block."""
    points = tuple(
        Point(x=layer.layer, y=layer.activation_error, tip=f"{_block(layer.layer)}: {layer.activation_error:.3g}")
        for layer in layers
        if layer.activation_error is not None
    )
    return chart(
        [Series(name="", points=points)],
        title="Error of the residual stream by block", x_label="block", y_label="relative squared error", log_y=True,
        width=HALF_WIDTH,
    )  # fmt: skip


def kl_by_layer(layers: Sequence[LayerError]) -> Markup:
    """What a reading of the stream through the final head would lose after each block."""
    points = tuple(
        Point(x=layer.layer, y=layer.kl, tip=f"{_block(layer.layer)}: {layer.kl:.3g} nats")
        for layer in layers
        if layer.kl is not None
    )
    return chart(
        [Series(name="", points=points)],
        title="KL through the final head by block",
        x_label="block",
        y_label="KL (nats)",
        width=HALF_WIDTH,
    )


def error_by_tensor(quant: QuantRecord) -> Markup:
    """Output error of every quantized matrix, one colour for each kind of matrix."""
    kinds: dict[str, list[Point]] = {}
    for tensor in quant.tensors:
        block = BLOCK.search(tensor.name)
        if tensor.output_error and block:
            kind = tensor.name[block.end() :].removesuffix(".weight").rpartition(".")[2]
            tip = f"{tensor.name} ({tensor.scheme}): {tensor.output_error:.3g}"
            kinds.setdefault(kind, []).append(Point(x=int(block.group(1)), y=tensor.output_error, tip=tip))
    series = [Series(name=kind, points=tuple(points), joined=False) for kind, points in kinds.items()]
    return chart(series, title="Output error by tensor", x_label="block", y_label="relative squared error", log_y=True)


def size_against_quality(
    original_bytes: int, validation: ValidationRecord, others: Sequence[ValidationRecord]
) -> Markup:
    """This artifact between its original and, where given, other artifacts of it; the worst text of each."""
    original = Point(x=original_bytes / MIB, y=0.0, tip="original: exact by definition", label="original")
    series = [
        Series(name="original", points=(original,) if original_bytes else (), joined=False),
        Series(name="this artifact", points=_dot(validation, "this artifact"), joined=False),
        *(Series(name="", points=_dot(other, _file(other.artifact)), joined=False) for other in others),
    ]
    limits = [gate.limit for gate in validation.gates if gate.measure == "kl_mean"]
    return chart(
        series, title="Size against quality", x_label="size of the weights (MiB)", y_label="mean KL (nats)",
        x_from_zero=True, limit=(f"limit {limits[0]:g}", limits[0]) if limits else None,
    )  # fmt: skip


def speed(record: SpeedRecord) -> tuple[Markup, Markup]:
    """Prompt and decode speed, the artifact first."""
    first, *rest = sorted(record.points, key=lambda point: point.bytes)
    points = [first, *rest]
    return _speed_bars(points, "prompt_tokens_s", "Reading the prompt"), _speed_bars(
        points, "decode_tokens_s", "Writing the answer"
    )


def _speed_bars(points: Sequence[SpeedPoint], field: str, title: str) -> Markup:
    entries = [
        Bar(
            name=point.name,
            value=getattr(point, field),
            text=f"{getattr(point, field):.4g} tokens/s",
            strong=index == 0,
        )
        for index, point in enumerate(points)
    ]
    return bars(entries, title=title)


def _dot(record: ValidationRecord, label: str) -> tuple[Point, ...]:
    if not record.texts:
        return ()
    kl = max(record.texts, key=lambda text: text.kl_mean.value).kl_mean
    tip = f"{label}: {format_bytes(record.artifact_bytes)}, KL {kl.value:.4g} [{kl.low:.4g}, {kl.high:.4g}]"
    return (Point(x=record.artifact_bytes / MIB, y=kl.value, tip=tip, low=kl.low, high=kl.high, label=label),)


def _file(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _block(index: int) -> str:
    return "embedding" if index < 0 else f"block {index}"
