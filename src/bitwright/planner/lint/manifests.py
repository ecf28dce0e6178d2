"""Kubernetes manifests: the launches of their containers, and what stands around them.

Looked at are containers wherever they stand (pods, workloads, templates of operators), probes, GPUs, shared memory,
scraping by annotation, ServiceMonitor or PodMonitor, and autoscalers. YAML is read without its power to build objects.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

from bitwright.core.errors import InputError
from bitwright.core.findings import Finding
from bitwright.core.plan import DeviceFacts
from bitwright.facts.device_rows import device_of, hardware_rows
from bitwright.facts.engine_flags import Endpoint, endpoints, metrics, renamed_metrics
from bitwright.facts.lint_rules import finding
from bitwright.planner.lint.launches import Launch, image_words, launch_of

Node = dict[str, Any]
GPUS = ("nvidia.com/gpu", "amd.com/gpu")
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
KEY_VARIABLES = ("VLLM_API_KEY", "LLAMA_API_KEY")
SEVERAL_NODES = ("LeaderWorkerSet", "RayCluster", "RayService")  # whose containers hold a part of the devices
SET_ELSEWHERE = "$set-elsewhere"
MONITORS = {"ServiceMonitor": "endpoints", "PodMonitor": "podMetricsEndpoints"}
PRODUCTS = ("nvidia.com/gpu.product",)  # reported names, with dashes: NVIDIA's feature discovery


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Contained:
    """A launch in a container, and the container."""

    launch: Launch
    container: Node
    pod: Node
    annotations: Node

    @property
    def gpus(self) -> int | None:
        """GPUs that the container asks for; `None` where it says nothing."""
        resources = _dict(self.container.get("resources"))
        for part in ("limits", "requests"):
            for name in GPUS:
                if str(value := _dict(resources.get(part)).get(name, "")).isdigit():
                    return int(value)
        return None

    @property
    def device(self) -> DeviceFacts | None:
        """The device that the pod's node selector names."""
        chosen = _dict(self.pod.get("nodeSelector"))
        labels = {str(chosen.get(label, "")).lower() for label in PRODUCTS} - {""}
        for row in hardware_rows().values():
            if labels & {name.lower().replace(" ", "-") for name in row.reported_names}:
                return device_of(row, self.gpus or 1)
        return None


def read_manifests(text: str) -> list[Node]:
    """The documents of a YAML text. Raises `InputError`."""
    import yaml

    try:
        return [document for document in yaml.safe_load_all(text) if isinstance(document, dict)]
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where is not None else ""
        raise InputError(f"the text is not valid YAML{line}: {getattr(error, 'problem', error)}") from error


def contained_launches(documents: list[Node]) -> list[Contained]:
    """Launches of all containers."""
    found = []
    for document in documents:
        name = f"{document.get('kind', 'document')}/{_dict(document.get('metadata')).get('name', '')}"
        for pod, notes in _pods(document, _dict(_dict(document.get("metadata")).get("annotations"))):
            for container in pod["containers"]:
                if isinstance(container, dict):
                    where = f"{name}, container {container.get('name', '')}"
                    found += [
                        Contained(launch=launch, container=container, pod=pod, annotations=notes)
                        for launch in _launches(container, where)
                    ]
    return found


def check_manifests(documents: list[Node], contained: list[Contained]) -> Iterator[Finding]:
    """Everything but the launches themselves."""
    for each in contained:
        yield from _gpus(each)
        yield from _probes(each)
        yield from _scraped_by_annotation(each)
    engines = {each.launch.engine: each for each in contained}
    for document in documents:
        where = f"{document.get('kind', 'document')}/{_dict(document.get('metadata')).get('name', '')}"
        yield from _renamed(document, where)
        if len(engines) == 1:
            (one,) = engines.values()
            yield from _monitor(document, where, one)
            yield from _autoscaler(document, where, one)


def _launches(container: Node, where: str) -> list[Launch]:
    command = [str(word) for word in container.get("command") or ()]
    arguments = [str(word) for word in container.get("args") or ()]
    words = [*command, *arguments] if command else image_words(str(container.get("image", "")), arguments)
    env = {}
    for entry in container.get("env") or ():
        if isinstance(entry, dict) and "name" in entry:
            env[str(entry["name"])] = str(entry["value"]) if "value" in entry else SET_ELSEWHERE
    if container.get("envFrom"):  # what it brings is not in the manifest, and a key mostly comes so
        env = dict.fromkeys(KEY_VARIABLES, SET_ELSEWHERE) | env
    return list(launch_of(words, env, where, contained=True))


def _pods(node: Any, annotations: Node) -> Iterator[tuple[Node, Node]]:
    """Every part with containers, with the annotations of the nearest metadata."""
    if isinstance(node, list):
        for part in node:
            yield from _pods(part, annotations)
    elif isinstance(node, dict):
        annotations = _dict(_dict(node.get("metadata")).get("annotations")) or annotations
        if isinstance(node.get("containers"), list):
            yield node, annotations
        for part in node.values():
            yield from _pods(part, annotations)


