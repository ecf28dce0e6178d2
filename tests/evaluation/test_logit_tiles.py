import pytest
import torch
from tiny_models import source, whole_model

from bitwright.evaluation import orders, places
from bitwright.evaluation.causes import Case, explain
from bitwright.evaluation.tiles import error_limit, fit
from bitwright.evaluation.weights import watch


def matrix(rows: int = 64, columns: int = 256, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def rounded(value: torch.Tensor, bits: int, group: int = 32) -> torch.Tensor:
    """Nearest codes under the largest magnitude of each group."""
    tiles = value.reshape(len(value), -1, group)
    scale = tiles.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
    return ((tiles / scale).round() * scale).reshape(value.shape)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("group", [32, 256])
def test_rounding_is_sound_at_every_width(bits: int, group: int) -> None:
    value = matrix()
    found = fit(value, rounded(value, bits, group), bits + 0.5)
    assert found.sound, found
    assert 0 < found.error < error_limit(bits + 0.5)


def test_one_lost_tile_is_seen_and_placed() -> None:
    value = matrix()
    broken = rounded(value, 4)
    broken[5, 64:96] = matrix(seed=9)[5, 64:96]
    found = fit(value, broken, 4.5)
    assert not found.sound
    assert found.lost.nonzero().tolist() == [[5, 2]]


def test_values_that_are_not_finite_are_counted_and_the_rest_is_compared() -> None:
    value = matrix()
    broken = value.clone()
    broken[1, 2], broken[3, 4] = torch.nan, torch.inf
    found = fit(value, broken, 16.0)
    assert (found.not_finite, found.error) == (2, 0.0)
    assert not found.sound


def test_chunks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    value, other = matrix(), rounded(matrix(), 3)
    whole = fit(value, other, 3.5)
    monkeypatch.setattr("bitwright.evaluation.tiles.CHUNK", 700)
    parts = fit(value, other, 3.5)
    for field in ("error", "gain", "offset"):
        assert getattr(parts, field) == pytest.approx(getattr(whole, field))


def case(name: str, there: torch.Tensor, here: torch.Tensor, **changes: object) -> Case:
    facts = source(whole_model()).facts
    values = {
        "name": name, "here": here, "there": there, "fit": fit(here, there, 4.5), "bits": 4.5, "facts": facts,
        "reference": lambda other: matrix(seed=5), "artifact": lambda other: there, "peers": (),
    }  # fmt: skip
    return Case(**(values | changes))  # type: ignore[arg-type]


def test_explanations_by_the_numbers() -> None:
    value = matrix(columns=64)
    sound = rounded(value, 4)
    swapped_tiles = sound.clone()
    swapped_tiles[0:32, 0:32] = sound[0:32, 0:32].T
    head = sound.clone()
    head[8:16] = 0
    told = {
        "sign": -sound,
        "factor": 0.5 * sound,
        "transposed": sound.T,
        "transposed-block": swapped_tiles,
        "zero-head": head,
        "nibbles": sound.view(64, -1, 2).flip(2).reshape(64, 64),
        "unrelated": matrix(columns=64, seed=8),
    }
    for rule, there in told.items():
        assert explain(case("model.layers.0.self_attn.v_proj.weight", there, value)).rule == rule


def test_a_tensor_of_another_name_is_told_apart_from_an_exchange() -> None:
    here, other = matrix(columns=64), matrix(columns=64, seed=5)
    stored = {"other": other}
    options = {"peers": ("other",), "reference": lambda name: other}
    found = explain(case("a.weight", other, here, artifact=lambda name: stored[name], **options))
    assert found.rule == "other-tensor"
    stored["other"] = here
    assert explain(case("a.weight", other, here, artifact=lambda name: stored[name], **options)).rule == "swapped"


def test_moved_rows_are_found() -> None:
    value = matrix()
    there = value.clone()
    there[[3, 9]] = there[[9, 3]]
    moved, seen = orders.moved_lines(value, there, 16)
    assert moved.tolist() == [3, 9]
    assert seen == pytest.approx(1)


def test_lines_in_words() -> None:
    assert places.ranges(torch.tensor([3, 8, 9, 10, 40])) == "3, 8-10, 40"
    assert places.whole_heads(torch.arange(16, 32), 8) == (2, 3)
    assert places.whole_heads(torch.arange(16, 31), 8) == ()


def test_scales_that_were_folded_in_are_undone() -> None:
    """A norm divided and its readers multiplied is no damage; a reader left out is."""
    model = whole_model()
    reference, artifact = source(model), source(model)
    scale = torch.exp(torch.randn(32, generator=torch.Generator().manual_seed(1)))
    prefix = "model.layers.0."
    artifact.weights[f"{prefix}input_layernorm.weight"] = artifact.weights[f"{prefix}input_layernorm.weight"] / scale
    for part in "qkv":
        name = f"{prefix}self_attn.{part}_proj.weight"
        artifact.weights[name] = artifact.weights[name] * scale
    assert not watch(reference, artifact).finish().unsound
    name = f"{prefix}self_attn.k_proj.weight"
    artifact.weights[name] = reference.weights[name]
    assert [check.name for check in watch(reference, artifact).finish().unsound] == [name]


def test_a_model_changed_as_a_whole_is_not_called_broken() -> None:
    check = watch(source(whole_model()), source(whole_model(seed=1))).finish()
    assert check.transformed
    assert not check.broken
    assert len(check.unsound) > len(check.tensors) / 2
