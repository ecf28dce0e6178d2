"""The handbooks' decisions row by row: what to quantize to, in what engine, on which device."""

from __future__ import annotations

import pytest

from handbook import Row, check, rows

pytestmark = pytest.mark.usefixtures("sizes_once")


@pytest.mark.parametrize("row", rows(), ids=str)
def test_a_row(row: Row) -> None:
    check(row)
