"""Checks of how a launch serves: programs that went, kernels and formats on the device, batching, the open door."""

from __future__ import annotations

from collections.abc import Iterator

from bitwright.core.choices import ArtifactFormat
from bitwright.core.findings import Finding
from bitwright.core.schemes import IntScheme, QuantScheme
from bitwright.facts.compressed_types import COMPRESSED_TYPES
from bitwright.facts.engine_flags import find_flag, flag_for
from bitwright.facts.engine_kernels import find_kernel
from bitwright.facts.lint_rules import finding
from bitwright.planner.capability import place_of
from bitwright.planner.engine_names import ROWS
from bitwright.planner.lint.launches import GONE, Launch
from bitwright.planner.lint.world import FOUR_BITS, World
from bitwright.planner.roofline import crossover

OLD_ENTRYPOINTS = {
    "vllm.entrypoints.openai.api_server": "vllm serve MODEL",
    "vllm.entrypoints.api_server": "vllm serve MODEL",
    "sglang.launch_server": "sglang serve --model-path MODEL",
}
RETIRED = {
    "tgi": ("TGI", "in maintenance since 2025-12-11", "vLLM, SGLang or llama.cpp"),
    "deepspeed-mii": ("DeepSpeed-MII", "without a release since 2025-03", "vLLM or SGLang"),
    "autogptq": ("AutoGPTQ", "archived", "`bitwright quantize`, GPTQModel or llm-compressor"),
    "autoawq": ("AutoAWQ", "archived since 2025-05", "`bitwright quantize --method awq`, or llm-compressor"),
}
OPEN_BY_DEFAULT = {"vllm": "all interfaces", "tgi": "0.0.0.0", "lmdeploy": "0.0.0.0"}
EVERYWHERE = ("0.0.0.0", "::", "[::]", "*")
KEYS = {
    "vllm": "the variable VLLM_API_KEY",
    "llama.cpp": "--api-key-file",
    "sglang": "--api-key",
    "lmdeploy": "--api-keys",
}
PLUGINS = {
    "gguf": ("GGUF", "0.24", "serve it with llama.cpp (`bitwright serve`), or pip install vllm-gguf-plugin"),
    "bitsandbytes": ("bitsandbytes", "0.28", "quantize as compressed-tensors or GPTQ, or pip install vllm-bnb-plugin"),
}
LARGE_BATCH = 256  # requests; about where an H100 turns compute bound with 16-bit weights (295)
WIDENING = {"vllm", "sglang", "tgi"}
LEAST = {"awq": (7, 5), "w4a16": (7, 5), "w8a8": (7, 5), "fp8": (7, 5), "nvfp4": (7, 5)}  # of vLLM 0.32

# What a name's kind stands for where kernels are looked up
STANDING: dict[str, tuple[str, ArtifactFormat, QuantScheme]] = {
    "fp8": ("FP8", "compressed-tensors", COMPRESSED_TYPES["FP8_DYNAMIC"]),
    "w8a8": ("W8A8", "compressed-tensors", COMPRESSED_TYPES["W8A8"]),
    "nvfp4": ("NVFP4", "compressed-tensors", COMPRESSED_TYPES["NVFP4"]),
    "w4a16": ("W4A16", "compressed-tensors", IntScheme(bits=4, group_size=128)),
    "w8a16": ("W8A16", "compressed-tensors", IntScheme(bits=8, group_size=128)),
    "awq": ("AWQ", "awq", IntScheme(bits=4, group_size=128, symmetric=False)),
    "gptq": ("GPTQ", "gptq", IntScheme(bits=4, group_size=128)),
}


def check_serving(launch: Launch, world: World) -> Iterator[Finding]:
    """All checks of one launch beyond its options."""
    yield from _program(launch)
    yield from _device(launch, world)
    yield from _kernels(launch, world)
    yield from _plugins(launch, world)
    yield from _batching(launch, world)
    yield from _llama_cpp(launch)
    yield from _door(launch)


def _program(launch: Launch) -> Iterator[Finding]:
    words, where = launch.program.split(), launch.where
    for command in GONE:
        row = find_flag("tensorrt-llm", command)
        if row is not None and any(word.endswith(command) for word in words):
            yield finding("command-removed", where, command=command, instead=f"use {row.instead}")
    module = next((word for word in words if word in OLD_ENTRYPOINTS), None)
    if module is not None:
        yield finding(
            "entrypoint-old",
            where,
            command=f"python -m {module}",
            engine=launch.engine,
            instead=OLD_ENTRYPOINTS[module],
        )
    if launch.engine in RETIRED:
        name, state, instead = RETIRED[launch.engine]
        yield finding("engine-retired", where, name=name, state=state, instead=instead)


def _device(launch: Launch, world: World) -> Iterator[Finding]:
    device, kind, where = world.device, world.served.kind, launch.where
    if device is None or device.kind == "cpu" or launch.engine in ("llama.cpp", "ollama"):
        return
    place = place_of(device)
    if isinstance(place, str):
        yield from _other_device(launch, world, device.name, place)
        return
    if world.before(8, 0) and (launch.value("dtype") or "").startswith("bf"):
        yield finding("bf16-before-ampere", where, device=device.name)
    least = LEAST.get(kind)
    if least is not None and launch.engine in ("vllm", "sglang") and world.before(*least):
        yield finding(
            "capability-too-low", where, device=device.name, capability=device.compute_capability, kind=kind,
            engine=launch.engine, least=".".join(map(str, least)),
        )  # fmt: skip
    elif kind == "fp8" and world.before(8, 9):
        yield finding("fp8-compute", where, device=device.name)
    elif kind == "nvfp4" and world.before(10, 0):
        rule = "fp4-fails" if launch.engine == "sglang" and world.served.compressed else "fp4-compute"
        yield finding(rule, where, device=device.name)
    elif kind == "w8a8" and world.capability is not None and world.capability >= (10, 0):
        yield finding("int8-on-new-blackwell", where, device=device.name)


