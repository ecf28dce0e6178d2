"""What commands print and leave behind when all is well."""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bitwright.api.inspection import shares
from bitwright.cli.app import main
from bitwright.core.documents import read_document, to_json
from bitwright.core.plan import Plan, TensorFacts
from bitwright.core.records import Inspection, QuantRecord, ShipRecord, SpeedRecord, ValidationRecord
from command_line import Run

ROOT = Path(__file__).parents[2]


def test_plan_prints_the_document_that_it_writes(run: Run, tiny: Path, tmp_path: Path) -> None:
    answer = run("plan", tiny, "--target", "cpu", "--out", tmp_path / "plan.json", "--json")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out == (tmp_path / "plan.json").read_text()
    assert to_json(read_document(Plan, tmp_path / "plan.json")).decode() == answer.out


def test_plan_table_and_reasons(run: Run, tiny: Path) -> None:
    plain, why = run("plan", tiny), run("plan", tiny, "--explain")
    assert "LlamaForCausalLM" in plain.out
    assert "source" not in plain.out
    assert "source" in why.out
    assert "\x1b" not in plain.out + why.out


def test_dry_run_writes_nothing(run: Run, tiny: Path, tmp_path: Path) -> None:
    answer = run("quantize", tiny, "--out", tmp_path / "out", "--type", "Q6_K", "--dry-run")
    assert answer.code == 0
    assert "Q6_K" in answer.out
    assert not (tmp_path / "out").exists()


def test_a_plan_is_followed(run: Run, tiny: Path, text: Path, tmp_path: Path) -> None:
    plan, out = tmp_path / "plan.json", tmp_path / "out"
    run("plan", tiny, "--format", "compressed-tensors", "--bits", "8", "--group-size", "channel", "--out", plan)
    edited = json.loads(plan.read_text())
    edited["calibration"] = {"source": [str(text)], "samples": 2, "length": 32, "seed": 0}
    plan.write_text(json.dumps(edited))
    answer = run("quantize", tiny, "--out", out, "--plan", plan, "--json")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out == (out / "quant.json").read_text()
    assert msgspec.json.decode(answer.out, type=QuantRecord).plan.type == "W8A16 channel sym"
    assert run("quantize", tiny, "--out", out, "--plan", plan, "--json").out == answer.out
    found = msgspec.json.decode(run("inspect", out, "--json").out, type=Inspection)
    assert (found.kind, found.types[0].type) == ("compressed-tensors", "packed 8-bit")


def test_inspect_tells_checkpoint_and_artifact_apart(run: Run, tiny: Path, artifact: Path) -> None:
    checkpoint = msgspec.json.decode(run("inspect", tiny, "--json").out, type=Inspection)
    assert (checkpoint.kind, checkpoint.bits_per_weight, checkpoint.types[0].type) == ("checkpoint", 16.0, "BF16")
    gguf = msgspec.json.decode(run("inspect", artifact, "--json").out, type=Inspection)
    assert (gguf.kind, gguf.types[0].type, gguf.parameters) == ("gguf", "Q8_0", checkpoint.parameters)
    assert "Q8_0" in run("inspect", artifact).out


def test_validate_exits_with_its_verdict_and_leaves_it_in_the_artifact(
    run: Run, tiny: Path, artifact: Path, judged: Path, tmp_path: Path
) -> None:
    words = ("validate", artifact, "--reference", tiny, "--text", judged, "--windows", "8", "--length", "32")
    answer = run(*words, "--json", "--out", tmp_path / "validation.json")
    record = msgspec.json.decode(answer.out, type=ValidationRecord)
    assert answer.code == {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 4}[record.verdict]
    assert answer.out == (tmp_path / "validation.json").read_text()
    assert run(*words, "--html", tmp_path / "page.html").out.startswith(record.verdict)
    assert record.verdict in (tmp_path / "page.html").read_text()
    embedded = json.loads(msgspec.json.decode(run("inspect", artifact, "--json").out, type=Inspection).summary or "{}")
    assert embedded["verdict"] == record.verdict


def test_the_command_in_the_record_can_be_run_again(run: Run, tiny: Path, artifact: Path, judged: Path) -> None:
    words = ("validate", artifact, "--reference", tiny, "--text", judged, "--windows", "8", "--length", "32", "--json")
    first = msgspec.json.decode(run(*words).out, type=ValidationRecord)
    again = run(*first.command.split()[1:], "--json")
    assert msgspec.json.decode(again.out, type=ValidationRecord).texts == first.texts


