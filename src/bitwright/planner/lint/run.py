"""From a text to findings: what kind of text it is, which checks it goes through.

Not here: reading files (api/linting.py), drawing (cli).
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from bitwright.core.documents import read_document
from bitwright.core.errors import BitwrightError, InputError, UsageError
from bitwright.core.findings import Finding, LintRecord
from bitwright.core.plan import DeviceFacts, Plan
from bitwright.core.records import QuantRecord
from bitwright.planner.lint.fit import check_fit
from bitwright.planner.lint.launches import Launch, read_text
from bitwright.planner.lint.manifests import check_manifests, contained_launches, read_manifests
from bitwright.planner.lint.options import check_options, fractions_copied
from bitwright.planner.lint.plans import check_plan, plan_device, plan_launches, plan_regime, plan_served
from bitwright.planner.lint.serving import check_serving
from bitwright.planner.lint.world import World, served_by_name

KNOWN = (
    "vllm serve, sglang serve, trtllm-serve, llama-server, lmdeploy serve api_server, text-generation-launcher, "
    "ollama, transformers serve, or docker run of their images"
)


def lint(text: str, subject: str, device: DeviceFacts | None = None) -> LintRecord:
    """Everything wrong in a plan, a manifest, or launch lines.

    Raises `InputError` for a document that is damaged, and `UsageError` for a text without any launch.
    """
    start = text.lstrip()
    if start.startswith("{"):
        return _record(subject, *_plan(text, subject, device))
    if any(line.startswith(("apiVersion:", "kind:")) for line in text.splitlines()):
        return _record(subject, *_manifest(text, device))
    launches = read_text(text)
    if not launches:
        raise UsageError(f"`{subject}` holds no command that starts an engine", hint=f"known are {KNOWN}")
    findings = [found for launch in launches for found in _of_launch(launch, device)]
    return _record(subject, launches, [*findings, *fractions_copied(launches)])


def _record(subject: str, launches: list[Launch], findings: list[Finding]) -> LintRecord:
    return LintRecord(subject=subject, launches=len(launches), findings=tuple(dict.fromkeys(findings)))


def _of_launch(launch: Launch, device: DeviceFacts | None, *, named: bool = True) -> list[Finding]:
    plan = _plan_of_artifact(Path(launch.model)) if launch.model else None
    served = plan_served(plan) if plan is not None else served_by_name(launch.model or "", launch.value("quantization"))
    world = World(served=served, device=device, device_is_named=named)
    return [*check_options(launch), *check_serving(launch, world), *check_fit(launch, world)]


def _manifest(text: str, device: DeviceFacts | None) -> tuple[list[Launch], list[Finding]]:
    documents = read_manifests(text)
    contained = contained_launches(documents)
    findings = [found for each in contained for found in _of_launch(each.launch, each.device or device, named=False)]
    launches = [each.launch for each in contained]
    return launches, [*findings, *check_manifests(documents, contained), *fractions_copied(launches)]


def _plan(text: str, subject: str, device: DeviceFacts | None) -> tuple[list[Launch], list[Finding]]:
    try:
        head = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        document = bytes(head["plan"]).decode() if "plan" in head and "reasons" not in head else text  # quant.json
        plan = msgspec.json.decode(document, type=Plan)
    except msgspec.MsgspecError as error:
        raise InputError(
            f"`{subject}` is no plan: {error}", hint="a plan is what `bitwright plan --out` writes"
        ) from error
    if device is not None:
        plan = msgspec.structs.replace(plan, device=device, target=None)
    launches = plan_launches(plan)
    findings = [*check_plan(plan)]
    for launch in launches:
        world = World(
            served=plan_served(plan), device=plan_device(plan), device_is_named=True, regime=plan_regime(plan)
        )
        findings += [*check_options(launch), *check_serving(launch, world)]  # memory is the plan's own
    return launches, findings


def _plan_of_artifact(path: Path) -> Plan | None:
    """The plan in an artifact's folder, if the model of a line is one."""
    try:
        return read_document(QuantRecord, path / "quant.json").plan if path.is_dir() else None
    except BitwrightError:
        return None
