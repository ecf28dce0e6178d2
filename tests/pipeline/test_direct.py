"""A run without text: the bytes of the general one, resumed after an interruption, and without torch."""

import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from bitwright import api
from bitwright.api.making import calibration_plan
from bitwright.core.errors import MismatchError
from bitwright.core.plan import Plan
from bitwright.facts.families import gguf_name
from bitwright.formats.ggml.imatrix import Entry, ImportanceMatrix, write_imatrix
from bitwright.pipeline import direct, run
from checkpoints import write_checkpoint

KINDS = ["Q4_K_M", "Q3_K_M", "IQ4_XS", "Q8_0", "BF16"]


def plan_of(tmp_path: Path, kind: str, family: str = "llama") -> tuple[Plan, Path]:
    """A plan with an importance matrix that speaks of every matrix but the head."""
    folder = write_checkpoint(
        tmp_path / "model", family, hidden=256, heads=4, kv_heads=2, intermediate=512, layers=2, shards=2
    )
    rng = np.random.default_rng(0)
    plan = api.plan(folder, type=kind)
    entries = {
        gguf_name(entry.name): Entry(
            sums_EI=np.exp(rng.standard_normal((1, entry.shape[1]))).astype(np.float32),
            counts_E=np.ones(1, dtype=np.float32),
        )
        for entry in plan.tensors
        if len(entry.shape) == 2 and entry.name.startswith("model.layers")
    }
    write_imatrix(ImportanceMatrix(entries=entries), tmp_path / "m.gguf")
    calibration = calibration_plan((), 1, 8, 0, imatrix=tmp_path / "m.gguf")
    return api.plan(folder, type=kind, calibration=calibration), folder


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", [1 << 12, 1 << 19])
def test_the_bytes_are_those_of_the_general_run(
    kind: str, part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct, "PART", part)
    plan, folder = plan_of(tmp_path, kind)
    assert direct.is_direct(plan, folder, None)
    ours, general = direct.quantize(plan, folder, tmp_path / "direct"), run.quantize(plan, folder, tmp_path / "run")
    assert [file.sha256 for file in ours.files] == [file.sha256 for file in general.files]
    for one, other in zip(ours.tensors, general.tensors, strict=True):
        assert one.weight_error == pytest.approx(other.weight_error, rel=1e-4)
        unmeasured = {"seconds": 0.0, "weight_error": 0.0}
        assert msgspec.structs.replace(one, **unmeasured) == msgspec.structs.replace(other, **unmeasured)


def test_an_interrupted_run_goes_on_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, folder = plan_of(tmp_path, "Q4_K_M", "qwen2")
    monkeypatch.setattr(direct, "COMMIT_SECONDS", 0.0)
    original, out = direct._write_unit, tmp_path / "out"

    def stop_at_third(bench: object, artifact: object, unit: str, tensors: object) -> object:
        if unit == "model.layers.1":
            raise KeyboardInterrupt
        return original(bench, artifact, unit, tensors)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(direct, "_write_unit", stop_at_third)
        with pytest.raises(KeyboardInterrupt):
            direct.quantize(plan, folder, out)
    assert not (out / "quant.json").exists()
    seen: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(direct, "_write_unit", lambda *given: (seen.append(given[2]), original(*given))[1])
        resumed = direct.quantize(plan, folder, out)
    assert seen == ["model.layers.1", "head"]
    whole = direct.quantize(plan, folder, tmp_path / "whole")
    assert [file.sha256 for file in resumed.files] == [file.sha256 for file in whole.files]
    assert [tensor.name for tensor in resumed.tensors] == [tensor.name for tensor in whole.tensors]
    assert direct.quantize(plan, folder, out) == resumed


def test_another_model_is_refused(tmp_path: Path) -> None:
    plan, _ = plan_of(tmp_path, "Q4_0")
    other = write_checkpoint(
        tmp_path / "other", hidden=256, heads=4, kv_heads=2, intermediate=512, layers=2, shards=2, seed=1
    )
    with pytest.raises(MismatchError, match="not the checkpoint"):
        direct.quantize(plan, other, tmp_path / "out")


def test_torch_is_not_imported(tmp_path: Path) -> None:
    plan_of(tmp_path, "Q4_K_M")
    code = (
        "import sys\nfrom pathlib import Path\nfrom bitwright import api\n"
        "from bitwright.api.making import calibration_plan\n"
        "calibration = calibration_plan((), 1, 8, 0, imatrix=Path('m.gguf'))\n"
        "api.quantize(api.plan('model', type='Q4_K_M', calibration=calibration), Path('out'))\n"
        "print(sorted({'torch', 'transformers', 'compressed_tensors'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert list((tmp_path / "out").glob("*.gguf"))