def test_packed_matrices_of_a_float32_checkpoint_are_told_as_packed() -> None:
    packed = TensorFacts(name="w", shape=(64, 64), dtype="F32", file="", bytes=64 * 64 // 2 + 64 * 2 * 4 + 16)
    norm = TensorFacts(name="n", shape=(64,), dtype="F32", file="", bytes=256)
    assert [share.type for share in shares([packed, norm])] == ["packed 4-bit", "F32"]


def test_the_reference_page_is_fresh(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["make_cli_docs.py", "--check"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(ROOT / "scripts" / "make_cli_docs.py"), run_name="__main__")
    assert stopped.value.code == 0, capsys.readouterr().err


def test_a_traceback_is_shown_on_request(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("BITWRIGHT_DEBUG", "1")
    assert main(["inspect", str(tmp_path / "absent")]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [[], ["--json"]], ids=["found at the end", "found while printing"])
def test_a_reader_who_has_gone_is_neither_pass_nor_fail(flags: list[str], tiny: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "bitwright", "plan", str(tiny), *flags]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_the_address_is_told_once_signals_are_caught(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Server(contextlib.nullcontext[None]):
        url, warnings = "http://127.0.0.1:1", ("an open door",)

        def __enter__(self) -> Any:
            return self

        def run_until_signal(self, *, ready: Callable[[], None]) -> None:
            assert capsys.readouterr().err == ""
            ready()

    monkeypatch.setattr("bitwright.api.serve", lambda *_, **__: Server())
    assert main(["serve", "q4"]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "warning: an open door",
        "serving q4 at http://127.0.0.1:1/v1 (Ctrl-C stops)",
    ]


@pytest.mark.slow
def test_ship_makes_proves_and_serves_and_a_second_call_repeats_nothing(tmp_path: Path, tiny: Path, text: Path) -> None:
    out = tmp_path / "out"
    words = ["ship", str(tiny), "--out", str(out), "--type", "Q8_0", "--calibration", str(text), "--once", "--json"]
    words += ["--samples", "4", "--length", "64", "--windows", "8", "--window-length", "64"]
    first = ship(words)
    record = msgspec.json.decode(first.stdout, type=ShipRecord)
    assert first.returncode == {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 4}[record.verdict]
    assert (record.reply is None) == (record.verdict == "FAIL")
    documents = {
        "plan.json": Plan,
        "quant.json": QuantRecord,
        "validation.json": ValidationRecord,
        "speed.json": SpeedRecord,
    }
    for name, kind in documents.items():
        read_document(kind, out / name)
    assert [point.name for point in record.speed] == ["Q8_0", "F16"]
    assert record.verdict in (out / record.report).read_text()
    assert not list(out.glob(".*"))
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir() if path.name != record.report}
    assert ship(words).stdout.partition('"reply"')[0] == first.stdout.partition('"reply"')[0]
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir() if path.name != record.report} == before


def ship(words: list[str]) -> subprocess.CompletedProcess[str]:
    """In a process of its own, as people run it."""
    done = subprocess.run(
        [sys.executable, "-m", "bitwright", *words], capture_output=True, text=True, env=dict(os.environ)
    )
    assert "error" not in done.stderr, done.stderr
    return done


def test_validate_by_limits_of_a_file_until_it_is_decided(
    run: Run, tiny: Path, artifact: Path, judged: Path, tmp_path: Path
) -> None:
    profile = tmp_path / "loose.yaml"
    profile.write_text("name: loose\nkl_mean: 5\nperplexity_delta: .inf\ntop1_flips: 0.9\n")
    words = ("validate", artifact, "--reference", tiny, "--text", f"en={judged}", "--windows", "4", "--length", "32")
    words += ("--profile", profile, "--until-decided", "--max-windows", "8", "--budget", "1h")
    answer = run(*words, "--reference-cache", tmp_path / "kept", "--json")
    record = msgspec.json.decode(answer.out, type=ValidationRecord)
    assert (answer.code, record.verdict, record.profile) == (0, "PASS", "loose")
    assert [(gate.measure, gate.text) for gate in record.gates] == [("kl_mean", "en"), ("top1_flips", "en")]
    assert record.confidence == pytest.approx(0.975)
    assert record.floors is not None
    again = run(*record.command.split()[1:], "--json")
    cached = msgspec.json.decode(again.out, type=ValidationRecord).texts[0]
    assert cached.perplexity_artifact == record.texts[0].perplexity_artifact
    assert cached.cache_error is not None
    assert run(*words, "--budget", "soon").code == 2
