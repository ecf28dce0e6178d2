"""Commands on the pages of methods and formats run as they stand there, and so do their Python examples.

A page is one working folder; its blocks run in order. `demo` is the demo model cut to its first blocks, so that twenty
runs take minutes; what a page expects to lie there is made beforehand (NEEDS).
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoints import write_checkpoint
from command_line import run_main
from vision_models import write_vision_model

ROOT = Path(__file__).parents[2]
PAGES = sorted(page for room in ("methods", "formats") for page in (ROOT / "docs" / room).glob("*.md"))
TITLES = [f"{page.parent.name}-{page.stem}" for page in PAGES]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
VERDICTS = {"validate": (0, 1, 4)}  # exit codes that a page may leave open; all others are 0
ENDLESS = ("serve", "ship")
BLOCKS = 2  # decoder blocks of the demo that are kept


def blocks_of(page: Path) -> list[tuple[str, str]]:
    """`("sh", command line)` and `("python", code)`, in the order of the page."""
    found = []
    for language, text in FENCE.findall(page.read_text()):
        if language == "python":
            found.append(("python", text))
        elif language in ("", "sh", "bash"):
            lines = text.replace("\\\n", " ").splitlines()
            found += [("sh", line) for line in lines if line.startswith("bitwright ")]
    return found


def cut(folder: Path, blocks: int) -> None:
    """Keep the first decoder blocks of a checkpoint in one file."""
    from safetensors.torch import load_file, save_file

    config = json.loads((folder / "config.json").read_text())
    config["num_hidden_layers"] = blocks
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "model.safetensors")
    gone = re.compile(r"model\.layers\.(\d+)\.")
    kept = {
        name: value.clone()
        for name, value in weights.items()
        if (found := gone.match(name)) is None or int(found[1]) < blocks
    }
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def write_adapter(folder: Path) -> None:
    """A LoRA adapter for the demo model, as PEFT saves it."""
    import torch
    from safetensors.torch import save_file

    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8}))
    generator = torch.Generator().manual_seed(0)
    name = "base_model.model.model.layers.1.mlp.down_proj.lora_"
    parts = {"A": torch.randn(4, 1536, generator=generator) / 40, "B": torch.randn(576, 4, generator=generator) / 40}
    tensors = {f"{name}{part}.weight": value for part, value in parts.items()}
    save_file(tensors, folder / "adapter" / "adapter_model.safetensors")


def write_mixture(folder: Path) -> None:
    """A tiny random Mixtral and a text."""
    write_checkpoint(folder / "Mixtral-8x7B", family="mixtral", hidden=256, intermediate=256, context=512)
    (folder / "notes.txt").write_text("The quick brown fox jumps over the lazy dog. " * 2000)


def write_pictures_model(folder: Path) -> None:
    """A tiny random Qwen2-VL and a text."""
    write_vision_model(folder / "Qwen2-VL-2B", "qwen2_vl")
    (folder / "notes.txt").write_text("The quick brown fox jumps over the lazy dog. " * 2000)
    (folder / "other.txt").write_text("Pack my box with five dozen liquor jugs, said the judge. " * 2000)


NEEDS: dict[str, Callable[[Path], None]] = {"lora": write_adapter, "moe": write_mixture, "vlm": write_pictures_model}


@pytest.fixture(scope="session")
def demo_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bitwright's cache with the demo models that pages name, cut."""
    from bitwright.modeling.demo import write_demo

    cache = tmp_path_factory.mktemp("demo")
    text = "\n".join(page.read_text() for page in PAGES)
    for shape in ("base", "wide") if "demo:wide" in text else ("base",):
        write_demo(cache / f"demo-{shape}", shape=shape)  # type: ignore[arg-type]
        cut(cache / f"demo-{shape}", BLOCKS)
    return cache


@pytest.mark.parametrize("page", PAGES, ids=TITLES)
def test_a_page_has_something_to_run(page: Path) -> None:
    blocks = blocks_of(page)
    assert blocks
    for kind, text in blocks:
        assert kind == "python" or shlex.split(text, comments=True)[1] not in ENDLESS, text


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")  # libraries' remarks, which a shell does not show either
@pytest.mark.parametrize("page", PAGES, ids=TITLES)
def test_a_page_runs(
    page: Path, demo_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BITWRIGHT_CACHE", str(demo_cache))
    monkeypatch.chdir(tmp_path)
    if page.stem in NEEDS:
        NEEDS[page.stem](tmp_path)
    for kind, text in blocks_of(page):
        if kind == "python":
            exec(compile(text, str(page), "exec"), {"__name__": "example"})
            continue
        words = shlex.split(text, comments=True)[1:]
        answer = run_main(capsys, *words)
        assert answer.code in VERDICTS.get(words[0], (0,)), f"{text}\n{answer.out}\n{answer.err}"
