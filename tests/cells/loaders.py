"""Loaders that are not ours: an artifact and a prompt in, logits out. Some clash with our packages and live elsewhere.

`distance` compares logits as root mean square, as a share of the spread of ours; 0 is equality, and unrelated logits
are 1.4 apart.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bitwright import api
from bitwright.core.protocols import RoundsInputs, WeightSource
from bitwright.engines.chat import connect
from bitwright.engines.llamacpp import LlamaCppServer
from bitwright.formats.sniff import gguf_file, open_source
from bitwright.modeling.walk import Walker
from cells.model import VOCAB
from cells.table import CONVERTED, DEQUANTIZER, GPTQMODEL, LLAMA_CPP, TRANSFORMERS, VLLM
from vision_models import IMAGE_TOKEN

LETTER = 40  # a token that is one printable character
PROMPT = [(11 * place) % 300 + 3 for place in range(40)]
ROOT = Path(__file__).parents[2]
VARIABLE = "BITWRIGHT_LOADERS"  # the Python of an environment with GPTQModel and vLLM, instead of .venv-loaders
PATIENCE = 1500  # seconds for all cells of a loader, on a busy machine
ELSEWHERE = (GPTQMODEL, VLLM)

Rows = NDArray[np.float32]  # log-probabilities [N, V]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """Log-probabilities after the last tokens of `tokens`, or the words of an error."""

    version: str
    tokens: tuple[int, ...] = tuple(PROMPT)
    rows: Rows | None = None
    error: str = ""


def distance(theirs: Rows, ours: Rows) -> float:
    """See the module; entries that a loader does not give are NaN and do not count."""
    known = np.isfinite(theirs)
    assert known.mean() > 0.9
    spread = np.square(ours - ours.mean(axis=-1, keepdims=True)).mean()
    return float(np.sqrt(np.square(theirs - ours)[known].mean() / spread))


class AsLoaded:
    """An artifact as a loader takes it: weights cast, and perhaps not a word about inputs."""

    def __init__(self, source: WeightSource, *, weights_only: bool, dtype: torch.dtype) -> None:
        self.facts, self.config, self.names = source.facts, source.config, source.names
        self._source, self._dtype = source, dtype
        if not weights_only and isinstance(source, RoundsInputs):
            self.input_rounding = source.input_rounding

    def load(self, name: str) -> torch.Tensor:
        return self._source.load(name).to(self._dtype).float()


def decoded(
    artifact: Path, tokens: Sequence[int], *, weights_only: bool = False, dtype: torch.dtype = torch.float32
) -> Rows:
    """Our own: decoded by our readers, run block by block in float32, inputs rounded as the artifact says."""
    walker = Walker(AsLoaded(open_source(artifact), weights_only=weights_only, dtype=dtype))
    hidden = walker.embed(torch.tensor([tokens]))
    for index in range(walker.layers):
        hidden = walker.run_block(index, hidden)
    return np.asarray(torch.log_softmax(walker.logits(hidden)[0], dim=-1).numpy())


def transformers(artifact: Path, dtype: str = "float32") -> Answer:
    """The class for the model, with compressed-tensors or bitsandbytes where the config asks for them."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    config = json.loads((artifact / "config.json").read_text())
    settings, prompt = config.get("quantization_config", {}), PROMPT
    loading: Any = AutoModelForCausalLM
    if "vision_config" in config:  # asked in words; with an image in tests/pipeline/test_vision_models.py
        prompt, loading = [min(token, IMAGE_TOKEN - 1) for token in PROMPT], AutoModelForImageTextToText
    method = settings.get("quant_method")
    names = ("transformers", *(name for name in ("compressed-tensors", "bitsandbytes") if name == method))
    version = versions(*names)
    try:
        model: Any = loading.from_pretrained(artifact, dtype=getattr(torch, dtype))
        with torch.no_grad():
            if dtype != "float32":
                widen(model)
            logits = model(torch.tensor([prompt])).logits[0].float()
    except (RuntimeError, ValueError) as error:
        return Answer(version=version, error=str(error))
    return Answer(version=version, tokens=tuple(prompt), rows=torch.log_softmax(logits, dim=-1).numpy())


def widen(model: Any) -> None:
    """As float32 what the library decodes to bfloat16 whatever it is told; it does so when a module is first used."""
    model(torch.tensor([PROMPT[:2]]))
    torch.nn.Module.float(model)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight = torch.nn.Parameter(module.weight.float(), requires_grad=False)


