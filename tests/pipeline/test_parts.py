"""A matrix taken some rows at a time gives the bytes of the whole; half-written regions and kills change nothing."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bitwright.calibration.statistics import InputStatistics
from bitwright.core.errors import UsageError
from bitwright.core.plan import CalibrationPlan, DeviceFacts, Plan
from bitwright.core.schemes import IntScheme, MinifloatScheme
from bitwright.facts.compressed_types import COMPRESSED_TYPES
from bitwright.facts.model import model_facts
from bitwright.formats.checkpoint import CheckpointSource
from bitwright.formats.layout import FileLayout, Region
from bitwright.modeling.stages import run_repeated
from bitwright.pipeline import blocks, rows
from bitwright.pipeline.output import GrowingArtifact
from bitwright.pipeline.rows import StoredRows, UsedRows, parts
from bitwright.pipeline.run import quantize
from bitwright.pipeline.units import needs_text
from bitwright.planner.build import make_plan
from bitwright.quantize.scaling import trial_of
from bitwright.quantize.solve import SLAB, Solver, join_rows, solve
from bitwright.quantize.statistics import Statistics
from checkpoints import write_checkpoint

DEVICE = DeviceFacts(name="test", kind="cpu", memory_bytes=2**34)
TEXT = "Pack my box with five dozen liquor jugs. " * 120
VOCABULARY = 9 * SLAB + 64  # the last part is not full


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("parts") / "model"
    return write_checkpoint(
        place, hidden=256, heads=4, kv_heads=2, intermediate=768, layers=1, vocab=VOCABULARY, shards=2
    )


def plan_for(folder: Path, *, text: bool = True, **choices: object) -> Plan:
    path = folder.parent / "text.txt"
    path.write_text(TEXT)
    calibration = CalibrationPlan(source=(str(path),) if text else (), samples=4, length=32)
    return make_plan(model_facts(folder), DEVICE, use_case="chat", calibration=calibration, **choices)


CASES = [
    {"format": "gguf", "type": "Q4_K_M"},
    {"format": "gguf", "type": "F16"},
    {"format": "compressed-tensors", "bits": 4, "symmetric": False, "group_size": 64},
    {"format": "compressed-tensors", "bits": 8, "method": "awq", "effort": "best"},
    {"format": "compressed-tensors", "type": "FP8_BLOCK", "method": "rtn"},
    {"format": "compressed-tensors", "type": "NVFP4A16", "method": "rtn"},
    {"format": "gptq", "bits": 4},
    {"format": "bitsandbytes", "type": "NF4"},
]


@pytest.mark.parametrize("choices", CASES, ids=lambda case: "-".join(map(str, case.values())))
def test_an_artifact_made_in_parts_has_the_same_bytes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choices: dict[str, object]
) -> None:
    plan = plan_for(folder, **choices)
    whole = quantize(plan, folder, tmp_path / "whole")
    monkeypatch.setattr(rows, "PART_WEIGHTS", 4 * SLAB * 256)
    assert len(list(parts((VOCABULARY, 256)))) == 3
    cut = quantize(plan, folder, tmp_path / "parts")
    assert cut.files == whole.files
    assert [tensor.weight_error for tensor in cut.tensors] == [tensor.weight_error for tensor in whole.tensors]


@pytest.mark.parametrize("method", ["rtn", "gptq"])
@pytest.mark.parametrize(
    "scheme",
    [IntScheme(bits=4, group_size=64, symmetric=False), COMPRESSED_TYPES["FP8_BLOCK"], COMPRESSED_TYPES["NVFP4"]],
)
def test_a_head_solved_in_parts_is_the_head_solved_whole(method: str, scheme: IntScheme | MinifloatScheme) -> None:
    generator = np.random.default_rng(3)
    weight = generator.standard_normal((8 * SLAB + 32, 128), dtype=np.float32)
    inputs = generator.standard_normal((512, 128), dtype=np.float32) @ generator.standard_normal(
        (128, 128), dtype=np.float32
    )
    statistics = Statistics.of((inputs.T @ inputs / 512).astype(np.float32), method, peak=4.0)
    whole, notes = solve(weight, statistics, scheme, method)
    solver = Solver(statistics, scheme, method, len(weight), peak=float(np.abs(weight).max()))
    kept = weight.copy()
    joined = join_rows([solver.rows(part, decoded_OI=part) for part in (kept[: 3 * SLAB], kept[3 * SLAB :])])
    found = solver.notes()
    assert (found.method, found.damping, found.weight_error) == (notes.method, notes.damping, notes.weight_error)
    assert found.output_error == pytest.approx(notes.output_error, rel=1e-6)  # sums are cut elsewhere
    np.testing.assert_array_equal(joined.codes, whole.codes)
    for name, field in whole.fields.items():
        np.testing.assert_array_equal(joined.fields[name], field)
    np.testing.assert_array_equal(kept, whole.decode())


def test_rows_of_a_checkpoint_are_those_of_the_tensor(folder: Path) -> None:
    source, name = CheckpointSource(folder), "model.embed_tokens.weight"
    whole = source.load(name)
    torch.testing.assert_close(source.load_rows(name, 250, 300), whole[250:300], rtol=0, atol=0)
    torch.testing.assert_close(source.load_rows(name, VOCABULARY - 3, VOCABULARY + 9), whole[-3:], rtol=0, atol=0)


def test_a_source_without_rows_is_read_once_and_not_overwritten(folder: Path) -> None:
    class Whole:
        loads = 0

        def load(self, name: str) -> torch.Tensor:
            self.loads += 1
            return torch.ones(8, 4)

    source = Whole()
    stored = StoredRows(source, "w", np.full(4, 3, dtype=np.float32))  # type: ignore[arg-type]
    for _ in range(2):
        assert (stored.read(2, 5) == 3).all()
    assert source.loads == 1


def test_rows_that_tokens_use_are_gathered_in_passing() -> None:
    table = torch.randn(40, 3)
    tokens = torch.tensor([[7, 39, 7], [0, 12, 31]])
    used = UsedRows(tokens, 3)
    for start in range(0, 40, 16):
        used.see(start, table[start : start + 16].numpy())
    torch.testing.assert_close(used.table_UH[used.places], table[tokens], rtol=0, atol=0)


def test_trial_rows_do_not_depend_on_where_the_matrix_is_cut() -> None:
    weight = np.random.default_rng(0).standard_normal((1300, 8), dtype=np.float32)
    whole = trial_of([weight], 1300)
    cut = trial_of([weight[:256], weight[256:1024], weight[1024:]], 1300)
    np.testing.assert_array_equal(cut.rows_OI, whole.rows_OI)
    np.testing.assert_array_equal(cut.size_I, whole.size_I)
    np.testing.assert_allclose(whole.size_I, np.square(weight, dtype=np.float64).mean(axis=0))


def test_a_region_in_parts_has_the_digest_of_the_whole(tmp_path: Path) -> None:
    layout = FileLayout(
        name="a.bin", header=b"head", regions={"x": Region(offset=4, bytes=6), "y": Region(offset=10, bytes=2)},
        total_bytes=12, data_start=4,
    )  # fmt: skip
    digests = []
    for pieces in ([b"abcdef"], [b"ab", b"cde", b"f"]):
        with GrowingArtifact((layout,), tmp_path) as artifact:
            for piece in pieces:
                artifact.write({"x": piece, "y": b"yz"})
            digests.append(artifact.take_digests())
            artifact.check(digests[-1])
            artifact.write({"x": b"ab"})
            with pytest.raises(AssertionError, match="only a part of x"):
                artifact.take_digests()
    assert digests[0] == digests[1]
    assert (tmp_path / "a.bin.partial").read_bytes() == b"headabcdefyz"


@pytest.mark.parametrize(
    "choices", [{"format": "gguf", "type": "Q4_K_M"}, {"format": "compressed-tensors", "type": "FP8_DYNAMIC"}]
)
def test_nearest_codes_need_no_text(folder: Path, tmp_path: Path, choices: dict[str, object]) -> None:
    plan = plan_for(folder, text=False, method="rtn", **choices)
    assert not needs_text(plan)
    record = quantize(plan, folder, tmp_path / "out")
    assert {tensor.method for tensor in record.tensors} == {"rtn", "cast"}
    assert all(tensor.output_error is None for tensor in record.tensors)
    assert record.calibration_sha256 == ""


def test_methods_that_look_at_inputs_refuse_to_go_without_text(folder: Path) -> None:
    from bitwright.api.decision import make_plan as decide
    from bitwright.api.making import calibration_plan

    none = calibration_plan(("none",), 8, 64, 0)
    with pytest.raises(UsageError, match="nothing is known of them"):
        decide(folder, method="gptq", calibration=none)
    with pytest.raises(UsageError, match="stores the scale of activations"):
        decide(folder, type="FP8", calibration=none)
    with pytest.raises(UsageError, match="cannot be mixed"):
        calibration_plan(("none", "text.txt"), 8, 64, 0)
    assert decide(folder, type="Q4_K_M", calibration=none).method == "rtn"


@pytest.mark.parametrize("effort", ["fast", "balanced"])
def test_passes_that_are_run_again_give_the_bytes_of_those_that_were_paused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, effort: str
) -> None:
    plan = plan_for(folder, format="gguf", type="Q4_0", effort=effort)
    monkeypatch.setattr(blocks, "BATCH_TOKENS", 64)
    paused = quantize(plan, folder, tmp_path / "paused")
    calls = []
    monkeypatch.setattr(blocks, "PAUSED_BYTES", 0)
    monkeypatch.setattr(blocks, "run_repeated", lambda *given: calls.append(given) or run_repeated(*given))
    again = quantize(plan, folder, tmp_path / "again")
    assert len(calls) == 1
    assert len(calls[0][2]) == 2
    assert again.files == paused.files


def test_a_gram_matrix_taken_in_place_is_the_copy() -> None:
    inputs = torch.randn(50, 900)  # two panels
    seen = InputStatistics(900)
    seen.add(inputs)
    copied = seen.gram("here")
    taken = seen.take_gram("here")
    np.testing.assert_array_equal(taken, copied)
    np.testing.assert_array_equal(taken, taken.T)
    np.testing.assert_allclose(taken, (inputs.double().T @ inputs.double() / 50).numpy(), atol=1e-5)


def test_the_output_error_without_the_gram_matrix_is_the_one_with_it() -> None:
    generator = np.random.default_rng(5)
    weight = generator.standard_normal((96, 128), dtype=np.float32)
    inputs = generator.standard_normal((512, 128)) @ generator.standard_normal((128, 128))
    gram = (inputs.T @ inputs / 512).astype(np.float32)
    tensor, notes = solve(weight, Statistics.of(gram, "gptq"), IntScheme(bits=4, group_size=64), "gptq")
    error = weight - tensor.decode()
    expected = np.einsum("oi,ij,oj->", error, gram, error) / np.einsum("oi,ij,oj->", weight, gram, weight)
    assert notes.output_error == pytest.approx(expected, rel=0.02)  # the size may be rounded to bfloat16
