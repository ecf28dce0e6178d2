"""Artifacts of one model on one page: what to take, the order and its doubts, size against quality.

Not here: the order itself and the sentences (api/comparison.py), the page of one artifact (html.py).
"""

from __future__ import annotations

from markupsafe import Markup

from bitwright.core.comparison import ComparisonRecord, Entry
from bitwright.core.units import MIB, format_bytes
from bitwright.report.charts import Point, Series, chart
from bitwright.report.html import environment
from bitwright.report.strips import FAR_APART, Strips
from bitwright.report.verdict_words import last_part


def render_comparison(found: ComparisonRecord) -> str:
    """The whole page."""
    measured = [entry.kl_mean for entry in found.entries if entry.kl_mean is not None]
    strips = Strips([end for kl in measured for end in (kl.value, kl.low, kl.high)], limit=found.kl_limit)
    return (
        environment()
        .get_template("compare.html.j2")
        .render(
            found=found,
            lines=[(entry, _strip(strips, entry)) for entry in found.entries],
            axis=strips.axis("mean KL, nats per token"),
            chart=size_chart(found),
            logarithmic=_logarithmic(found),
            taken=found.advised or "",
            windows=sum(text.windows for text in found.texts),
            contexts=sorted({entry.context for entry in found.entries if entry.context is not None}),
        )
    )


def size_chart(found: ComparisonRecord) -> Markup:
    """Size against KL, coloured by verdict; with a logarithm where KLs lie far apart."""
    original = Point(x=found.reference_bytes / MIB, y=0.0, tip="original: exact by definition", label="original")
    series = [Series(name="original", points=(original,), joined=False)]
    for verdict in ("PASS", "FAIL", "INCONCLUSIVE"):
        points = tuple(_point(entry) for entry in found.entries if entry.verdict == verdict and entry.kl_mean)
        if points:
            series.append(Series(name=verdict, points=points, joined=False, kind=verdict.lower()))
    limit = None if found.kl_limit is None else (f"limit {found.kl_limit:g}", found.kl_limit)
    return chart(
        series, title="Size against quality", x_label="size of the weights (MiB)", y_label="mean KL (nats)",
        x_from_zero=True, limit=limit, log_y=_logarithmic(found),
    )  # fmt: skip


def _logarithmic(found: ComparisonRecord) -> bool:
    values = [entry.kl_mean.value for entry in found.entries if entry.kl_mean is not None]
    return bool(values) and min(values) > 0 and max(values) / min(values) > FAR_APART


def _point(entry: Entry) -> Point:
    kl = entry.kl_mean
    assert kl is not None
    tip = f"{entry.name}: {format_bytes(entry.bytes)}, KL {kl.value:.4g} [{kl.low:.4g}, {kl.high:.4g}]"
    return Point(x=entry.bytes / MIB, y=kl.value, tip=tip, low=kl.low, high=kl.high, label=last_part(entry.name))


def _strip(strips: Strips, entry: Entry) -> Markup:
    kl = entry.kl_mean
    if kl is None:
        return Markup("")
    return strips.strip(kl.value, kl.low, kl.high, kind=entry.verdict.lower(), said=f"{entry.name}: {kl.value:.3g}")
