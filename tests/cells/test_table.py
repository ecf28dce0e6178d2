"""The table of cells is whole: no format, type or method is missing, and what is left out the planner refuses."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, get_args

import pytest

from bitwright.core.errors import BitwrightError
from bitwright.core.plan import ArtifactFormat, DeviceFacts, Method
from bitwright.core.schemes import GGML_FLOATS, INT_BITS
from bitwright.facts.compressed_types import COMPRESSED_TYPES
from bitwright.facts.float_folders import TYPES
from bitwright.facts.folder_types import BITSANDBYTES_TYPES, GPTQ_BITS
from bitwright.facts.gguf_mixtures import PRESETS
from bitwright.planner.build import make_plan
from cells import record
from cells.table import ROWS, Row, cells
from model_shapes import shaped_facts

DEVICE = DeviceFacts(name="test", kind="cpu", memory_bytes=2**34)
FACTS = shaped_facts()
SCRIPT = Path(__file__).parents[2] / "scripts" / "make_cells_docs.py"


def types_of(format: str) -> set[str]:
    """Without those of special cases, which stand behind a comma."""
    return {row.type for row in ROWS if row.format == format and "," not in row.type}


def integers(widths: tuple[int, ...], *signs: str) -> set[str]:
    return {f"W{bits}A16 {sign}" for bits in widths for sign in signs}


def test_every_format_and_type_has_a_row() -> None:
    assert {row.format for row in ROWS} == set(get_args(ArtifactFormat))
    assert types_of("gguf") == set(PRESETS)
    assert types_of("compressed-tensors") == {*COMPRESSED_TYPES, *integers(INT_BITS, "sym", "asym")}
    assert types_of("gptq") == integers(GPTQ_BITS, "sym")
    assert types_of("gptq_v2") == integers(GPTQ_BITS, "sym", "asym")
    assert types_of("awq") == {"W4A16 asym"}
    assert types_of("bitsandbytes") == set(BITSANDBYTES_TYPES)
    assert types_of("fp8") == set(TYPES["fp8"])
    assert types_of("modelopt") == set(TYPES["modelopt"])
    assert types_of("safetensors") == set(GGML_FLOATS)
    assert len({cell.key for cell in cells()}) == len(list(cells()))


@pytest.mark.parametrize("format", get_args(ArtifactFormat))
def test_what_the_table_leaves_out_is_refused(format: str) -> None:
    """Or is no method: values are cast, whatever was asked for."""
    for row in ROWS:
        for method in get_args(Method) if row.format == format else ():
            assert is_planned(row, method) == (method in row.methods), (row.type, method)


def is_planned(row: Row, method: str) -> bool:
    try:
        plan = make_plan(FACTS, DEVICE, use_case="chat", **row.choices(method))
    except BitwrightError:
        return False
    assert plan.format == row.format
    return plan.method == method


def page_maker() -> Any:
    spec = importlib.util.spec_from_file_location("make_cells_docs", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_holds_the_cells_of_the_table() -> None:
    assert {entry.key for entry in record.read()} <= {cell.key for cell in cells()}
    maker = page_maker()
    page = maker.PAGE.read_text()
    assert page == maker.render(), "run `make docs`"
    for row in ROWS:
        for use in row.uses:
            assert f"| `{row.type}` | {use.loader} |" in page


def test_the_record_is_within_the_limits_of_the_table() -> None:
    uses = {cell.key: cell.use for cell in cells()}
    for entry in record.read():
        if entry.distance is None:
            assert uses[entry.key].refuses in entry.refused
        else:
            assert entry.distance <= uses[entry.key].limit
