"""What bitwright knows and plans with: devices, engines, models, methods, loads."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bitwright.facts.sheets import Sheet


def facts(topic: str, name: str | None = None) -> Sheet:
    """The rows of a topic (hardware, engines, models, methods, workloads), or those of one name or its beginning.

    Raises `UsageError` for an unknown topic or name.
    """
    from bitwright.facts.sheets import sheet

    return sheet(topic, name)
