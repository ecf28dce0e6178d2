"""All experts of a kind as one tensor: a mixture of experts that is planned in the time of a dense model.

Ten thousands of experts make a plan take a second, and looking at twenty plans half a minute. The matrices of all
experts of one kind in a block become one tensor, under the name of the first expert's, with the experts as its first
dimension. Bytes are the same. What is quantized is planned expert by expert.

Not here: where a catalogue's tensors come from (catalogue.py), which are stacked from the start.
"""

from __future__ import annotations

import msgspec

from bitwright.core.plan import ExpertFacts, ModelFacts
from bitwright.facts.families import expert_of


def stacked(facts: ModelFacts) -> ModelFacts:
    """The model with stacked experts; any other model as it is."""
    if facts.experts is None or is_stacked(facts):
        return facts
    tensors = []
    for tensor in facts.tensors:
        number = expert_of(tensor.name)
        if number is None:
            tensors.append(tensor)
        elif number == 0:
            count = facts.experts.count
            tensors.append(msgspec.structs.replace(tensor, shape=(count, *tensor.shape), bytes=count * tensor.bytes))
    return msgspec.structs.replace(facts, tensors=tuple(tensors))


def is_stacked(facts: ModelFacts) -> bool:
    """Whether all experts of a kind are one tensor."""
    return any(len(tensor.shape) > 2 for tensor in facts.tensors)


def counted_experts(facts: ModelFacts) -> ExpertFacts | None:
    """The experts whose names tensors have: of a stack that of the first alone."""
    if facts.experts is None or not is_stacked(facts):
        return facts.experts
    return msgspec.structs.replace(facts.experts, count=1)
