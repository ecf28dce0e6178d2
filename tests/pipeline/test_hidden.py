"""Hidden states on disk: what was written comes back, batch by batch, under the hash of the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bitwright.core.atomic import sha256_file
from bitwright.pipeline.hidden import HiddenStates, write_hidden

STATES = torch.randn(7, 5, 12, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_states_come_back_as_they_were(tmp_path: Path, dtype: torch.dtype) -> None:
    states = STATES.to(dtype)
    written = write_hidden(tmp_path, 3, 7, iter(torch.split(states, 3)))
    path = written.file.path(tmp_path)
    assert written.file.sha256 == sha256_file(path)
    opened = HiddenStates(tmp_path, written.file)
    assert (opened.windows, opened.length, opened.width, opened.item_bytes) == (7, 5, 12, dtype.itemsize)
    batches = opened.batches(2)
    assert [len(part) for part in batches] == [2, 2, 2, 1]
    assert torch.equal(torch.cat(list(batches)), states)
    assert torch.equal(batches[3], states[6:])
    assert torch.equal(torch.cat(list(opened.batches(4, dtype=torch.bfloat16))), states.bfloat16())
    assert np.load(path).shape == (7, 5, 12)  # an ordinary file of numpy


def test_the_next_ones_lie_beside_them(tmp_path: Path) -> None:
    first = write_hidden(tmp_path, 1, 7, [STATES])
    second = first.followed_by(2 * part for part in first.batches(3))
    assert second.file.unit == 2
    assert torch.equal(second.read(0, 7), 2 * STATES)
    assert torch.equal(first.read(1, 99), STATES[1:])