def _other_device(launch: Launch, world: World, device: str, place: str) -> Iterator[Finding]:
    """AMD's and Intel's: what the table of kernels says. What nobody looked up is not judged."""
    engine, known = ROWS.get(launch.engine, ""), STANDING.get(world.served.kind)
    if known is None:
        return
    label, format, scheme = known
    row = find_kernel(engine, format, scheme, place)
    if row.how == "fails":
        yield finding(
            "not-loaded", launch.where, engine=engine, scheme=label, device=device, because=row.because,
            fix="take another type: W4A16 runs on all of them; `bitwright plan` names what suits",
        )  # fmt: skip
    elif row.how in ("emulates", "expands"):
        yield finding(
            "emulated", launch.where, engine=launch.engine, scheme=label, device=device,
            how="emulated in 16 bits" if row.how == "emulates" else "weights are expanded to 16 bits",
        )  # fmt: skip


def _kernels(launch: Launch, world: World) -> Iterator[Finding]:
    served, where = world.served, launch.where
    given, value = launch.given("quantization"), launch.value("quantization") or ""
    if served.act_order and launch.engine in WIDENING:
        yield finding("act-order", where)
    wanted = value.replace("auto_", "").replace("_marlin", "")
    if given is not None and served.kind in ("awq", "gptq") and wanted in ("awq", "gptq") and wanted != served.kind:
        yield finding("quantization-mismatch", where, flag=given.name, value=value, kind=served.kind)
    elif launch.engine == "sglang" and value == "awq":
        yield finding("slow-awq-kernel", where, what="`--quantization awq`", instead="write awq_marlin")
    elif launch.engine == "sglang" and value == "gptq":
        yield finding("kernel-gone", where)
    on_amd = world.device is not None and world.device.architecture.startswith("gfx")  # where it is the only one
    if launch.env.get("VLLM_USE_TRITON_AWQ") not in (None, "0") and not on_amd:
        yield finding("slow-awq-kernel", where, what="VLLM_USE_TRITON_AWQ=1", instead="set it to 0")


def _plugins(launch: Launch, world: World) -> Iterator[Finding]:
    if launch.engine != "vllm":
        return
    loading = launch.flag("--load-format")
    asked = {launch.value("quantization"), *(loading.values if loading is not None else ())}
    for name, (kind, version, fix) in PLUGINS.items():
        if world.served.kind == name or name in asked:
            yield finding("plugin-needed", launch.where, kind=kind, version=version, fix=fix)


def _batching(launch: Launch, world: World) -> Iterator[Finding]:
    requests = launch.number("concurrency")
    if world.served.kind in FOUR_BITS and launch.engine in WIDENING and requests is not None:
        limit = compute_bound_from(world)
        if world.regime == "compute" or (requests >= limit and world.regime is None):
            yield finding("int4-compute-bound", launch.where, requests=requests, limit=limit)
    if launch.engine == "llama.cpp" and launch.flag("--no-cont-batching", "-nocb") is not None:
        yield finding("static-batching", launch.where, what="continuous batching is off", fix="leave -nocb away")
    if launch.engine == "transformers" and "--continuous-batching" not in launch.arguments:
        yield finding(
            "static-batching", launch.where, what="transformers serve without --continuous-batching",
            fix="add --continuous-batching, or serve with vLLM",
        )  # fmt: skip


def compute_bound_from(world: World) -> int:
    """Requests at once from which 16-bit products bound a step of decoding, and widened weights lose."""
    device = world.device
    rate = (device.rates.fp16 or device.rates.bf16) if device is not None and device.rates is not None else None
    if device is None or rate is None or not device.bandwidth_gb_s:
        return LARGE_BATCH
    return min(LARGE_BATCH, round(crossover(2.0, rate * 1e12, device.bandwidth_gb_s * 1e9)))


def _llama_cpp(launch: Launch) -> Iterator[Finding]:
    if launch.engine != "llama.cpp" or launch.program == "environment":
        return
    context, parallel, where = launch.number("context"), launch.number("concurrency"), launch.where
    if context and parallel and parallel > 1 and not launch.says("kv-unified"):
        yield finding("context-divided", where, parallel=parallel, each=context // parallel)
    if not context and launch.value("memory-fraction") != "off":
        yield finding("context-adjusted", where)
    values = launch.flag("-ctv", "--cache-type-v")
    off = launch.value("attention") == "off"
    if values is not None and values.values and values.values[0] not in ("f32", "f16", "bf16") and off:
        yield finding("quantized-v-cache", where, value=values.values[0])


def _door(launch: Launch) -> Iterator[Finding]:
    if launch.program == "environment" and launch.engine != "ollama":
        return
    host = launch.value("host") or OPEN_BY_DEFAULT.get(launch.engine, "")
    key = launch.value("api-key") or launch.env.get("LLAMA_API_KEY") or launch.flag("--api-key-file")
    asks = KEYS.get(launch.engine, "a proxy that asks for a key")
    if key is None and (host.rsplit(":", 1)[0] in EVERYWHERE or host in (*EVERYWHERE, "all interfaces")):
        yield finding("open-without-key", launch.where, engine=launch.engine, host=host, key=asks)
    row, given = flag_for(launch.engine, "api-key"), launch.given("api-key")
    written = given is not None and given.values and not given.values[0].startswith("$")
    if row is not None and written and launch.engine in ("vllm", "llama.cpp"):
        yield finding("key-on-line", launch.where, key=asks)
