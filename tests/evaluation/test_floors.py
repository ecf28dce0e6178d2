import pytest
import torch
from tiny_models import source, text, whole_model

from bitwright.evaluation.floors import measure_floors
from bitwright.modeling.walk import Linear, Walker


def test_bfloat16_departs_far_more_than_the_order_of_sums():
    model = whole_model()
    floors = measure_floors(source(model), text(windows=6, length=64).tokens)
    assert floors.tokens == 2 * 31
    assert 0 <= floors.order_kl < 1e-6
    assert 1e-5 < floors.bfloat16_kl < 0.1
    assert floors.order_flips <= floors.bfloat16_flips < 0.2


def test_bfloat16_floor_is_that_of_the_whole_model_in_bfloat16():
    """transformers' own model, converted as a whole, departs by as much."""
    model, tokens = whole_model(), text(windows=2, length=64).tokens
    found = measure_floors(source(model), tokens).bfloat16_kl
    with torch.no_grad():
        here = model(tokens).logits[:, 32:-1].double().log_softmax(-1)
        there = model.bfloat16()(tokens).logits[:, 32:-1].double().log_softmax(-1)
    assert found == pytest.approx(float((here.exp() * (here - there)).sum(-1).mean()), rel=0.5)


def test_the_model_is_left_as_it_was():
    walker = Walker(source(whole_model()))
    measure_floors(source(whole_model()), text().tokens)
    assert {type(module) for module in walker.load_block(0).modules() if "Linear" in type(module).__name__} == {Linear}
