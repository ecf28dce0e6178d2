"""Which of the handbooks' rules hold for a model, a device and a load, and what they ask for together.

Rules stand in order of strength: what a stronger one prefers goes before what a weaker one does, and what any of them
avoids goes behind all. A rule knows only what was said and what is in the tables; predicted figures are the ranking's.

The regime that rules speak of is that of 4-bit weights, because these are what it decides on: with M requests in a step
a matrix takes max(bytes / bandwidth, 2 M / rate) for each weight, so that half a byte stops paying off at
M = rate / (4 bandwidth): 74 requests on an H100, 38 on an A100. Experts see their share of M.

Not here: the rows (facts/decision_rules.toml), the order of ways (ranking.py).
"""

from __future__ import annotations

import dataclasses

from bitwright.core.choices import ArtifactFormat, Reason
from bitwright.core.devices import DeviceFacts
from bitwright.core.plan import ModelFacts
from bitwright.core.ranking import Regime
from bitwright.core.target import Target
from bitwright.facts.compressed_types import COMPRESSED_TYPES
from bitwright.facts.decision_rules import Draft, Rule, Setting, When, decision_rules, drafts
from bitwright.facts.engine_kernels import find_kernel, is_named
from bitwright.facts.gguf_mixtures import PRESETS
from bitwright.planner.capability import capability_of, place_of, version_of
from bitwright.planner.engine_names import LLAMA_CPP, ROWS, VLLM

FLOAT = "float"  # the checkpoint's own type
FLOAT_LABELS = ("BF16", "F16", "F32")
BYTES_OF_FOUR_BITS = 0.5
DRAFT_RATIO = 10  # a draft must be so many times smaller
COMPUTED = {"fp8": "FP8_DYNAMIC", "int8": "W8A8"}  # the type that stands for all of a kind


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Guidance:
    """The rules that fired, strongest first, and the sum of them. Types are called by their first word."""

    format: ArtifactFormat
    rules: tuple[Rule, ...]
    order: tuple[str, ...]  # types that are preferred, the best first; avoided ones last
    words: dict[str, str]  # for the places in sentences

    @property
    def adds(self) -> frozenset[Setting]:
        return frozenset(setting for rule in self.rules for setting in rule.adds)

    def place(self, label: str) -> int:
        """Of a type among all: avoided ones stand behind those that no rule names."""
        kind = kind_of(label)
        if any(kind in rule.avoid for rule in self.rules):
            return len(self.order) + 1
        return self.order.index(kind) if kind in self.order else len(self.order)

    def of_type(self, label: str) -> tuple[Reason, ...]:
        """What rules say of a type, strongest first."""
        kind = kind_of(label)
        return tuple(
            self.reason(rule, label if kind in rule.prefer else f"{label} behind others")
            for rule in self.rules
            if kind in rule.prefer or kind in rule.avoid
        )

    def of_setting(self, setting: Setting, choice: str = "") -> tuple[Reason, ...]:
        """The first rule that adds a setting, as a reason."""
        found = (self.reason(rule, choice or setting) for rule in self.rules if setting in rule.adds)
        return tuple(reason for reason, _ in zip(found, range(1), strict=False))

    def reason(self, rule: Rule, choice: str) -> Reason:
        """A rule's sentence, its places filled in."""
        return Reason(choice=choice, because=rule.because.format(**self.words), source=rule.source)


def guidance(facts: ModelFacts, target: Target, wanted: ArtifactFormat | None = None) -> Guidance:
    """What the rules ask for. `wanted` is a format that was asked for; else the rules take one."""
    device = target.device
    taking = next(rule for rule in decision_rules() if rule.takes and holds(rule.when, facts, target, None))
    format = wanted or taking.takes
    assert format is not None
    formats = [format]
    if LLAMA_CPP in target.constraints.engines and format != "gguf":
        formats.append("gguf")
    fired = [rule for rule in decision_rules() if not rule.takes and _fires(rule, facts, target, formats)]
    avoided = {kind for rule in fired for kind in rule.avoid}
    preferred = dict.fromkeys(kind for rule in fired for kind in rule.prefer if usable(kind, device, formats))
    order = sorted(preferred, key=lambda kind: (kind in avoided, (kind in PRESETS) != (format == "gguf")))
    words = {
        "device": device.name, "use_case": target.floor.use_case, "prefix": str(target.workload.shared_prefix_tokens)
    }  # fmt: skip
    first = () if wanted is not None else (taking,)
    return Guidance(format=format, rules=(*first, *fired), order=tuple(order), words=words)


def _fires(rule: Rule, facts: ModelFacts, target: Target, formats: list[ArtifactFormat]) -> bool:
    return any(holds(rule.when, facts, target, format) for format in formats)


