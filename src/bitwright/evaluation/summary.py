"""A validation in a few lines: compact JSON to embed in the artifact, Markdown for its model card.

The JSON stays small because every engine that opens the artifact reads it. Figures carry four significant digits.
"""

from __future__ import annotations

import json

from bitwright.core.carried import weights_sha256
from bitwright.core.records import Estimate, TextResult, ValidationRecord

SUMMARY_BYTES = 1900
MAX_TEXT_NAME = 60


def summary(record: ValidationRecord) -> str:
    """ASCII JSON of less than `SUMMARY_BYTES`: the verdict, the limits, and as many texts as fit."""
    head: dict[str, object] = {
        "schema": "bitwright.summary/1",
        "verdict": record.verdict,
        "use_case": record.use_case,
        "limits": {gate.measure: gate.limit for gate in record.gates},
        "reference_fingerprint": record.reference_fingerprint[:64],
        "decoder": record.decoder[:80],
        "bitwright": record.provenance.bitwright,
        "created": record.provenance.created,
        "weights_sha256": weights_sha256(record.artifact_sha256),
        "settings_sha256": record.settings_sha256,
    }
    texts = [_text(result) for result in record.texts]
    for count in range(len(texts), -1, -1):
        body = {**head, "texts": texts[:count]}
        if count < len(texts):
            body["texts_left_out"] = len(texts) - count
        line = json.dumps(body, separators=(",", ":"))
        if len(line) < SUMMARY_BYTES:
            return line
    raise AssertionError("a summary without texts always fits")


def model_card_section(record: ValidationRecord) -> str:
    """Markdown: the verdict and one table row for each text."""
    intro = (
        f"**{record.verdict}** for `{record.use_case}`, measured against the original on the file as written "
        f"(decoded by {record.decoder}). Intervals are 95 %, clustered by window."
    )
    columns = (
        "| text | windows × tokens | mean KL (nats) | p99 | perplexity, original → artifact | change | same top token |"
    )
    lines = ["## Validation", "", intro, "", columns, "|---|---|---|---|---|---|---|"]
    for result in record.texts:
        name = result.name.replace("|", "\\|").replace("\n", " ")
        lines.append(
            f"| {name} | {result.windows} × {result.length} | {_range(result.kl_mean)} | {result.kl_p99:.4g} "
            f"| {result.perplexity_reference.value:.4g} → {result.perplexity_artifact.value:.4g} "
            f"| {_range(result.perplexity_delta)} | {result.top1_agreement.value:.1%} |"
        )
    lines += ["", "| gate | text | limit | verdict |", "|---|---|---|---|"]
    lines += [
        f"| {gate.measure} | {gate.text.replace('|', ' ')} | {gate.limit:g} | {gate.verdict} |" for gate in record.gates
    ]
    if record.notes:
        lines += ["", *(f"- {note}" for note in record.notes)]
    return "\n".join(lines) + "\n"


def _text(result: TextResult) -> dict[str, object]:
    return {
        "name": result.name.encode("ascii", "replace").decode()[:MAX_TEXT_NAME],
        "sha256": result.sha256[:16],
        "windows": result.windows,
        "length": result.length,
        "kl_mean": _short(result.kl_mean),
        "kl_p99": _digits(result.kl_p99),
        "ppl_reference": _digits(result.perplexity_reference.value),
        "ppl_delta": _short(result.perplexity_delta),
        "top1": _digits(result.top1_agreement.value),
    }


def _short(estimate: Estimate) -> list[float]:
    """[value, low, high]."""
    return [_digits(estimate.value), _digits(estimate.low), _digits(estimate.high)]


def _digits(value: float) -> float:
    return float(f"{value:.4g}")


def _range(estimate: Estimate) -> str:
    return f"{estimate.value:.4g} [{estimate.low:.4g}, {estimate.high:.4g}]"
