"""What many plans of the catalogue's models share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bitwright.core.plan import ModelFacts
from bitwright.planner import build
from bitwright.planner.decide import Candidate


@pytest.fixture(scope="module")
def sizes_once() -> Iterator[None]:
    """Bytes of a model of the catalogue in a type are the same on every device: laid out once for all plans."""
    whole, known = build._sizes, dict[tuple[str, Candidate], object]()

    def sizes(facts: ModelFacts, overrides: object, parts: object, candidate: Candidate) -> object:
        assert (overrides, parts, bool(facts.catalogue)) == ((), build.KEPT, True)
        key = (facts.path, candidate)
        if key not in known:
            known[key] = whole(facts, (), build.KEPT, candidate)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "_sizes", sizes)
        yield
