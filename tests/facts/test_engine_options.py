"""Recorded options against the engines that are installed, and lines against recorded options."""

from __future__ import annotations

import json
import shlex

import pytest

from bitwright.facts.engine_options import FILES, FOLDER, engine_options, problems
from facts.engine_parsers import ask, python_of

SLOW = [pytest.param(engine, marks=pytest.mark.slow) for engine in ("vllm", "sglang", "lmdeploy")]


@pytest.mark.parametrize("engine", ["llama.cpp", *SLOW])
def test_what_was_recorded_is_what_is_installed(engine: str) -> None:
    if python_of(engine) is None:
        pytest.skip("the engine is not here (`make loaders wheels`)")
    recorded = json.loads((FOLDER / f"{FILES[engine]}.json").read_text())
    found = ask(engine)
    assert found["version"] == recorded["version"], "record anew with scripts/record_engine_options.py"
    there, before = ({tuple(row["names"]): row for row in side["options"]} for side in (found, recorded))
    assert there.keys() == before.keys()
    # which models, tokenizers and ports there are by default depends on the machine; what a flag takes does not
    assert {name: row["takes"] for name, row in there.items()} == {name: row["takes"] for name, row in before.items()}
    assert {name: row.get("choices") for name, row in there.items()} == {
        name: row.get("choices") for name, row in before.items()
    }


@pytest.mark.parametrize("engine", FILES)
def test_options_have_names_once(engine: str) -> None:
    names = [name for option in engine_options(engine).options for name in option.names]
    assert len(names) == len(set(names)) > 30
    assert all(name.startswith("-") for name in names)


@pytest.mark.parametrize(
    ("engine", "line", "expected"),
    [
        ("vllm", "m --tensor-parallel-size 2 -q awq --max-model-len=4k", []),
        ("vllm", "m --tensor_parallel_size 2 --no-enable-prefix-caching", []),
        ("vllm", "m --swap-space 4", ["no option `--swap-space`"]),
        ("vllm", "m --kv-cache-dtype int8", ["`--kv-cache-dtype` cannot be int8"]),
        ("vllm", "m --max-model-len", ["`--max-model-len` needs a value"]),
        ("vllm", "m --enable-prefix-caching=yes", ["`--enable-prefix-caching` takes no value"]),
        ("sglang", "--model m --tp 2 --kv-cache-dtype fp8_e4m3", []),
        ("llama.cpp", "-m x.gguf -ngl -1 -ctk q8_0 --draft-max 3", ["no option `--draft-max`"]),
        ("llama.cpp", "-m x.gguf --mlock", ["no option `--mlock`"]),
        ("tensorrt-llm", "m --tp_size 2 --enable_chunked_prefill", []),
        ("tgi", "--model-id m --quantize gguf", ["`--quantize` cannot be gguf"]),
        ("lmdeploy", "m --quant-policy 8 --api-keys a b --tp 2", []),
    ],
)
def test_lines_are_judged_as_a_parser_would(engine: str, line: str, expected: list[str]) -> None:
    assert problems(engine, shlex.split(line)) == expected


def test_llama_cpp_agrees_on_what_is_wrong() -> None:
    lines = ["-m x.gguf -c 4096 -ctk q8_0", "-m x.gguf --draft-max 3", "-m x.gguf --mlock", "-m x.gguf -ctk int8"]
    said = ask("llama.cpp", "--parse", lines=[shlex.split(line) for line in lines])
    assert [answer is None for answer in said] == [not problems("llama.cpp", shlex.split(line)) for line in lines]
    assert said[0] is None
