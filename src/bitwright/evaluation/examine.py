"""All findings about the weights of an artifact: each broken tensor with its cause, and what they have in common.

Not here: the causes (causes.py), settings (settings.py), activations (lockstep.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch

from bitwright.core.diagnosis import PartCheck
from bitwright.core.errors import InputError
from bitwright.core.findings import Diagnosis
from bitwright.core.plan import ModelFacts, TensorFacts
from bitwright.core.protocols import SILENT, Progress, WeightSource
from bitwright.evaluation.causes import Case, explain
from bitwright.evaluation.tiles import fit
from bitwright.evaluation.weights import (
    TensorCheck,
    WeightsCheck,
    WeightsWatch,
    bits_of,
    layer_of,
    reference_name,
    watch,
)
from bitwright.facts.doctor_rules import diagnosis
from bitwright.tensors.qtensor import QTensor

SHARED, HALF = 0.5, 0.5  # matrices with the same flaw that make it the file's; steps that are no rounding
VAGUE = ("too-far", "unrelated", "damaged", "norm")  # true of most tensors of a model that was changed as a whole
Coded = Callable[[str], QTensor | None]


def examine(
    reference: WeightSource,
    artifact: WeightSource,
    *,
    coded: Coded = lambda name: None,
    progress: Progress = SILENT,
) -> tuple[WeightsWatch, WeightsCheck, list[Diagnosis]]:
    """Compare all tensors of the decoder and explain the broken ones. `coded` gives codes and scales, where a
    format stores them as integers in groups."""
    watched = watch(reference, artifact)
    check = watched.finish(progress)
    found = [_missing(name, reference.facts) for name in check.missing]
    told = [_explained(tensor, reference, artifact, watched, coded) for tensor in check.unsound]
    found += [one for one in told if not (check.transformed and one.rule in VAGUE)]
    found += [diagnosis("extra-tensor", name, name=name) for name in check.extra]
    if check.transformed:
        total = len([tensor for tensor in check.tensors if tensor.fit is not None])
        found.append(diagnosis("transformed", artifact.facts.path, count=check.far, total=total))
    return watched, check, found


def examine_vision(reference: WeightSource, artifact: WeightSource) -> tuple[list[PartCheck], list[Diagnosis]]:
    """The same of what lies beside the decoder; nothing for other models, or a file that holds the decoder alone."""
    here, there = reference.facts.vision, artifact.facts.vision
    if here is None or there is None:
        return [], []
    parts, findings = [], []
    for part, expected, stored in (
        ("vision tower", here.tower, there.tower), ("projector", here.projector, there.projector)
    ):  # fmt: skip
        held = {tensor.name: tensor for tensor in stored}
        checks = []
        for tensor in expected:
            if tensor.name not in held:
                findings.append(_missing(tensor.name, reference.facts, part))
                continue
            check, found = _beside(reference, artifact, held[tensor.name], part, expected)
            checks.append(check)
            findings += found
        parts += part_checks(part, checks)
    return parts, findings


def part_checks(part: str, checks: Sequence[TensorCheck]) -> list[PartCheck]:
    """All tensors of one path as a row; none without any."""
    fits = {check.name: check.fit for check in checks if check.fit is not None}
    if not fits:
        return []
    worst = max(fits, key=lambda name: fits[name].error)
    return [
        PartCheck(
            part=part, tensors=len(checks), broken=sum(not check.sound for check in checks),
            bits=min(check.bits for check in checks), error=fits[worst].error, worst=worst,
        )
    ]  # fmt: skip


def _beside(
    reference: WeightSource, artifact: WeightSource, tensor: TensorFacts, part: str, beside: Iterable[TensorFacts]
) -> tuple[TensorCheck, list[Diagnosis]]:
    """One tensor of `part`, and what is wrong with it."""
    name, bits = tensor.name, bits_of(tensor)

    def unreadable(message: str) -> tuple[TensorCheck, list[Diagnosis]]:
        told = diagnosis("unreadable", name, message=message, part=part)
        return TensorCheck(name=name, bits=bits, fault=message), [told]

    try:
        values = reference.load(name).float(), artifact.load(name).float()
    except InputError as error:
        return unreadable(error.message)
    if values[0].shape != values[1].shape:
        return unreadable(f"`{name}` is {list(values[1].shape)}")
    here, there = (value if value.dim() < 2 else value.reshape(len(value), -1) for value in values)
    found = fit(here, there, bits)
    check = TensorCheck(name=name, bits=bits, fit=found)
    if found.sound:
        return check, []
    peers = tuple(other.name for other in beside if other.shape == tensor.shape and other.name != name)
    case = Case(
        name=name, here=here, there=there, fit=found, bits=bits, facts=reference.facts, peers=peers, part=part,
        reference=lambda other: reference.load(other).float().reshape(here.shape),
        artifact=lambda other: artifact.load(other).float().reshape(here.shape),
    )  # fmt: skip
    return check, [explain(case)]


def shared_flaws(
    findings: Sequence[Diagnosis], watched: WeightsWatch, coded: Coded, version: str | None
) -> list[Diagnosis]:
    """One finding in place of all where every matrix is a step off; `version` is what a GPTQ config says of its format.

    A step is much beside the scale of the smallest groups and little beside that of the largest, so some of the
    matrices are found broken in other ways, and some not at all: all are looked at again.
    """
    if version is None or not any(finding.rule == "zero-point" for finding in findings):
        return list(findings)
    steps = [found for name in watched.names() if (found := watched.steps_of(name, coded(name))) is not None]
    off = [found for found in steps if abs(found) > HALF]
    if len(off) <= SHARED * len(steps):
        return list(findings)
    other = {"gptq": "gptq_v2", "gptq_v2": "gptq"}[version]
    key = "quantization_config.checkpoint_format"
    one = diagnosis(
        "zero-point-version", key, part="settings", key=key, found=version, expected=other, count=len(off),
        total=len(steps), evidence={"matrices": len(off), "steps": sum(off) / len(off)},
    )  # fmt: skip
    return [one, *(finding for finding in findings if layer_of(finding.where) is None)]


def _missing(name: str, facts: ModelFacts, part: str = "decoder") -> Diagnosis:
    return diagnosis("missing-tensor", name, architecture=facts.architecture, part=part)


def _explained(
    tensor: TensorCheck, reference: WeightSource, artifact: WeightSource, watched: WeightsWatch, coded: Coded
) -> Diagnosis:
    name = tensor.name
    if tensor.fault or tensor.fit is None:
        return diagnosis("unreadable", name, message=tensor.fault)
    scales = watched.scales.get(layer_of(name))

    def here(other: str) -> torch.Tensor:
        value: torch.Tensor = reference.load(reference_name(other, reference.facts)).float()
        return value if scales is None or other != name else scales.scaled(other, value)

    bare: torch.Tensor = reference.load(reference_name(name, reference.facts)).float()
    shape = {one.name: one.shape for one in reference.facts.tensors}
    peers = [one for one, size in shape.items() if size == shape.get(name) and one != name]
    layer = layer_of(name)
    peers.sort(key=lambda one: (layer_of(one) != layer, one.rpartition(".")[0] != name.rpartition(".")[0]))
    expected, there = here(name), artifact.load(name).float()
    return explain(
        Case(
            name=name, here=expected, there=there, fit=fit(expected, there, tensor.bits), bits=tensor.bits,
            facts=reference.facts, reference=here, artifact=lambda other: artifact.load(other).float(),
            peers=tuple(peers), bare=None if torch.equal(expected, bare) else bare, coded=lambda: coded(name),
        )
    )  # fmt: skip