def holds(when: When, facts: ModelFacts, target: Target, format: ArtifactFormat | None) -> bool:
    """Whether all that a rule asks for is so."""
    return (
        (when.format is None or when.format == format)
        and _of_device(when, target.device)
        and _of_model(when, facts)
        and _of_load(when, facts, target)
        and _of_limits(when, target)
    )


def _of_device(when: When, device: DeviceFacts) -> bool:
    found = capability_of(device) or (0, 0)
    least, below = version_of(when.capability_from or ""), version_of(when.capability_below or "")
    return (
        when.kind in (None, device.kind)
        and (least is None or found >= least)
        and (below is None or (0, 0) < found < below)
        and (not when.architectures or is_named(when.architectures, device.architecture))
        and (when.computes is None or computes(device, when.computes))
        and (when.devices_from is None or device.count >= when.devices_from)
        and (when.link_below is None or (device.link_gb_s is not None and device.link_gb_s < when.link_below))
    )


def _of_model(when: When, facts: ModelFacts) -> bool:
    billions = facts.parameters / 1e9
    return (
        (when.billions_from is None or billions >= when.billions_from)
        and (when.billions_below is None or billions < when.billions_below)
        and (not when.adapter or bool(facts.adapter))
        and facts.family not in when.families_not
    )


def _of_load(when: When, facts: ModelFacts, target: Target) -> bool:
    work = target.workload
    return (
        (when.regime is None or when.regime == regime(facts, target))
        and (when.concurrency_to is None or work.concurrency <= when.concurrency_to)
        and (when.context_from is None or work.context >= when.context_from)
        and (when.output_from is None or work.output_tokens >= when.output_from)
        and (not when.shared_prefix or work.shared_prefix_tokens > 0)
    )


def _of_limits(when: When, target: Target) -> bool:
    ttft, speed = target.limits.ttft_seconds, target.limits.user_tokens_per_second
    critical = target.aim == "latency" or ttft is not None or speed is not None
    return (
        (not when.use_cases or target.floor.use_case in when.use_cases)
        and (when.ttft_below is None or (ttft is not None and ttft < when.ttft_below))
        and (not when.latency_critical or critical)
        and (when.floor_to is None or target.floor.perplexity_delta <= when.floor_to)
    )


def regime(facts: ModelFacts, target: Target) -> Regime:
    """Whether the load's requests at once keep a step of 4-bit weights busy with arithmetic."""
    rates, bandwidth = target.device.rates, target.device.bandwidth_gb_s
    rate = None if rates is None else rates.bf16 or rates.fp16
    if rate is None or bandwidth is None:
        return "memory"
    share = 1.0 if facts.experts is None else facts.experts.per_token / facts.experts.count
    most = rate * 1e12 * BYTES_OF_FOUR_BITS / (2 * bandwidth * 1e9)
    return "compute" if target.workload.concurrency * share >= most else "memory"


def computes(device: DeviceFacts, kind: str) -> bool:
    """Whether a device multiplies a type faster than 16 bits, and vLLM has a kernel that makes use of it."""
    if device.rates is not None:
        narrow, wide = getattr(device.rates, kind), device.rates.bf16 or device.rates.fp16
        if narrow is None or (wide is not None and narrow <= wide):
            return False
    return _has_kernel(device, COMPUTED[kind])


def _has_kernel(device: DeviceFacts, name: str) -> bool:
    """Whether vLLM multiplies in a type there, rather than in 16 bits."""
    if device.kind == "cpu":
        return False
    return find_kernel(ROWS[VLLM], "compressed-tensors", COMPRESSED_TYPES[name], place_of(device)).how == "computes"


def usable(kind: str, device: DeviceFacts, formats: list[ArtifactFormat]) -> bool:
    """Whether a type may be preferred at all: of a format that is looked at, and computed as it is meant to be."""
    if kind in PRESETS:
        return "gguf" in formats
    if "compressed-tensors" not in formats:
        return False
    return kind not in COMPUTED.values() or _has_kernel(device, kind)


def draft_for(facts: ModelFacts) -> Draft | None:
    """A small model of the catalogue with the same vocabulary, `None` where there is none."""
    return next(
        (
            row
            for row in drafts()
            if (row.family, row.vocab) == (facts.family, facts.vocab)
            and facts.parameters >= DRAFT_RATIO * row.billions * 1e9
        ),
        None,
    )


def kind_of(label: str) -> str:
    """How rules call the type of a label: by its first word, floats alike."""
    kind = label.partition(" ")[0]
    return FLOAT if kind in FLOAT_LABELS else kind
