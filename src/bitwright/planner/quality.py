"""What a type is expected to cost in quality, before the artifact is judged.

    expected = the type's figure at 8 thousand million parameters · what this tool leaves of it · the size's factor
The ends are wide, because models differ by factors: they say which types are safe for a floor, not which of two near
ones is better.

Not here: figures (facts/quality_priors.toml), verdicts on real artifacts (evaluation/).
"""

from __future__ import annotations

from bitwright.core.intervals import Interval
from bitwright.core.plan import ModelFacts
from bitwright.core.ranking import Quality
from bitwright.core.target import QualityFloor
from bitwright.facts.quality_priors import prior_of, share_of, size_of


def quality(facts: ModelFacts, label: str) -> Quality | None:
    """Expected rise of perplexity and KL, `None` for a type of which nothing is known."""
    prior = prior_of(label)
    if prior is None:
        return None
    share, size = share_of(prior.ours), size_of(facts.parameters)

    def spread(figure: float) -> Interval:
        of_size = figure * size.factor
        return Interval(expected=of_size * share.expected, low=of_size * share.low, high=of_size * share.high)

    return Quality(perplexity_delta=spread(prior.perplexity), kl_mean=spread(prior.kl), source=prior.source)


def meets_floor(found: Quality, floor: QualityFloor) -> bool:
    """Whether what is expected lies within the floor."""
    return found.perplexity_delta.expected <= floor.perplexity_delta and found.kl_mean.expected <= floor.kl_mean
