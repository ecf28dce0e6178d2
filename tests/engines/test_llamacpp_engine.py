"""llama.cpp through xllamacpp: settings, what its failures mean, and (slow) a real model."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import xllamacpp

from bitwright.api.service import planned_line
from bitwright.core.documents import write_document
from bitwright.core.errors import BitwrightError, EnvironmentFault, InputError, UsageError
from bitwright.engines.chat import chat_once, connect
from bitwright.engines.llamacpp import LlamaCppServer, check_gguf
from bitwright.engines.llamacpp_settings import API_KEY_VARIABLE, LOAD_FAILED, WorkerSettings
from bitwright.engines.llamacpp_worker import parameters
from bitwright.engines.serve import serve
from report import sample_records

SETTINGS = WorkerSettings(
    model="/m/x.gguf",
    alias="x",
    host="127.0.0.1",
    port=8123,
    context=1024,
    threads=3,
    gpu_layers=0,
    parallel=2,
    verbose=False,
)
MEMORY_LOG = """\
0.13.306.761 E ggml_aligned_malloc: insufficient memory (attempted to allocate 2197265.62 MB)
0.13.790.048 E llama_init_from_model: failed to initialize the context: failed to allocate buffer for kv cache
"""
BIND_LOG = "0.00.002.532 E srv         start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 8123\n"


def test_settings_reach_llama_cpp() -> None:
    params = parameters(SETTINGS, "key")
    assert params.model.path == "/m/x.gguf"
    assert params.model_alias == {"x"}
    assert (params.hostnames, params.port, params.api_keys) == (["127.0.0.1"], 8123, ["key"])
    assert (params.n_ctx, params.n_parallel, params.n_gpu_layers) == (1024, 2, 0)
    assert (params.cpuparams.n_threads, params.cpuparams_batch.n_threads) == (3, 3)
    assert params.use_jinja
    assert not params.ui
    assert params.verbosity == 2


def test_a_smaller_cache_comes_with_flash_attention() -> None:
    plain, small = parameters(SETTINGS, None), parameters(msgspec.structs.replace(SETTINGS, kv_cache="q8_0"), None)
    assert (small.cache_type_k, small.cache_type_v) == (xllamacpp.ggml_type.GGML_TYPE_Q8_0,) * 2
    assert (plain.cache_type_k, plain.cache_type_v) == (xllamacpp.ggml_type.GGML_TYPE_F16,) * 2
    assert small.flash_attn_type == xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED
    assert plain.flash_attn_type != small.flash_attn_type


@pytest.mark.parametrize(
    ("planned", "said", "expected"),
    [
        ((), {}, (4096, 4, "f16")),
        (("--context", "8192", "--parallel", "2", "--kv-cache", "q8_0"), {}, (8192, 2, "q8_0")),
        (("--context", "8192", "--parallel", "2"), {"context": 64, "kv_cache": "q4_0"}, (64, 2, "q4_0")),
    ],
)
def test_it_is_served_as_planned(
    monkeypatch: pytest.MonkeyPatch, planned: tuple[str, ...], said: dict[str, Any], expected: tuple[int, int, str]
) -> None:
    monkeypatch.setattr(LlamaCppServer, "start", lambda self: self)
    server = serve(Path("x.gguf"), "gguf", planned=("bitwright", "serve", "{artifact}", *planned), **said)
    assert isinstance(server, LlamaCppServer)
    assert (server.context, server.parallel, server.kv_cache) == expected
    with pytest.raises(UsageError, match="no cache of type `fp8`"):
        serve(Path("x.gguf"), "gguf", kv_cache="fp8")


def test_the_plan_is_found_beside_the_file(tmp_path: Path) -> None:
    assert planned_line(tmp_path / "x.gguf") == ()
    record = sample_records.quant()
    write_document(record, tmp_path / "quant.json")
    assert planned_line(tmp_path / record.files[0].name) == record.plan.launch != ()
    assert planned_line(tmp_path / "another.gguf") == ()
    assert planned_line(tmp_path) == record.plan.launch


def test_without_a_key_only_local_pages_may_ask() -> None:
    params = parameters(SETTINGS, None)
    assert params.api_keys == []
    assert params.cors_origins == "localhost"


def test_the_key_is_not_an_argument(tmp_path: Path) -> None:
    server = LlamaCppServer(tmp_path / "x.gguf", api_key="s3cret")
    assert not any("s3cret" in word for word in server.command())
    assert "s3cret" in server.environment().values()
    assert LlamaCppServer(tmp_path / "x.gguf").environment() == {API_KEY_VARIABLE: None}, "none is inherited"
    told = json.loads(server.command()[-1])
    assert told["model"] == str((tmp_path / "x.gguf").resolve())


@pytest.mark.parametrize(
    ("exit_code", "log", "kind", "words"),
    [
        (LOAD_FAILED, BIND_LOG, EnvironmentFault, "port 8123 on 127.0.0.1 is in use"),
        (LOAD_FAILED, MEMORY_LOG, EnvironmentFault, "not enough memory .* 1024 tokens"),
        (LOAD_FAILED, "", InputError, "its log says why"),
        (128 + signal.SIGKILL, "", EnvironmentFault, "out of memory"),
        (128 + signal.SIGABRT, "GGML_ASSERT", EnvironmentFault, "crashed with SIGABRT"),
        (1, "Traceback\nImportError: no GLIBC", EnvironmentFault, "code 1: ImportError: no GLIBC"),
    ],
)
def test_what_an_end_means(exit_code: int, log: str, kind: type[BitwrightError], words: str) -> None:
    server = LlamaCppServer(Path("x.gguf"), port=8123, context=1024)
    fault = server.explain(exit_code, log)
    assert type(fault) is kind
    with pytest.raises(kind, match=words):
        raise fault


def test_files_that_are_not_gguf(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"PK\x03\x04 a zip")
    with pytest.raises(InputError, match="not a GGUF file"):
        check_gguf(tmp_path / "x.gguf")
    (tmp_path / "x.gguf").write_bytes(b"")
    with pytest.raises(InputError, match="not a GGUF file"):
        check_gguf(tmp_path / "x.gguf")
    with pytest.raises(InputError, match="does not exist"):
        check_gguf(tmp_path / "absent.gguf")
    with pytest.raises(InputError, match="is a folder"):
        check_gguf(tmp_path)


def test_a_damaged_file_is_refused_by_llama_cpp_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(b"GGUF" + (3).to_bytes(4, "little") + b"\xff" * 40)
    with pytest.raises(InputError, match=r"llama\.cpp cannot load `.*damaged\.gguf`: \w+") as caught:
        serve(damaged, "gguf", port=0)
    assert "\n" not in caught.value.message
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_truncated_model_is_refused(demo_gguf: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(demo_gguf.read_bytes()[:50_000_000])
    with pytest.raises(InputError, match="data is not within the file bounds"):
        serve(cut, "gguf", port=0)


@pytest.mark.slow
def test_a_real_model_answers(demo_gguf: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with LlamaCppServer(demo_gguf, port=0, api_key="key", context=1024, threads=1) as server:
        reply = chat_once(server.url, "Say hello.", api_key="key", max_tokens=8)
        assert reply.text.strip()
        assert 0 < reply.completion_tokens <= 8
        with connect(server.url) as stranger:
            assert stranger.get("/health").status_code == 200
            assert stranger.post("/v1/chat/completions", json={}).status_code == 401
            assert stranger.get("/metrics").status_code == 401
        with connect(server.url, api_key="key") as client:
            models = client.get("/v1/models").json()
            assert models["data"][0]["id"] == demo_gguf.stem
            body = {"messages": [{"role": "user", "content": "Count."}], "max_tokens": 6, "stream": True}
            with client.stream("POST", "/v1/chat/completions", json=body) as stream:
                lines = [line for line in stream.iter_lines() if line]
        assert len(lines) > 2
        assert lines[-1] == "data: [DONE]"
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_without_a_key_foreign_pages_get_no_answer(demo_gguf: Path) -> None:
    with LlamaCppServer(demo_gguf, port=0, context=256, threads=1) as server, connect(server.url) as client:
        allowed = {}
        for origin in ("https://foreign.example", "http://localhost:3000"):
            answer = client.post("/tokenize", json={"content": "a"}, headers={"Origin": origin})
            allowed[origin] = answer.headers.get("access-control-allow-origin")
    assert allowed == {"https://foreign.example": None, "http://localhost:3000": "http://localhost:3000"}


@pytest.mark.slow
def test_it_stops_within_seconds_while_it_streams(demo_gguf: Path) -> None:
    server = LlamaCppServer(demo_gguf, port=0, context=2048, threads=1).start()
    begun = threading.Event()
    ends: list[Exception] = []

    def listen() -> None:
        body = {"prompt": "Once", "n_predict": 100_000, "ignore_eos": True, "stream": True}
        try:
            with connect(server.url) as client, client.stream("POST", "/completion", json=body) as stream:
                for _ in stream.iter_lines():
                    begun.set()
        except httpx.TransportError as error:
            ends.append(error)

    thread = threading.Thread(target=listen)
    thread.start()
    assert begun.wait(60)
    started = time.monotonic()
    server.stop()
    assert time.monotonic() - started < 5
    thread.join(10)
    assert len(ends) == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_a_real_server_with_exit_code_0(demo_gguf: Path, number: signal.Signals) -> None:
    script = textwrap.dedent(
        f"""
        from pathlib import Path
        from bitwright.engines.serve import serve
        server = serve(Path({str(demo_gguf)!r}), "gguf", port=0, context=256)
        server.run_until_signal(ready=lambda: print(server.url, flush=True))
        """
    )
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline().startswith("http://127.0.0.1:")
    started = time.monotonic()
    child.send_signal(number)
    out, err = child.communicate(timeout=20)
    assert (child.returncode, out, err) == (0, "", "")
    assert time.monotonic() - started < 5
