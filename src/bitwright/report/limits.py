"""What a validation does not say. A page that shows only what was measured lets a reader believe that all was."""

from __future__ import annotations

from bitwright.core.plan import Plan
from bitwright.core.records import SpeedRecord, ValidationRecord


def not_measured(plan: Plan | None, validation: ValidationRecord, speed: SpeedRecord | None) -> list[tuple[str, str]]:
    """(what, why it matters or how to measure it), for this record."""
    names = " and ".join(text.name for text in validation.texts) or "no text"
    length = max((text.length for text in validation.texts), default=0)
    found = [
        (
            "Other text",
            f"judged on {names} alone: other languages and domains may suffer more. Add them with --text NAME=FILE.",
        ),
        ("Longer contexts", f"windows hold {length} tokens. What happens far behind them was not seen; see --length."),
    ]
    served = (
        f"the file was decoded by {validation.decoder} and run in float32. Kernels, a quantized key-value cache and "
        "the chat template of a server were not run."
    )
    if not validation.tasks:
        found.append(("Answers to tasks", "predictions were compared; no question was asked and marked."))
    if not validation.long_output:
        found.append(("Long answers", "nothing was generated: loops and endless answers do not show in single tokens."))
    else:
        horizon = max(one.new_tokens for one in validation.long_output)
        found.append(("Longer answers", f"texts were written up to {horizon} tokens. See --long-tokens."))
    if validation.engine is None:
        found.append(("The engine that serves", served))
    else:
        others = "the engine was asked with the settings named above. Another engine, card or type of cache may differ."
        found.append(("Other ways to serve it", others))
    if plan is not None and plan.model.vision is not None:
        found.append(("Images", "the verdict is on text, through the decoder alone."))
    if speed is None:
        found.append(("Speed", "no engine was timed."))
    else:
        found.append(("Speed under load", "one request at a time was timed, on the machine named below."))
    return found
