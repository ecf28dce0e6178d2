"""Estimates against limits: PASS, FAIL, or honestly INCONCLUSIVE.

A gate passes when its whole 95 % interval lies below the limit and fails when it lies above; else the texts were too
short to tell. So an artifact that in truth stands at the limit passes by luck in about one of forty validations.
Every text is gated; the worst gate is the verdict.
Not here: the thresholds themselves (facts).
"""

from __future__ import annotations

from collections.abc import Sequence

from bitwright.core.records import Estimate, Gate, TextResult, Verdict
from bitwright.evaluation.stats import windows_to_decide
from bitwright.facts.thresholds import Thresholds

ANOTHER_MODEL_NATS = 5.0  # 2-bit rounding to nearest stays near 1; beyond this the two models share little
FEW_WINDOWS = 8  # Student's t needs 2.4 standard errors here, and skew of KL is not yet averaged out


def judge(estimate: Estimate, limit: float) -> Verdict:
    """Hold one interval against one limit."""
    if estimate.high < limit:
        return "PASS"
    return "FAIL" if estimate.low > limit else "INCONCLUSIVE"


def gates(results: Sequence[TextResult], thresholds: Thresholds) -> list[Gate]:
    """Two gates for every text."""
    found = []
    for result in results:
        for measure in ("kl_mean", "perplexity_delta"):
            estimate: Estimate = getattr(result, measure)
            limit: float = getattr(thresholds, measure)
            verdict = judge(estimate, limit)
            found.append(
                Gate(
                    measure=measure,
                    limit=limit,
                    estimate=estimate,
                    verdict=verdict,
                    source=thresholds.source,
                    text=result.name,
                )
            )
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


def overall(all_gates: Sequence[Gate]) -> Verdict:
    """The worst gate."""
    verdicts = {gate.verdict for gate in all_gates}
    if "FAIL" in verdicts:
        return "FAIL"
    return "INCONCLUSIVE" if "INCONCLUSIVE" in verdicts else "PASS"


def notes(results: Sequence[TextResult], all_gates: Sequence[Gate]) -> list[str]:
    """What a reader must know to weigh the verdict."""
    windows = {result.name: result.windows for result in results}
    found = []
    for gate in all_gates:
        if gate.measure == "finite_logits":
            found.append(
                f"{gate.text}: logits are not finite in {gate.estimate.value:.0f} windows; the others are measured"
            )
        if gate.verdict == "INCONCLUSIVE":
            needed = windows_to_decide(gate.estimate, limit=gate.limit, windows=windows[gate.text])
            cure = (
                f"about {needed} windows would decide it"
                if needed
                else "it lies on the limit, more text will not decide it"
            )
            measure = gate.measure.replace("_", " ")
            found.append(f"{gate.text}: {measure} is too uncertain with {windows[gate.text]} windows; {cure}")
    for result in results:
        if result.windows < FEW_WINDOWS:
            found.append(f"{result.name}: {result.windows} windows only; intervals from so few are rough")
        if result.kl_mean.value > ANOTHER_MODEL_NATS:
            found.append(
                f"{result.name}: mean KL is {result.kl_mean.value:.1f} nats; was the artifact made from this reference?"
            )
    return found
