"""`bitwright ship` beyond GGUF: flags that reach the plan, and an end with proof where no engine is at hand."""

from __future__ import annotations

import inspect
from pathlib import Path

import msgspec
import pytest

from bitwright.api.service import planned_line
from bitwright.cli import quantize, ship
from bitwright.core.atomic import sha256_file
from bitwright.core.documents import read_document
from bitwright.core.plan import Plan
from bitwright.core.preflight import Preflight
from bitwright.core.records import QuantRecord, ShipRecord, ValidationRecord
from command_line import Run, check, check_nothing_made


@pytest.fixture
def words(tiny: Path, text: Path, judged: Path, tmp_path: Path) -> list[object]:
    """A quick run of everything, as compressed-tensors."""
    quick = ["--calibration", text, "--samples", "2", "--length", "32"]
    quick += ["--text", judged, "--windows", "4", "--window-length", "32"]
    return ["ship", tiny, "--out", tmp_path / "out", *quick]


@pytest.fixture
def no_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitwright.engines.vllm.find_vllm", lambda: None)


CT = ["--format", "compressed-tensors", "--bits", "8", "--group-size", "32"]


@pytest.mark.usefixtures("no_vllm")
def test_without_its_engine_the_proof_and_the_launch_line_remain(run: Run, words: list[object], tmp_path: Path) -> None:
    answer = run(*words, *CT, "--method", "rtn", "--quiet")
    out = tmp_path / "out"
    validation = read_document(ValidationRecord, out / "validation.json")
    assert answer.code == {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 4}[validation.verdict]
    assert validation.verdict != "FAIL", answer.out
    assert validation.decoder.startswith("compressed-tensors ")
    line = f"vllm serve {out} --served-model-name {{}} --host 127.0.0.1 --port 8000 --max-model-len 256"
    line = line.format(Path(str(words[1])).name)
    assert answer.err.splitlines() == [
        "not served: vLLM is not installed here",
        f"hint: where it is, {line} serves it",
    ]
    assert f"vllm serve {out}" in answer.out
    assert validation.verdict in (out / "report.html").read_text()
    made = read_document(QuantRecord, out / "quant.json")
    assert [file.name for file in made.files] == ["model.safetensors"]
    served = run("serve", out, "--port", "0")
    check(served, 3, "vLLM is not installed", "pip install vllm")
    again = run(*words, *CT, "--method", "rtn", "--json", "--no-serve")
    assert (again.code, again.err) == (answer.code, "")
    record = msgspec.json.decode(again.out, type=ShipRecord)
    assert (record.artifact, record.speed) == (".", ())
    assert record.launch == line


@pytest.mark.usefixtures("no_vllm")
def test_a_format_that_nothing_here_serves(run: Run, words: list[object]) -> None:
    answer = run(*words, "--type", "LLM.int8", "--quiet")
    assert answer.code in (0, 4), answer.err
    assert "not served: `bitwright serve` starts no engine that loads bitsandbytes" in answer.err
    assert "sglang serve" in answer.err


def test_flags_of_quantize_reach_the_plan(run: Run, words: list[object]) -> None:
    flags = ["--method", "awq", "--effort", "best", "--bits", "4", "--group-size", "32", "--asymmetric"]
    answer = run(*words, "--format", "compressed-tensors", *flags, "--dry-run", "--json")
    assert (answer.code, answer.err) == (0, "")
    found = msgspec.json.decode(answer.out, type=Preflight)
    assert (found.step, found.makes, found.method) == ("ship", "compressed-tensors W4A16 g32 asym", "awq (best)")


def test_everything_that_quantize_decides_ship_decides_too() -> None:
    """What a person wrote for one works for the other."""
    made, shipped = (
        {name: parameter.default for name, parameter in inspect.signature(command).parameters.items()}
        for command in (quantize.run, ship.run)
    )
    assert made.items() <= shipped.items()