def _gpus(each: Contained) -> Iterator[Finding]:
    launch, gpus = each.launch, each.gpus
    wanted = launch.devices
    if launch.engine in ("llama.cpp", "ollama", "transformers") or launch.where.startswith(SEVERAL_NODES):
        return
    if gpus is not None and gpus != wanted and not (launch.engine == "tgi" and launch.given("tensor-parallel") is None):
        tensors, stages = launch.number("tensor-parallel") or 1, launch.number("pipeline-parallel") or 1
        split = f"tensor parallel {tensors}, pipeline parallel {stages}, {launch.replicas} copies"
        yield finding("gpu-count", launch.where, gpus=gpus, wanted=wanted, split=split)
    mounts = {_dict(mount).get("mountPath") for mount in each.container.get("volumeMounts") or ()}
    if wanted > 1 and "/dev/shm" not in mounts and not each.pod.get("hostIPC"):
        yield finding("shared-memory", launch.where, wanted=wanted)


def _probes(each: Contained) -> Iterator[Finding]:
    launch = each.launch
    answers = endpoints().get(launch.engine)
    if answers is None:
        return
    liveness = "livenessProbe" in each.container
    if "startupProbe" not in each.container and liveness:
        yield finding("no-startup-probe", launch.where, path=answers.health)
    for name in PROBES:
        asked = _dict(_dict(each.container.get(name)).get("httpGet"))
        if asked:
            yield from _probe(each, name, asked, answers)


def _probe(each: Contained, name: str, asked: Node, answers: Endpoint) -> Iterator[Finding]:
    launch, path, port = each.launch, str(asked.get("path", "/")), _port(each.container, asked.get("port"))
    if path == "/health_generate":
        yield finding("probe-costly", launch.where, probe=name)
    elif path not in _health_paths(launch.engine):
        yield finding("probe-path", launch.where, probe=name, path=path, engine=launch.engine, expected=answers.health)
    listens = _listens(launch, answers)
    if port is not None and port != listens:
        yield finding("probe-port", launch.where, probe=name, port=port, engine=launch.engine, expected=listens)


def _health_paths(engine: str) -> tuple[str, ...]:
    others = {"vllm": ("/ping", "/v1/models"), "llama.cpp": ("/v1/health",), "sglang": ("/ready", "/v1/models"),
              "ollama": ("/api/version", "/api/ps")}  # fmt: skip
    return (endpoints()[engine].health, *others.get(engine, ()))


def _listens(launch: Launch, answers: Endpoint) -> int:
    in_containers = {"tgi": 80}
    own = launch.number("port")
    if own is None and launch.env.get("PORT", "").isdigit():
        own = int(launch.env["PORT"])
    return own or (in_containers.get(launch.engine, answers.port))


def _port(container: Node, port: Any) -> int | None:
    if isinstance(port, int):
        return port
    named = {entry.get("name"): entry.get("containerPort") for entry in map(_dict, container.get("ports") or ())}
    found = named.get(port)
    return found if isinstance(found, int) else None


def _scraped_by_annotation(each: Contained) -> Iterator[Finding]:
    wanted = {str(name).rsplit("/", 1)[-1]: str(value) for name, value in each.annotations.items()
              if str(name).startswith("prometheus.io/")}  # fmt: skip
    if wanted.get("scrape") == "true":
        yield from _scraped(each, wanted.get("path", "/metrics"), each.launch.where)


def _monitor(document: Node, where: str, each: Contained) -> Iterator[Finding]:
    parts = _dict(document.get("spec")).get(MONITORS.get(str(document.get("kind")), ""))
    for part in parts or ():
        yield from _scraped(each, str(_dict(part).get("path", "/metrics")), where)


def _scraped(each: Contained, path: str, where: str) -> Iterator[Finding]:
    launch, answers = each.launch, endpoints().get(each.launch.engine)
    if answers is None:
        return
    if path != answers.metrics:
        expected = answers.metrics or "no path at all"
        yield finding("metrics-path", where, path=path, engine=launch.engine, expected=expected)
    elif answers.needs.startswith("--") and not launch.says("metrics"):
        yield finding("metrics-off", where, engine=launch.engine, needs=answers.needs)


def _renamed(document: Node, where: str) -> Iterator[Finding]:
    texts = [*_strings(document)]
    for old, row in renamed_metrics().items():
        pattern = re.compile(rf"\b{re.escape(old).replace(':', '[:_]')}(?=_total|_bucket|_sum|_count|\b)(?!\w*_perc_)")
        if any(pattern.search(text) for text in texts):
            yield finding("metric-renamed", where, old=old, engine=row.engine, new=row.name)


def _autoscaler(document: Node, where: str, each: Contained) -> Iterator[Finding]:
    if document.get("kind") != "HorizontalPodAutoscaler" or not each.gpus:
        return
    spec = _dict(document.get("spec"))
    resources = {_dict(_dict(part).get("resource")).get("name") for part in spec.get("metrics") or ()}
    if "cpu" in resources or "targetCPUUtilizationPercentage" in spec:
        waiting = next(
            (row.name for row in metrics() if (row.engine, row.measures) == (each.launch.engine, "waiting")), "a queue"
        )
        yield finding("autoscale-on-cpu", where, metric=waiting)


def _strings(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, list):
        for part in node:
            yield from _strings(part)
    elif isinstance(node, dict):
        for name, part in node.items():
            yield str(name)
            yield from _strings(part)


def _dict(value: Any) -> Node:
    return value if isinstance(value, dict) else {}
