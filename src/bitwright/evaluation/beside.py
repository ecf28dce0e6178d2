"""What lies beside the decoder of a vision-language model, held against the original tensor by tensor.

A verdict is taken on text, which never enters vision tower and projector. Here their tensors are compared instead:
equal bit for bit says that images reach the decoder as before, and an error says how far they do not.

Not here: the decoder (validate.py).
"""

from __future__ import annotations

import torch

from bitwright.core.errors import MismatchError
from bitwright.core.plan import TensorFacts
from bitwright.core.protocols import WeightSource

UNJUDGED = "images were not judged: the verdict is on text, through the decoder alone"


def beside_notes(reference: WeightSource, artifact: WeightSource) -> list[str]:
    """Sentences for the record; none for other models. Raises `MismatchError` when a part has other tensors."""
    here, there = reference.facts.vision, artifact.facts.vision
    if here is None:
        return []
    if there is None:
        return [UNJUDGED, "the file holds the decoder alone"]
    return [
        UNJUDGED,
        _held_against("vision tower", reference, artifact, here.tower, there.tower),
        _held_against("projector", reference, artifact, here.projector, there.projector),
    ]


def _held_against(
    part: str,
    reference: WeightSource,
    artifact: WeightSource,
    here: tuple[TensorFacts, ...],
    there: tuple[TensorFacts, ...],
) -> str:
    """Names and shapes alike, then the values."""
    expected = {tensor.name: tensor.shape for tensor in here}
    if expected != {tensor.name: tensor.shape for tensor in there}:
        raise MismatchError(
            f"the {part} of `{artifact.facts.path}` has other tensors than that of `{reference.facts.path}`",
            hint="give --reference the model that the artifact was made from",
        )
    errors = {name: _relative_error(reference.load(name), artifact.load(name)) for name in expected}
    worst = max(errors, key=lambda name: errors[name])
    if not errors[worst]:
        return f"the {part} is the reference's, bit for bit ({len(errors)} tensors)"
    changed = sum(error > 0 for error in errors.values())
    return (
        f"the {part} differs from the reference's in {changed} of {len(errors)} tensors, by a relative squared error "
        f"of up to {errors[worst]:.2g} (`{worst}`)"
    )


def _relative_error(here: torch.Tensor, there: torch.Tensor) -> float:
    if here.dtype == there.dtype and torch.equal(here, there):
        return 0.0
    error = (there.float() - here.float()).double().square().sum()
    return float(error / here.double().square().sum().clamp_min(torch.finfo(torch.float32).tiny))
