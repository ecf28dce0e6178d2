"""The groups and folds of one block of one model, in the order of the forward pass.

A group is a set of linears that read one input, so that one Gram matrix serves them. A fold is a place where a scale
per input channel can hide: dividing a norm's weight by s and multiplying the columns of its readers by s changes
nothing that the model computes; neither does dividing the rows of a value or up projection, whose outputs reach the
next linear channel by channel.

In a block with experts the norm's readers are all experts and the router. The router stays in floating point and is
carried along: its columns take the scale too, and keep to powers of two where it is stored in 16 bits. The group
`routed` holds the router alone: nothing of it is quantized, but its input is what every expert could have seen.

Not here: the families' tables (families.py), which scale is good (quantize/scaling.py), the rewrite itself
(pipeline/rescale.py).
Source: Lin et al. 2024, arXiv:2306.00978 §3.2 (AWQ); transformers models/*/modeling_*.py (order of calls).
"""

from __future__ import annotations

import dataclasses

from bitwright.core.plan import ModelFacts
from bitwright.facts.families import FAMILIES, AbsorberKind, ExpertNames, Family, InputGroup

ROUTED = "routed"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """`modules` read one input, the first of them is called first. An expert's group sees only its own tokens."""

    name: InputGroup
    modules: tuple[str, ...]
    expert: int | None = None

    @property
    def leader(self) -> str:
        return self.modules[0]

    @property
    def linears(self) -> tuple[str, ...]:
        """The modules that may be quantized: none of the router's group."""
        return () if self.name == ROUTED else self.modules


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """`absorber` is a module of the block; with kind `rows` or `heads` its last rows make the inputs of the readers.

    `group` is the one whose inputs are measured; the modules of the groups `reading` are quantized and take the scale
    in their columns, `carried` take it too and stay in floating point. A `heads` fold serves all query heads that read
    one key-value head.
    """

    group: InputGroup
    absorber: str
    kind: AbsorberKind
    reading: tuple[Group, ...]
    carried: tuple[str, ...] = ()

    @property
    def readers(self) -> tuple[str, ...]:
        return tuple(module for group in self.reading for module in group.modules)


def block_groups(facts: ModelFacts, layer: int) -> tuple[Group, ...]:
    """All groups of block `layer`."""
    family, experts = FAMILIES[facts.family], _experts(facts, layer)
    dense = [Group(name=name, modules=modules) for name, modules in family.linears.items()]
    if experts is None:
        return tuple(dense)
    return tuple(group for group in dense if not group.name.startswith("mlp_")) + _expert_groups(facts, experts)


def block_folds(facts: ModelFacts, layer: int) -> tuple[Fold, ...]:
    """All folds of block `layer`, readers of a folded tensor's rows first: the columns of q, k, v and gate, up are then
    measured as they will be rounded."""
    family, experts = FAMILIES[facts.family], _experts(facts, layer)
    groups = {group.name: group for group in block_groups(facts, layer)}
    folds = [
        Fold(group=name, absorber=absorber, kind=kind, reading=(groups[name],))
        for name, (absorber, kind) in family.absorbers.items()
        if name in groups
    ]
    return tuple(folds) if experts is None else (*folds, *_expert_folds(family, experts, groups))


def fused_modules(facts: ModelFacts, layer: int) -> tuple[tuple[str, ...], ...]:
    """Modules of block `layer` that engines run as one matrix or one kernel, and that so must share a scheme."""
    groups = block_groups(facts, layer)
    fused = [group.modules for group in groups if group.expert is None and len(group.modules) > 1]
    experts = tuple(module for group in groups if group.expert is not None for module in group.modules)
    return (*fused, experts) if experts else tuple(fused)


def _experts(facts: ModelFacts, layer: int) -> ExpertNames | None:
    """Names of the experts of a block, `None` for a dense one."""
    sparse = facts.experts is not None and layer not in facts.experts.dense_layers
    return FAMILIES[facts.family].experts if sparse else None


def _expert_groups(facts: ModelFacts, experts: ExpertNames) -> tuple[Group, ...]:
    assert facts.experts is not None
    found = []
    if experts.shared:
        gate, up, down = experts.shared_expert()
        found += [Group(name="shared_in", modules=(gate, up)), Group(name="shared_out", modules=(down,))]
    found.append(Group(name=ROUTED, modules=(experts.router,)))
    for number in range(facts.experts.count):
        gate, up, down = experts.expert(number)
        found.append(Group(name=f"experts.{number}.in", modules=(gate, up), expert=number))
        found.append(Group(name=f"experts.{number}.out", modules=(down,), expert=number))
    return tuple(found)


def _expert_folds(family: Family, experts: ExpertNames, groups: dict[InputGroup, Group]) -> list[Fold]:
    outs = [group for group in groups.values() if group.name.endswith(("shared_out", ".out"))]
    folds = [
        Fold(
            group=group.name, absorber=f"{group.leader.removesuffix(experts.down)}{experts.up}", kind="rows",
            reading=(group,),
        )
        for group in outs
    ]  # fmt: skip
    reading = tuple(group for group in groups.values() if group.name == "shared_in" or group.name.endswith(".in"))
    carried = (experts.router, *((f"{experts.block}.shared_expert_gate",) if experts.shared else ()))
    norm, kind = family.absorbers["mlp_in"]
    return [*folds, Fold(group=ROUTED, absorber=norm, kind=kind, reading=reading, carried=carried)]
