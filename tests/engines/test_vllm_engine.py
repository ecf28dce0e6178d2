"""vLLM is called as its documentation wants, checked with a fake program on the PATH."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitwright.core.errors import EnvironmentFault, InputError
from bitwright.engines.serve import serve
from bitwright.engines.vllm import VllmServer, find_vllm

Fake = Callable[..., list[str]]


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    folder = tmp_path / "model-w4a16"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "compressed-tensors"}}))
    return folder


@pytest.fixture
def install(fake_engine: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Put a `vllm` that behaves as told on the PATH; gives the path of the program."""

    def build(**settings: object) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir()
        program = folder / "vllm"
        words = " ".join(f"'{word}'" for word in fake_engine(**settings))
        program.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
        return program

    return build


def test_what_is_called(artifact: Path, install: Callable[..., Path], tmp_path: Path) -> None:
    record = tmp_path / "record"
    program = install(record=record)
    assert find_vllm() == [str(program)]
    server = serve(artifact, "compressed-tensors", port=0, api_key="s3cret", context=2048)
    try:
        called = json.loads(record.read_text())
    finally:
        server.stop()
    assert called["arguments"] == [
        "serve",
        str(artifact),
        "--served-model-name",
        "model-w4a16",
        "--host",
        "127.0.0.1",
        "--port",
        str(server.port),
        "--max-model-len",
        "2048",
    ]
    assert called["keys"]["VLLM_API_KEY"] == "s3cret"


def test_what_is_served_is_what_was_planned(artifact: Path, install: Callable[..., Path], tmp_path: Path) -> None:
    record = tmp_path / "record"
    install(record=record)
    flags = ["--max-num-seqs", "16", "--tensor-parallel-size", "2", "--kv-cache-dtype", "fp8"]
    planned = ["vllm", "serve", "{artifact}", "--served-model-name", "m", "--host", "127.0.0.1", "--port", "8000"]
    planned += ["--max-model-len", "512", *flags]

    def called(planned: list[str], **said: Any) -> list[str]:
        with serve(artifact, "compressed-tensors", port=0, planned=planned, **said) as server:
            arguments: list[str] = json.loads(record.read_text())["arguments"]
        assert arguments[:6] == ["serve", str(artifact), "--host", "127.0.0.1", "--port", str(server.port)]
        return arguments[6:]

    assert called(planned) == ["--max-model-len", "512", "--served-model-name", "m", *flags]
    changed = called(planned, context=256, parallel=2, kv_cache="auto")
    assert changed[:2] == ["--max-model-len", "256"]
    assert changed[4:] == [*flags[2:4], "--max-num-seqs", "2", "--kv-cache-dtype", "auto"]


@pytest.mark.parametrize(
    ("last_words", "kind", "words"),
    [
        ("ValueError: No compressed-tensors compatible scheme was found.", InputError, "cannot load .* compatible"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried", EnvironmentFault, "not enough memory"),
        ("something else", EnvironmentFault, "ended with code 1: something else"),
    ],
)
def test_a_vllm_that_gives_up(
    artifact: Path,
    install: Callable[..., Path],
    tmp_path: Path,
    last_words: str,
    kind: type[Exception],
    words: str,
) -> None:
    install(die=1, last_words=last_words)
    with pytest.raises(kind, match=words):
        serve(artifact, "compressed-tensors", port=0, log=tmp_path / "log")


def test_a_key_is_not_inherited(tmp_path: Path) -> None:
    assert VllmServer(tmp_path).environment() == {"VLLM_API_KEY": None}
    assert VllmServer(tmp_path, api_key="s3cret").environment() == {"VLLM_API_KEY": "s3cret"}


def test_not_installed(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EnvironmentFault, match="vLLM is not installed") as caught:
        VllmServer(artifact, port=0).start()
    assert caught.value.hint is not None
    assert "pip install" in caught.value.hint


def test_beside_this_python_or_as_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert find_vllm() == [str(tmp_path / "python"), "-m", "vllm.entrypoints.cli.main"]
    (tmp_path / "vllm").touch()
    assert find_vllm() == [str(tmp_path / "vllm")]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (None, "does not exist"),
        ("{", "not valid JSON"),
        ("[]", "no object"),
        ('{"quantization_config": {"quant_method": "bitsandbytes"}}', "quant_method 'bitsandbytes'"),
    ],
)
def test_folders_that_are_not_compressed_tensors(tmp_path: Path, config: str | None, words: str) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(InputError, match=words):
        VllmServer(tmp_path, port=0).start()
