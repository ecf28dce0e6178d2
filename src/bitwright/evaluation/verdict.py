"""Estimates against limits: PASS, FAIL, or honestly INCONCLUSIVE.

A gate passes when its whole 95 % interval lies below the limit and fails when it lies above; else the texts were too
short to tell. So an artifact that in truth stands at the limit passes by luck in about one of forty validations, and
that however often windows were added (sampling.py). Every text is gated; the worst gate is the verdict.
Not here: the thresholds themselves (facts).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bitwright.core.measures import measure
from bitwright.core.records import Estimate, Floors, Gate, TextResult, Verdict
from bitwright.evaluation.figures import flips
from bitwright.evaluation.stats import windows_to_decide
from bitwright.facts.thresholds import Thresholds, limits, source_of

ANOTHER_MODEL_NATS = 5.0  # 2-bit rounding to nearest stays near 1; beyond this the two models share little
FEW_WINDOWS = 16  # below, two kinds of text among the windows are not seen: 95 % intervals hold 85 % (docs/log.md)


def judge(estimate: Estimate, limit: float) -> Verdict:
    """Hold one interval against one limit."""
    if estimate.high < limit:
        return "PASS"
    return "FAIL" if estimate.low > limit else "INCONCLUSIVE"


def gates(results: Sequence[TextResult], profile: Thresholds) -> list[Gate]:
    """One gate for every text and measure that has a limit; measures of other checks have none here."""
    return [
        _gate(result, estimate, measure, limit, source_of(profile, measure))
        for result in results
        for measure, limit in limits(profile).items()
        if (estimate := _estimate(result, measure)) is not None
    ]


def _gate(result: TextResult, estimate: Estimate, measure: str, limit: float, source: str) -> Gate:
    verdict = judge(estimate, limit)
    needed = windows_to_decide(estimate, limit=limit, windows=result.windows) if verdict == "INCONCLUSIVE" else None
    return Gate(
        measure=measure,
        limit=limit,
        estimate=estimate,
        verdict=verdict,
        source=source,
        text=result.name,
        windows_more=max(1, needed - result.windows) if needed else None,
    )


def _estimate(result: TextResult, measure: str) -> Estimate | None:
    if measure == "top1_flips":
        return flips(result)
    if measure == "kl_p99":
        return next(quantile.kl for quantile in result.kl_quantiles if quantile.share == 0.99)
    found: Estimate | None = getattr(result, measure, None)
    return found


def finite_gate(text: str, bad_windows: int) -> Gate:
    """The gate that appears only when it fails: windows in which the artifact gave logits that are not finite."""
    count = float(bad_windows)
    return Gate(
        measure="finite_logits",
        limit=0.0,
        estimate=Estimate(value=count, low=count, high=count),
        verdict="FAIL",
        source="a model that gives no numbers cannot be served",
        text=text,
    )


def narrowed(now: Sequence[Gate], before: Sequence[Gate]) -> list[Gate]:
    """The gates of a later look, their intervals cut to those of the looks before: all of them hold at once, and what
    was decided stays decided.
    """
    seen = {(gate.text, gate.measure): gate.estimate for gate in before}
    return [_cut(gate, seen.get((gate.text, gate.measure), gate.estimate)) for gate in now]


def _cut(gate: Gate, old: Estimate) -> Gate:
    new = gate.estimate
    low, high = max(new.low, old.low), min(new.high, old.high)
    if low > high:  # one of twenty texts; the later look knows more
        low, high = new.low, new.high
    cut = Estimate(value=min(max(new.value, low), high), low=low, high=high)
    verdict = judge(cut, gate.limit)
    more = gate.windows_more if verdict == "INCONCLUSIVE" else None
    return msgspec.structs.replace(gate, estimate=cut, verdict=verdict, windows_more=more)


def overall(all_gates: Sequence[Gate]) -> Verdict:
    """The worst gate."""
    verdicts = {gate.verdict for gate in all_gates}
    if "FAIL" in verdicts:
        return "FAIL"
    return "INCONCLUSIVE" if "INCONCLUSIVE" in verdicts else "PASS"


def notes(results: Sequence[TextResult], all_gates: Sequence[Gate], floors: Floors | None = None) -> list[str]:
    """What a reader must know to weigh the verdict."""
    windows = {result.name: result.windows for result in results}
    found = []
    for gate in all_gates:
        if gate.measure == "finite_logits":
            found.append(
                f"{gate.text}: logits are not finite in {gate.estimate.value:.0f} windows; the others are measured"
            )
        if gate.verdict == "INCONCLUSIVE" and gate.text in windows:
            cure = (
                f"about {gate.windows_more} more windows would decide it"
                if gate.windows_more
                else "it lies on the limit, more text will not decide it"
            )
            found.append(
                f"{gate.text}: {measure(gate.measure).words} is too uncertain with {windows[gate.text]} windows; {cure}"
            )
    for result in results:
        if result.windows < FEW_WINDOWS:
            found.append(f"{result.name}: {result.windows} windows only; intervals from so few are rough")
        if result.kl_mean.value > ANOTHER_MODEL_NATS:
            found.append(
                f"{result.name}: mean KL is {result.kl_mean.value:.1f} nats; was the artifact made from this reference?"
            )
        found += _floor_notes(result, floors)
    return found


def _floor_notes(result: TextResult, floors: Floors | None) -> list[str]:
    """Where a mean KL is as small as what arithmetic alone does."""
    if floors is None or not result.kl_mean.value:
        return []
    if result.kl_mean.value < 2 * floors.order_kl:
        return [f"{result.name}: mean KL is within twice the floor of this measurement ({floors.order_kl:.2g} nats)"]
    if result.kl_mean.value < floors.bfloat16_kl:
        said = f"mean KL is less than what bfloat16 arithmetic does to the original ({floors.bfloat16_kl:.2g} nats)"
        return [f"{result.name}: {said}"]
    return []
