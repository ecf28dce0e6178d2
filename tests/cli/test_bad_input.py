"""What people get wrong, and what machines refuse: one `error:`, one `hint:`, the documented exit code, nothing else.

Nothing may lie under a final name afterwards. `plan.json` and unfinished work are no artifacts.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoints import write_checkpoint
from command_line import Run, check, check_nothing_made

QUICK = ("--samples", "2", "--length", "32")

Damage = Callable[[Path], None]


def truncate_shard(folder: Path) -> None:
    shard = sorted(folder.glob("*.safetensors"))[-1]
    shard.write_bytes(shard.read_bytes()[:-100])


def poison_with_nan(folder: Path) -> None:
    shard = sorted(folder.glob("*.safetensors"))[-1]
    shard.write_bytes(shard.read_bytes()[:-2] + b"\xc0\x7f")  # bf16 NaN in the last tensor


def remove_shard(folder: Path) -> None:
    sorted(folder.glob("*.safetensors"))[-1].unlink()


def break_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"architectures": [')


def edit_config(**changes: object) -> Damage:
    def damage(folder: Path) -> None:
        config = {**json.loads((folder / "config.json").read_text()), **changes}
        kept = {key: value for key, value in config.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(kept))

    return damage


def only_pickle(folder: Path) -> None:
    for path in (*folder.glob("*.safetensors"), *folder.glob("*.index.json")):
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def remove(folder: Path) -> None:
    shutil.rmtree(folder)


def remove_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def break_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "BPE"}}')


def huge_header(folder: Path) -> None:
    shard = sorted(folder.glob("*.safetensors"))[0]
    shard.write_bytes((2**62).to_bytes(8, "little") + shard.read_bytes()[8:])


DAMAGED: dict[str, tuple[Damage, str]] = {
    "missing folder": (remove, "model"),
    "empty folder": (empty, "config.json"),
    "truncated shard": (truncate_shard, ".safetensors"),
    "header length beyond the file": (huge_header, ".safetensors"),
    "NaN in a weight": (poison_with_nan, "finite"),
    "index naming an absent shard": (remove_shard, ".safetensors"),
    "broken config.json": (break_config, "config.json"),
    "config without architectures": (edit_config(architectures=None), "architectures"),
    "unknown architecture": (edit_config(architectures=["RwkvForCausalLM"], model_type="rwkv"), "RwkvForCausalLM"),
    "config of other shapes": (edit_config(hidden_size=128), "shape"),
    "pickle only": (only_pickle, "pickle"),
    "already quantized": (edit_config(quantization_config={"quant_method": "gptq", "bits": 4}), "gptq"),
    "no tokenizer": (remove_tokenizer, "tokenizer"),
    "broken tokenizer": (break_tokenizer, "tokenizer"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_model(kind: str, run: Run, tiny: Path, text: Path, tmp_path: Path) -> None:
    damage, word = DAMAGED[kind]
    model, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(tiny, model)
    damage(model)
    answer = run("quantize", model, "--out", out, "--type", "Q8_0", "--calibration", text, *QUICK)
    check(answer, 2, word)
    check_nothing_made(out)


REQUESTS: dict[str, tuple[list[str], str]] = {
    "group size that does not divide": (["--format", "compressed-tensors", "--group-size", "128"], "128"),
    "group size that no kernel takes": (["--format", "compressed-tensors", "--group-size", "48"], "48"),
    "group size that is no number": (["--format", "compressed-tensors", "--group-size", "many"], "many"),
    "unsupported bits": (["--format", "compressed-tensors", "--bits", "9"], "9 bits"),
    "unknown type": (["--type", "Q4_K_N"], "Q4_K_M"),
    "type of another format": (["--format", "compressed-tensors", "--type", "Q4_K_M"], "Q4_K_M"),
    "unknown format": (["--format", "ggfu"], "gguf"),
    "unknown method": (["--format", "compressed-tensors", "--method", "gtpq"], "gptq"),
    "unknown flag": (["--typ", "Q4_K_M"], "--type"),
    "flag without a value": (["--type"], "--type"),
    "negative samples": (["--type", "Q8_0", "--samples", "-1"], "--samples"),
    "samples that are no number": (["--type", "Q8_0", "--samples", "some"], "--samples"),
    "missing calibration file": (["--type", "Q8_0", "--calibration", "absent.txt"], "absent.txt"),
    "files mixed with self": (["--type", "Q8_0", "--calibration", "self", "--calibration", "a.txt"], "self"),
    "nothing said": ([], "--type"),
    "an observer of dynamic inputs": (["--type", "FP8_DYNAMIC", "--observer", "mse"], "stores none"),
    "an observer of weights": (["--type", "W4A16", "--group-size", "32", "--observer", "minmax"], "stores none"),
    "an observer of 16 values": (["--type", "NVFP4", "--observer", "mse"], "percentile"),
    "a share for another observer": (
        ["--type", "W8A8_STATIC", "--observer", "mse", "--percentile", "99"],
        "--percentile",
    ),
    "a share of almost nothing": (["--type", "W8A8_STATIC", "--percentile", "9"], "99 to 100"),
    "missing plan": (["--plan", "absent.json"], "absent.json"),
    "plan and a decision": (["--plan", "absent.json", "--type", "Q8_0"], "--plan"),
    "windows longer than the model attends": (["--type", "Q8_0", "--samples", "1", "--length", "512"], "--length"),
}


@pytest.mark.parametrize("kind", REQUESTS)
def test_wrong_request(kind: str, run: Run, tiny: Path, text: Path, tmp_path: Path) -> None:
    words, word = REQUESTS[kind]
    out = tmp_path / "out"
    if "--calibration" not in words and "--typ" not in words and "--plan" not in words:
        words = ["--calibration", str(text), *words]
    check(run("quantize", tiny, "--out", out, *words), 2, word)
    check_nothing_made(out)


OTHERS: dict[str, tuple[list[str], str]] = {
    "unknown command": (["quantise", "{tiny}"], "quantize"),
    "missing argument": (["plan"], "MODEL"),
    "missing --out": (["quantize", "{tiny}"], "--out"),
    "unknown use case": (["plan", "{tiny}", "--use-case", "chatt"], "chat"),
    "unknown target": (["plan", "{tiny}", "--target", "rtx409"], "rtx4090"),
    "unknown demo": (["plan", "demo:tall"], "demo:wide"),
    "hub id nobody answers for": (["plan", "no-such-owner/no-such-model"], "no-such-model"),
    "neither folder nor id": (["plan", "what is this"], "what is this"),
    "missing evaluation text": (
        ["validate", "{artifact}", "--reference", "{tiny}", "--text", "absent.txt"],
        "absent.txt",
    ),
    "evaluation text too short": (
        ["validate", "{artifact}", "--reference", "{tiny}", "--text", "{short}"],
        "short.txt",
    ),
    "reference as artifact": (["validate", "{tiny}", "--reference", "{tiny}"], "artifact"),
    "bad magic": (["inspect", "{magic}"], "GGUF"),
    "truncated GGUF": (["inspect", "{cut}"], "cut.gguf"),
    "truncated GGUF to serve": (["serve", "{cut}", "--port", "0"], "cut.gguf"),
    "a document of no kind": (["inspect", "{short}"], "short.txt"),
    "negative port": (["serve", "{artifact}", "--port", "-1"], "--port"),
    "empty key": (["serve", "{artifact}", "--port", "0", "--api-key", ""], "key"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_commands(kind: str, run: Run, tiny: Path, artifact: Path, tmp_path: Path) -> None:
    whole = next(artifact.glob("*.gguf")).read_bytes()
    (tmp_path / "short.txt").write_text("too short")
    (tmp_path / "bad.gguf").write_bytes(b"GGML" + whole[4:])
    (tmp_path / "cut.gguf").write_bytes(whole[: len(whole) // 2])
    places = {
        "tiny": tiny, "artifact": artifact, "short": tmp_path / "short.txt", "magic": tmp_path / "bad.gguf",
        "cut": tmp_path / "cut.gguf",
    }  # fmt: skip
    words, word = OTHERS[kind]
    code = 3 if kind.startswith("hub id") else 2
    check(run(*(item.format(**places) for item in words)), code, word)


def test_calibration_text_too_short(run: Run, tiny: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("too short")
    answer = run("quantize", tiny, "--out", tmp_path / "out", "--type", "Q8_0", "--calibration", short, *QUICK)
    check(answer, 2, "short.txt", "window")
    check_nothing_made(tmp_path / "out")


def test_out_is_a_file(run: Run, tiny: Path, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("mine")
    check(run("quantize", tiny, "--out", out, "--type", "Q8_0", "--calibration", text, *QUICK), 2, "out")
    assert out.read_text() == "mine"


def test_read_only_target(run: Run, tiny: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, real = tmp_path / "out", os.mkdir

    def refuse(path: str | Path, *rest: int, **named: int) -> None:
        if str(path).startswith(str(out)):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        real(path, *rest, **named)

    monkeypatch.setattr(os, "mkdir", refuse)  # chmod holds back nobody who is root
    check(run("quantize", tiny, "--out", out, "--type", "Q8_0", "--calibration", text, *QUICK), 3, "cannot write")
    assert not out.exists()


@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite", "fsync"])
def test_full_disk(
    call: str, run: Run, tiny: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    out = tmp_path / "out"
    answer = run("quantize", tiny, "--out", out, "--type", "Q8_0", "--calibration", text, *QUICK)
    check(answer, 3, "no space left")
    check_nothing_made(out)


def test_out_of_memory(run: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("bitwright.api.plan", exhausted)
    check(run("quantize", tiny, "--out", tmp_path / "out", "--type", "Q8_0"), 3, "out of memory")


def test_our_own_mistake_is_one_line(run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("bitwright.api.plan", broken)
    check(run("plan", tiny), 70, "error: internal: ZeroDivisionError", "BITWRIGHT_DEBUG=1")


def test_interruption_is_one_line(run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bitwright.api.plan", interrupted)
    answer = run("plan", tiny)
    assert (answer.code, answer.err.splitlines()) == (130, ["interrupted"])
    answer = run("quantize", tiny, "--out", "out", "--type", "Q8_0")
    assert answer.code == 130
    assert answer.err.splitlines() == ["interrupted; the same command goes on from here"]


def test_port_in_use(run: Run, artifact: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        check(run("serve", artifact, "--port", port), 3, str(port))


def test_artifact_of_another_model(run: Run, artifact: Path, text: Path, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path / "other", hidden=128, intermediate=256, layers=2, context=256)
    answer = run("validate", artifact, "--reference", other, "--text", text, "--windows", "4", "--length", "32")
    check(answer, 2, "--reference")


def test_artifact_of_a_sister_of_equal_shape(run: Run, artifact: Path, text: Path, tmp_path: Path) -> None:
    sister = write_checkpoint(tmp_path / "sister", hidden=64, intermediate=128, layers=2, context=256, seed=1)
    answer = run("validate", artifact, "--reference", sister, "--text", text, "--windows", "4", "--length", "32")
    check(answer, 2, "--reference")


def test_another_plan_in_the_same_folder(run: Run, tiny: Path, artifact: Path, text: Path) -> None:
    before = {path.name: path.read_bytes() for path in artifact.iterdir() if path.is_file()}
    answer = run("quantize", tiny, "--out", artifact, "--type", "Q6_K", "--calibration", text, *QUICK)
    check(answer, 2, "another plan")
    assert {path.name: path.read_bytes() for path in artifact.iterdir() if path.is_file()} == before


def test_text_that_was_calibrated_on_cannot_judge(run: Run, tiny: Path, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    answer = run("ship", tiny, "--out", out, "--type", "Q8_0", "--calibration", text, "--text", text, "--no-serve")
    check(answer, 2, "both calibration and evaluation")
    check_nothing_made(out)


@pytest.mark.parametrize("renamed", [False, True])
def test_validate_refuses_the_calibration_text(
    renamed: bool, run: Run, tiny: Path, artifact: Path, text: Path, tmp_path: Path
) -> None:
    judged = Path(shutil.copy(text, tmp_path / "other.txt")) if renamed else text
    answer = run("validate", artifact, "--reference", tiny, "--text", judged, "--windows", "2", "--length", "32")
    check(answer, 2, "calibration text", "judge on a text that was not used")