def test_what_is_wished_is_served_and_another_wish_keeps_the_artifact(
    run: Run, words: list[object], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    quick = [*words, "--type", "Q8_0", "--no-serve", "--quiet", "--prompt-tokens", "64", "--output-tokens", "64"]
    assert run(*quick, "--concurrency", "2", "--context", "128").code in (0, 1, 4)
    gguf = next(out.glob("*.gguf"))
    assert planned_line(gguf)[3:] == ("--context", "256", "--parallel", "2")
    assert "What it was chosen from" not in (out / "report.html").read_text()  # one type was named: nothing to compare
    made, wish = gguf.stat().st_mtime_ns, tmp_path / "wish.yaml"
    wish.write_text("concurrency: 3\nserved-cache: q8_0\n")
    answer = run(*quick, "--wish", wish, "--context", "128", "--json")
    assert answer.code in (0, 1, 4), answer.err
    assert "--parallel 3 --kv-cache q8_0" in msgspec.json.decode(answer.out, type=ShipRecord).launch
    assert planned_line(gguf)[3:] == ("--context", "384", "--parallel", "3", "--kv-cache", "q8_0")
    assert gguf.stat().st_mtime_ns == made


def test_a_plan_is_shipped(run: Run, tiny: Path, text: Path, judged: Path, tmp_path: Path) -> None:
    plan, out = tmp_path / "plan.json", tmp_path / "out"
    asked = ["--format", "gptq", "--bits", "4", "--group-size", "32", "--act-order", "group"]
    assert run("plan", tiny, *asked, "--out", plan).code == 0
    edited = msgspec.json.decode(plan.read_bytes())
    edited["calibration"] = {"source": [str(text)], "samples": 2, "length": 32, "seed": 0}
    plan.write_bytes(msgspec.json.encode(edited))
    words = ["ship", tiny, "--out", out, "--plan", plan, "--text", judged, "--windows", "4", "--window-length", "32"]
    answer = run(*words, "--no-serve", "--quiet")
    assert answer.code in (0, 1, 4), answer.err
    assert read_document(Plan, out / "plan.json").act_order == "group"
    check(run(*words, "--use-case", "code"), 2, "--use-case and --plan")
    check(run(*words, "--user-speed", "9"), 2, "--user-speed and --plan")


def test_a_dry_run_of_ship_writes_nothing(run: Run, words: list[object], tmp_path: Path) -> None:
    answer = run(*words, "--type", "Q4_K_M", "--dry-run")
    assert answer.code == 0, answer.err
    assert "F16 twin" in answer.out
    assert not (tmp_path / "out").exists()


def test_a_byte_budget_is_foreseen_without_measuring(run: Run, words: list[object], tmp_path: Path) -> None:
    answer = run(*words, "--type", "Q4_K_M", "--target-size", "200kB", "--dry-run", "--json")
    assert answer.code == 0, answer.err
    found = msgspec.json.decode(answer.out, type=Preflight)
    assert found.file_bytes == 200_000
    assert any("when costs have been measured" in warning for warning in found.warnings)
    assert not (tmp_path / "out").exists()
    check(run(*words, "--type", "Q4_K_M", "--target-size", "10kB", "--dry-run"), 2, "smallest types")
    check_nothing_made(tmp_path / "out")


@pytest.mark.slow
def test_a_byte_budget_is_shipped(run: Run, words: list[object], tmp_path: Path) -> None:
    answer = run(*words, "--type", "Q4_K_M", "--target-size", "200kB", "--no-serve", "--quiet")
    assert answer.code in (0, 1, 4), answer.err
    plan = read_document(Plan, tmp_path / "out" / "plan.json")
    assert plan.budget is not None
    (made,) = read_document(QuantRecord, tmp_path / "out" / "quant.json").files
    assert made.bytes <= 200_000


REFUSED: dict[str, tuple[list[str], str]] = {
    "an unknown effort": (["--effort", "bets"], "best"),
    "an unknown method": (["--method", "gtpq"], "gptq"),
    "a group size that is no number": (["--group-size", "many"], "many"),
    "an unknown observer": (["--type", "W8A8_STATIC", "--observer", "msee"], "mse"),
    "an observer of nothing": (["--type", "W8A8", "--observer", "mse"], "stores none"),
    "an act-order without a place": (["--type", "Q4_0", "--act-order", "group"], "no place"),
    "two sizes": (["--target-size", "1MB", "--target-bpw", "4"], "twice"),
    "a size that is none": (["--target-size", "big"], "big"),
    "an importance matrix and text": (["--imatrix", "absent.gguf"], "cannot be given together"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_wrong_flags(kind: str, run: Run, words: list[object], tmp_path: Path) -> None:
    flags, word = REFUSED[kind]
    check(run(*words, *flags), 2, word)
    check_nothing_made(tmp_path / "out")


@pytest.mark.slow
def test_the_engine_is_asked_about_what_was_made_before(run: Run, words: list[object], tmp_path: Path) -> None:
    out, quick = tmp_path / "out", [*words, "--type", "Q8_0", "--no-serve", "--quiet"]
    assert run(*quick).code in (0, 1, 4)
    assert read_document(ValidationRecord, out / "validation.json").engine is None
    made = next(out.glob("*.gguf"))
    first = sha256_file(made, start=made.stat().st_size // 2)
    assert run(*quick, "--ask-engine").code in (0, 1, 4)
    heard = read_document(ValidationRecord, out / "validation.json").engine
    assert heard is not None
    assert heard.engine == "llama.cpp"
    assert sha256_file(made, start=made.stat().st_size // 2) == first


@pytest.mark.usefixtures("no_vllm")
def test_an_engine_that_is_not_here_is_said_before_anything_is_made(
    run: Run, words: list[object], tmp_path: Path
) -> None:
    answer = run(*words, *CT, "--method", "rtn", "--ask-engine")
    check(answer, 3, "vLLM is not installed")
    check_nothing_made(tmp_path / "out")
