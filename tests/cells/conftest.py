"""What was not run is said in the summary."""

from __future__ import annotations

from typing import Any


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Count the cells whose loaders have no environment here."""
    skipped = [report for report in terminalreporter.stats.get("skipped", ()) if "test_cells.py" in report.nodeid]
    if skipped:
        terminalreporter.write_line(f"{len(skipped)} cells left out: no environment for their loaders (`make loaders`)")
