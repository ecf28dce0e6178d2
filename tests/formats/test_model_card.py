"""The model card and the verdict inside it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from packed_models import plan_for

from bitwright.core.errors import BitwrightError
from bitwright.core.schemes import IntScheme
from bitwright.formats.folders.model_card import BEGIN, END, embed_summary, model_card, read_summary
from model_shapes import shaped_facts

PLAN = plan_for(shaped_facts(), IntScheme(bits=4, group_size=128))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "README.md").write_text(model_card(PLAN))
    return tmp_path


def test_a_fresh_card_says_what_and_from_where_but_no_verdict(folder: Path) -> None:
    text = (folder / "README.md").read_text()
    assert "# nowhere, W4A16 g128 sym" in text
    assert "vllm serve" in text
    assert "base_model" not in text
    assert "dequantize" not in text
    assert text.count(BEGIN) == text.count(END) == 1
    assert read_summary(folder) is None


def test_asymmetric_cards_load_dequantized() -> None:
    assert "dequantize=True" in model_card(plan_for(shaped_facts(), IntScheme(bits=4, group_size=64, symmetric=False)))


def test_a_hub_snapshot_names_its_base_model() -> None:
    path = "/cache/models--owner--some-model/snapshots/0123abc"
    card = model_card(msgspec.structs.replace(PLAN, model=msgspec.structs.replace(PLAN.model, path=path)))
    assert "base_model: owner/some-model\n" in card
    assert "# owner/some-model, W4A16" in card
    assert "/cache" not in card


def test_the_verdict_is_replaced_and_the_rest_is_kept(folder: Path) -> None:
    path = folder / "README.md"
    path.write_bytes(b"\xff edited by hand\n" + path.read_bytes() + b"tail\n")
    before, _, rest = path.read_bytes().partition(BEGIN.encode())
    after = rest.partition(END.encode())[2]
    for summary in ("**PASS** KL 0.01", "**FAIL** ä"):
        embed_summary(folder, summary)
        assert read_summary(folder) == summary
    assert path.read_bytes() == before + f"{BEGIN}\n**FAIL** ä\n{END}".encode() + after


@pytest.mark.parametrize("text", [None, "my own card", f"{BEGIN} left open", f"{END}{BEGIN}"])
def test_a_card_without_a_section_gets_one(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "README.md").write_text(text)
    assert read_summary(tmp_path) is None
    embed_summary(tmp_path, "PASS")
    embed_summary(tmp_path, "PASS again")
    assert read_summary(tmp_path) == "PASS again"
    assert (tmp_path / "README.md").read_text().count(BEGIN) == 1


def test_an_unwritable_place_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BitwrightError, match="file"):
        embed_summary(tmp_path / "file", "PASS")