def dequantized(artifact: Path, dtype: str) -> Answer:
    """compressed-tensors' converters, from AWQ where that is what it is, to a float folder for transformers."""
    from compressed_tensors.entrypoints.convert import convert_checkpoint
    from compressed_tensors.entrypoints.convert.converters import AutoAWQConverter, CompressedTensorsDequantizer

    settings = json.loads((artifact / "config.json").read_text())["quantization_config"]
    source = artifact
    if settings["quant_method"] == "awq":
        source = artifact.with_name(f"{artifact.name}-compressed")
        convert_checkpoint(artifact, source, AutoAWQConverter.from_pretrained(str(artifact)), max_workers=1)
    dense = artifact.with_name(f"{artifact.name}-dense")
    convert_checkpoint(source, dense, CompressedTensorsDequantizer(source, dtype=torch.float32), max_workers=1)
    return dataclasses.replace(transformers(dense, dtype), version=versions("compressed-tensors"))


def converted(artifact: Path, dtype: str) -> Answer:
    """transformers again, on the same codes as compressed-tensors."""
    place = artifact.with_name(f"{artifact.name}-converted")
    api.convert(artifact, "compressed-tensors", place)
    return transformers(place, dtype)


def llama_cpp(artifact: Path, dtype: str) -> Answer:
    """Stock llama.cpp; it tells the probabilities after the last token only, and chooses its own precision."""
    del dtype
    # A letter is forced to come next: nothing is told of tokens that end the text or are half a character. What is told
    # are the probabilities before that.
    vocab = open_source(artifact).facts.vocab
    body = {"prompt": PROMPT, "n_predict": 1, "n_probs": vocab, "temperature": 0.0, "logit_bias": [[LETTER, 1e4]]}
    with LlamaCppServer(gguf_file(artifact), port=0, context=128, threads=1) as server, connect(server.url) as client:
        answer = client.post("/completion", json=body).json()
    found = np.full((1, vocab), np.nan, dtype=np.float32)
    for entry in answer["completion_probabilities"][0]["top_logprobs"]:
        found[0, entry["id"]] = entry["logprob"]
    return Answer(version=versions("xllamacpp"), rows=found)


HERE: dict[str, Callable[[Path, str], Answer]] = {
    TRANSFORMERS: transformers,
    CONVERTED: converted,
    DEQUANTIZER: dequantized,
    LLAMA_CPP: llama_cpp,
}


def other_python() -> Path | None:
    """The Python of the other environment, if there is one."""
    path = Path(os.environ.get(VARIABLE) or ROOT / ".venv-loaders" / "bin" / "python")
    return path if path.is_file() else None


def elsewhere(python: Path, loader: str, artifacts: Sequence[tuple[Path, str]], folder: Path) -> dict[Path, Answer]:
    """Answers of a loader in the other environment, for (artifact, dtype) pairs."""
    task, result, log = folder / f"{loader}.json", folder / f"{loader}.jsonl", folder / f"{loader}.log"
    named = [(str(path), dtype) for path, dtype in artifacts]
    task.write_text(json.dumps({"prompt": PROMPT, "vocab": VOCAB, "artifacts": named}))
    words = [str(python), "-W", "ignore", str(Path(__file__).with_name("other_environment.py")), loader, task, result]
    with log.open("w") as handle:
        code = subprocess.run(
            words, stdout=handle, stderr=handle, env=_environment(), check=False, timeout=PATIENCE
        ).returncode
    answers = {}
    for line in result.read_text().splitlines() if result.exists() else ():
        found = json.loads(line)
        if "error" in found:
            answer = Answer(version=found["version"], error=f"{found['stage']}: {found['error']}")
        else:
            rows = np.array(found["logprobs"], dtype=np.float32)
            answer = Answer(version=found["version"], tokens=tuple(found["tokens"]), rows=rows)
        answers[Path(found["artifact"])] = answer
    assert len(answers) == len(artifacts), f"{loader} ended with code {code}: {log.read_text()[-2000:]}"
    return answers


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def versions(*packages: str) -> str:
    """`name version, …` of installed packages; the first one's name goes without saying."""
    first, *others = packages
    return ", ".join([metadata.version(first), *(f"{name} {metadata.version(name)}" for name in others)])
