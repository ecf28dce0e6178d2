"""`python -m bitwright` is `bitwright`."""

from __future__ import annotations

import sys

from bitwright.cli.app import run

if __name__ == "__main__":
    sys.exit(run())
