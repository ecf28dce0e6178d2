"""Launch lines as people write them: which engine, its options, its environment.

Understood are plain lines, lines after `env`, `exec` or `sudo`, assignments before a command, `docker run` of the
engines' images, scripts of several lines, and files of assignments (.env, systemd units).

Not here: manifests (manifests.py), judgement (the checks).
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath

from bitwright.facts.engine_flags import engine_flags
from bitwright.facts.engine_options import FILES, GivenOption, find_option, is_option, read_line

ASSIGNMENT = re.compile(r'(?:export\s+|Environment=)?"?([A-Z][A-Z0-9_]*)=(.*?)"?', re.DOTALL)
WRAPPERS = ("env", "exec", "sudo", "nohup", "time")
SEPARATORS = {"&&", "||", ";", "|", "&"}
IMAGES = {
    "vllm": "vllm serve",
    "sglang": "sglang serve",
    "text-generation-inference": "text-generation-launcher",
    "llama.cpp": "llama-server",
    "lmdeploy": "lmdeploy serve api_server",
    "ollama": "ollama serve",
    "tensorrt-llm": "trtllm-serve",
    "deepspeed": "deepspeed-mii",
}
COMPLETE_IMAGES = ("vllm", "text-generation-inference", "llama.cpp", "ollama", "sglang")  # arguments follow them
MODULES = {
    "vllm.entrypoints.openai.api_server": "vllm",
    "vllm.entrypoints.api_server": "vllm",
    "sglang.launch_server": "sglang",
    "mii": "deepspeed-mii",
    "deepspeed": "deepspeed-mii",
    "awq.entry": "autoawq",
    "auto_gptq": "autogptq",
}
GONE = ("trtllm-build", "convert_checkpoint.py")  # whose options are not worth a word
PROGRAMS = {
    "trtllm-serve": "tensorrt-llm",
    "trtllm-build": "tensorrt-llm",
    "convert_checkpoint.py": "tensorrt-llm",
    "llama-server": "llama.cpp",
    "text-generation-launcher": "tgi",
    "ollama": "ollama",
    "deepspeed": "deepspeed-mii",
    "deepspeed-mii": "deepspeed-mii",
    "auto-gptq": "autogptq",
    "autoawq": "autoawq",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One command. `arguments` follow the program's own words; `env` is what is set for it."""

    engine: str
    program: str  # as it was written: vllm serve, python -m sglang.launch_server, …
    arguments: tuple[str, ...] = ()
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    where: str = "line 1"
    contained: bool = False  # in a container of a manifest

    @property
    def options(self) -> tuple[GivenOption, ...]:
        known = self.engine in FILES and not any(word.endswith(GONE) for word in self.program.split())
        return tuple(read_line(self.engine, self.arguments)) if known else ()

    def given(self, purpose: str) -> GivenOption | None:
        """The option for a purpose, under whatever name it was written."""
        names = {row.name for row in engine_flags() if (row.engine, row.purpose) == (self.engine, purpose)}
        return next((option for option in self.options if option.option and names & {*option.option.names}), None)

    def value(self, purpose: str) -> str | None:
        """The value of the option for a purpose, or of its environment variable."""
        option = self.given(purpose)
        if option is not None:
            return option.values[0] if option.values else None
        rows = (row for row in engine_flags() if (row.engine, row.purpose) == (self.engine, purpose))
        for row in rows:
            found = find_option(self.engine, row.name) if self.engine in FILES and row.kind == "flag" else None
            name = row.name if row.kind == "env" else found.env if found is not None else None
            if name is not None and name in self.env:
                return self.env[name]
        return None

    def says(self, purpose: str) -> bool:
        """Whether the line or the environment says anything for a purpose."""
        return self.given(purpose) is not None or self.value(purpose) is not None

    def number(self, purpose: str) -> int | None:
        """The same as a whole number; `None` for anything else (`4k` is 4000, as in vLLM)."""
        text = (self.value(purpose) or "").strip().lower()
        found = re.fullmatch(r"(\d+)([km]?)", text)
        return int(found[1]) * {"": 1, "k": 1000, "m": 10**6}[found[2]] if found else None

    def flag(self, *names: str) -> GivenOption | None:
        """The first option written as one of these."""
        return next((option for option in self.options if option.name.replace("_", "-") in names), None)

    @property
    def model(self) -> str | None:
        """The model's path or name."""
        for option in self.options:
            if option.name in ("--model", "--model-path", "-m", "--model-id", "-hf", "--hf-repo") and option.values:
                return option.values[0]
        first = self.arguments[0] if self.arguments else None
        return first if first is not None and not is_option(first) else None

    @property
    def devices(self) -> int:
        """How many the engine spreads over."""
        return (self.number("tensor-parallel") or 1) * (self.number("pipeline-parallel") or 1) * self.replicas

    @property
    def replicas(self) -> int:
        return self.number("replicas") or 1


