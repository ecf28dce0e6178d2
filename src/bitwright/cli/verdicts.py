"""The verdict as an exit code."""

from __future__ import annotations

from bitwright.core.errors import EXIT_DONE, EXIT_GATE_FAILED, EXIT_INCONCLUSIVE

EXIT_CODES = {"PASS": EXIT_DONE, "FAIL": EXIT_GATE_FAILED, "INCONCLUSIVE": EXIT_INCONCLUSIVE}
