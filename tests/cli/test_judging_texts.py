from pathlib import Path

import pytest

from bitwright.api.texts import SELF, files_among, named_texts
from bitwright.core.errors import InputError, UsageError


def test_names_files_and_self(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    odd = tmp_path / "b=c.txt"
    odd.write_text("b")
    found = named_texts([f"de={tmp_path / 'a.txt'}", odd, SELF])
    assert [(text.name, text.path) for text in found] == [("de", tmp_path / "a.txt"), ("", odd), ("", None)]
    assert files_among([odd, SELF]) == [odd]
    assert [text.path for text in named_texts([])] == [None]


def test_what_cannot_be_told_apart_or_found_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(UsageError, match="two validation texts are called `de`"):
        named_texts([f"de={tmp_path / 'a.txt'}", f"de={tmp_path / 'a.txt'}"])
    with pytest.raises(InputError, match=r"absent\.txt` does not exist"):
        named_texts(["de=absent.txt"])
