"""What a launch is judged against: the device, and what is known of the model by its name, its folder or its plan."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from bitwright.core.errors import BitwrightError
from bitwright.core.plan import ArtifactFormat, DeviceFacts, ModelFacts, TensorPlan
from bitwright.core.ranking import Regime
from bitwright.facts.catalogue import catalogue, catalogue_facts
from bitwright.facts.checkpoint import read_config

# How a name says what its weights are: kind, bits of a weight with its scales.
KINDS: tuple[tuple[str, str, float], ...] = (
    (r"nvfp4|fp4", "nvfp4", 4.5),
    (r"mxfp4", "mxfp4", 4.25),
    (r"bnb|bitsandbytes", "bitsandbytes", 4.5),
    (r"awq", "awq", 4.25),
    (r"gptq.*(int8|8bit)", "gptq", 8.25),
    (r"gptq|autoround", "gptq", 4.25),
    (r"w8a8[-_.]?fp8|fp8", "fp8", 8.0),
    (r"w8a8", "w8a8", 8.0),
    (r"w8a16", "w8a16", 8.25),
    (r"w4a16|int4|4bit", "w4a16", 4.25),
    (r"gguf|q[2-8]_[k0]", "gguf", 4.8),
)
FOUR_BITS = ("awq", "gptq", "w4a16", "bitsandbytes")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """The model of a launch, as far as it is known. `bits` are per weight of a matrix, 16 for floating point."""

    name: str = ""
    kind: str = ""  # of KINDS, empty for floating point
    bits: float = 16.0
    facts: ModelFacts | None = None
    act_order: bool = False
    compressed: bool = False  # a compressed-tensors folder
    tensors: tuple[TensorPlan, ...] = ()  # of an artifact that was planned
    format: ArtifactFormat = "compressed-tensors"  # of these


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Where it runs and what."""

    served: Served
    device: DeviceFacts | None = None
    regime: Regime | None = None  # of decoding, where it was predicted
    device_is_named: bool = False  # by a target; a manifest's selector tells the kind and not the number

    @property
    def capability(self) -> tuple[int, int] | None:
        major, dot, minor = ((self.device.compute_capability if self.device else None) or "").partition(".")
        return (int(major), int(minor)) if dot and major.isdigit() and minor.isdigit() else None

    def before(self, *least: int) -> bool:
        """Whether the device is known and older than a compute capability."""
        return self.capability is not None and self.capability < least


def served_by_name(name: str, quantization: str | None = None) -> Served:
    """What a path or hub name says, and the folder's config.json where there is one."""
    lower = name.lower()
    kind, bits = next(((kind, bits) for pattern, kind, bits in KINDS if re.search(pattern, lower)), ("", 16.0))
    if not kind and quantization:
        kind, bits = next(
            ((kind, bits) for pattern, kind, bits in KINDS if re.search(pattern, quantization.lower())), ("", 16.0)
        )
    settings = _quantization_config(Path(name))
    if settings.get("quant_method") in ("awq", "gptq", "fp8", "bitsandbytes"):
        kind, bits = str(settings["quant_method"]), float(settings.get("bits") or 4.25)
    return Served(
        name=name,
        kind=kind,
        bits=bits,
        facts=_facts_by_name(lower),
        act_order=bool(settings.get("desc_act")) and bool(settings.get("static_groups")) is False,
        compressed=settings.get("quant_method") == "compressed-tensors" or "-ct" in lower,
    )


def _quantization_config(folder: Path) -> dict[str, Any]:
    try:
        found = read_config(folder).get("quantization_config") if folder.name and folder.is_dir() else None
    except BitwrightError:
        return {}
    return found if isinstance(found, dict) else {}


def _facts_by_name(name: str) -> ModelFacts | None:
    """The row of the catalogue whose id the name contains as whole words, the longest of them."""
    flat = re.sub(r"[^a-z0-9]+", " ", re.sub(r"meta-llama|llama-?(?=[23])", "llama ", name.rsplit("/", 1)[-1]))
    fitting = []
    for row in catalogue().values():
        for known in (row.id, *row.aliases, row.hub.rsplit("/", 1)[-1].lower()):
            words = re.sub(r"[^a-z0-9]+", " ", re.sub(r"llama-?(?=[23])", "llama ", known))
            if f" {words} " in f" {flat} ":
                fitting.append((len(words), row))
    return catalogue_facts(max(fitting, key=lambda pair: pair[0])[1]) if fitting else None
