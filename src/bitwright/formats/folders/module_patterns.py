"""How an engine is told which modules of a vision-language model are quantized: by patterns.

Engines rename such models while they load them: a matrix that is stored under `visual.blocks.0.attn.qkv` is
`model.visual.blocks.0.attn.qkv` in transformers 5, and the decoder has up to three names. A pattern that ends alike
under all of them is understood by all, and by readers that go by stored names.

With one scheme, in the decoder alone, the class `Linear` is the target and the other parts are ignored. With more than
one, every module is named: vLLM looks for the class before it looks at what it has fused, and would give a fused q, k,
v of the tower the decoder's scheme.

Sources: compressed-tensors 0.20, utils/match.py; vLLM 0.32, compressed_tensors/utils.py (find_matched_target).
"""

from __future__ import annotations

import collections
from collections.abc import Sequence

from bitwright.core.plan import ModelFacts, TensorPlan
from bitwright.core.schemes import FloatScheme
from bitwright.facts.families import HEAD, is_block_linear
from bitwright.facts.vision import VISION_FAMILIES, Part, module_pattern, part_patterns

HEAD_PATTERN = "re:.*lm_head"


def module_patterns(model: ModelFacts, groups: Sequence[Sequence[str]]) -> list[list[str]]:
    """Patterns of the modules of each group; one for all layers where the layers of all groups allow it."""
    family = VISION_FAMILIES[model.architecture]
    owners: dict[str, set[int]] = collections.defaultdict(set)
    for number, modules in enumerate(groups):
        for module in modules:
            owners[module_pattern(family, module, any_layer=True)].add(number)
    stored = {tensor.stored_name.removesuffix(".weight") for tensor in model.all_tensors}
    taken = {module for modules in groups for module in modules}
    for module in stored - taken:  # left in floating point, and so must not be hit
        owners[module_pattern(family, module, any_layer=True)].add(-1)
    found = []
    for modules in groups:
        both = ((module_pattern(family, module, any_layer=True), module) for module in modules)
        alone = (
            shared if len(owners[shared]) == 1 else module_pattern(family, module, any_layer=False)
            for shared, module in both
        )
        found.append(list(dict.fromkeys(alone)))
    return found


def ignored_patterns(model: ModelFacts, tensors: Sequence[TensorPlan]) -> list[str]:
    """Patterns of what stays in floating point: the head, whole parts, and linears of the decoder kept by hand."""
    family = VISION_FAMILIES[model.architecture]
    quantized = {entry.name for entry in tensors if not isinstance(entry.scheme, FloatScheme)}
    kept = [entry.stored_name for entry in tensors if entry.name not in quantized and is_block_linear(entry.name)]
    assert model.vision is not None
    parts: tuple[tuple[Part, set[str]], ...] = (
        ("vision tower", {tensor.name for tensor in model.vision.tower}),
        ("projector", {tensor.name for tensor in model.vision.projector}),
    )
    found = [] if HEAD in quantized else [HEAD_PATTERN]
    for part, names in parts:
        if not names & quantized:
            found += part_patterns(family, part)
    return found + module_patterns(model, [[name.removesuffix(".weight") for name in kept]])[0]