def read_text(text: str) -> list[Launch]:
    """Launches of a shell line or script; assignments on lines of their own hold for what follows."""
    launches: list[Launch] = []
    held: dict[str, str] = {}
    for number, line in joined_lines(text):
        alone = ASSIGNMENT.fullmatch(line)
        if alone and not _is_command(alone[2]):
            held[alone[1]] = alone[2].strip("'\"")
            continue
        for words in commands(line):
            launches += [*launch_of(words, held, f"line {number}")]
    if not launches and (engine := _engine_of_environment(held)):
        launches.append(Launch(engine=engine, program="environment", env=held))
    return launches


def joined_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines with their number, continued ones as one, without comments."""
    begun, start = "", 0
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        start = start if begun else number
        if line.endswith("\\"):
            begun += line[:-1] + " "
            continue
        yield start, begun + line
        begun = ""
    if begun:
        yield start, begun


def commands(line: str) -> Iterator[list[str]]:
    """The commands of a line."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
    lexer.whitespace_split = True
    try:
        words = list(lexer)
    except ValueError:
        words = line.split()
    found: list[str] = []
    for word in words:
        if word in SEPARATORS:
            yield found
            found = []
        else:
            found.append(word)
    yield found


def launch_of(words: Sequence[str], env: Mapping[str, str], where: str, *, contained: bool = False) -> Iterator[Launch]:
    """The launch that words are, if they are one."""
    words, own = list(words), dict(env)
    while words and (words[0] in WRAPPERS or (found := ASSIGNMENT.fullmatch(words[0]))):
        word = words.pop(0)
        if word not in WRAPPERS and found:
            own[found[1]] = found[2]
    if words and words[0] in ("bash", "sh", "/bin/sh", "/bin/bash") and len(words) > 2 and "c" in words[1]:
        for number, line in joined_lines(words[2]):
            for inner in commands(line):
                yield from launch_of(
                    inner, own, where if number == 1 else f"{where}, line {number}", contained=contained
                )
        return
    if words[:2] in (["docker", "run"], ["podman", "run"]):
        yield from _docker(words[2:], own, where)
        return
    engine, taken = _program(words)
    if engine is not None:
        program = " ".join(PurePath(word).name if place == 0 else word for place, word in enumerate(words[:taken]))
        yield Launch(
            engine=engine, program=program, arguments=tuple(words[taken:]), env=own, where=where, contained=contained
        )


def image_words(image: str, arguments: Sequence[str]) -> list[str]:
    """What a container of a known image runs."""
    name = next((name for name in IMAGES if name in image.lower()), None)
    if name is None:
        return [*arguments]
    if _program(arguments)[0] is not None or name not in COMPLETE_IMAGES:
        return [*arguments] if arguments else IMAGES[name].split()
    return [*IMAGES[name].split(), *arguments]


def _docker(words: Sequence[str], env: Mapping[str, str], where: str) -> Iterator[Launch]:
    own = dict(env)
    for place, word in enumerate(words):
        if word in ("-e", "--env") and place + 1 < len(words) and "=" in words[place + 1]:
            name, _, value = words[place + 1].partition("=")
            own[name] = value
        if not is_option(word) and any(name in word.lower() for name in IMAGES) and ("/" in word or ":" in word):
            if place and words[place - 1] in ("-v", "--volume", "--name", "-e", "--env", "--mount", "-w"):
                continue
            yield from launch_of(image_words(word, words[place + 1 :]), own, where)
            return


def _program(words: Sequence[str]) -> tuple[str | None, int]:
    """The engine of a command and how many words name it."""
    names = [PurePath(words[0]).name] if words else [""]
    if names[0].startswith("python"):
        rest = [place for place, word in enumerate(words) if word == "-m"]
        if rest and rest[0] + 1 < len(words):
            engine = MODULES.get(words[rest[0] + 1])
            return (engine, rest[0] + 2) if engine else (None, 0)
        script = next((place for place, word in enumerate(words[1:], 1) if not is_option(word)), None)
        if script is not None and (engine := PROGRAMS.get(PurePath(words[script]).name)):
            return engine, script + 1
        return None, 0
    if names[0] in ("vllm", "sglang", "transformers") and words[1:2] == ["serve"]:
        return names[0], 2
    if names[0] == "lmdeploy" and words[1:3] == ["serve", "api_server"]:
        return "lmdeploy", 3
    if names[0] == "trtllm-serve" and words[1:2] == ["serve"]:
        return "tensorrt-llm", 2
    if names[0] == "ollama":
        return ("ollama", min(2, len(words)))
    engine = PROGRAMS.get(names[0])
    return (engine, 1) if engine else (None, 0)


def _is_command(text: str) -> bool:
    return any(_program(words)[0] for words in commands(text.partition(" ")[2]) if words)


def _engine_of_environment(env: Mapping[str, str]) -> str | None:
    for start, engine in (("OLLAMA_", "ollama"), ("VLLM_", "vllm"), ("LLAMA_ARG_", "llama.cpp")):
        if any(name.startswith(start) for name in env):
            return engine
    return None
