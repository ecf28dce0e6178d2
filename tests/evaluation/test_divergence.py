import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitwright.evaluation.divergence import compare, compare_plainly, top_tokens

shapes = st.tuples(
    st.integers(1, 6), st.integers(2, 300), st.integers(0, 2**31), st.floats(0.01, 12), st.floats(1e-4, 8)
)


def draw(rows, vocabulary, seed, scale, gap):
    generator = torch.Generator().manual_seed(seed)
    reference = torch.randn(rows, vocabulary, generator=generator) * scale
    artifact = reference + torch.randn(rows, vocabulary, generator=generator) * gap
    return reference, artifact, torch.randint(0, vocabulary, (rows,), generator=generator)


@given(shapes)
def test_fast_and_plain_agree(shape):
    reference, artifact, target = draw(*shape)
    fast = compare(reference, artifact, target)
    plain = compare_plainly(reference.double().numpy(), artifact.double().numpy(), target.numpy())
    np.testing.assert_allclose(fast.kl, plain.kl, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(fast.nll_reference, plain.nll_reference, rtol=2e-6, atol=2e-6)
    np.testing.assert_allclose(fast.nll_artifact, plain.nll_artifact, rtol=2e-6, atol=2e-6)
    np.testing.assert_array_equal(fast.top_reference, plain.top_reference)
    np.testing.assert_array_equal(fast.top_artifact, plain.top_artifact)
    np.testing.assert_allclose(fast.confidence, plain.confidence, rtol=2e-6)
    np.testing.assert_allclose(fast.top5_shared, plain.top5_shared)


@pytest.mark.parametrize("vocabulary", [3, 128, 700, 768, 1000, 4097])
def test_the_five_best_are_found_by_blocks(vocabulary):
    logits = torch.randn(40, vocabulary, generator=torch.Generator().manual_seed(vocabulary))
    logits[0] = torch.arange(vocabulary)  # all in the last block, or behind it
    logits[1, :7] = 50 + torch.arange(min(7, vocabulary))  # more than five in one block
    expected = logits.topk(min(5, vocabulary), dim=-1).indices
    assert torch.equal(top_tokens(logits), expected)


def test_plain_agrees_with_scipy():
    reference, artifact, target = draw(5, 97, 11, 3.0, 1.0)
    p = scipy.special.softmax(reference.double().numpy(), axis=-1)
    q = scipy.special.softmax(artifact.double().numpy(), axis=-1)
    plain = compare_plainly(reference.double().numpy(), artifact.double().numpy(), target.numpy())
    np.testing.assert_allclose(plain.kl, scipy.special.rel_entr(p, q).sum(axis=-1), rtol=1e-12)
    np.testing.assert_allclose(plain.nll_artifact, -np.log(q[np.arange(5), target.numpy()]), rtol=1e-12)


def test_equal_logits_give_exactly_zero():
    reference, _, target = draw(8, 5000, 0, 10.0, 0.1)
    assert (compare(reference, reference.clone(), target).kl == 0).all()


def test_a_constant_added_to_all_logits_changes_nothing():
    reference, artifact, target = draw(8, 500, 1, 4.0, 0.5)
    shifted = compare(reference, artifact + 32.0, target)
    np.testing.assert_allclose(shifted.kl, compare(reference, artifact, target).kl, atol=2e-5)


def test_near_lossless_artifacts_keep_their_digits():
    """A KL of 5e-5 nats, as Q8_0 has, is measured to better than one percent."""
    reference, artifact, target = draw(64, 49152, 2, 4.0, 0.01)
    fast = compare(reference, artifact, target)
    plain = compare_plainly(reference.double().numpy(), artifact.double().numpy(), target.numpy())
    assert plain.kl.mean() < 1e-4
    assert fast.kl.mean() == pytest.approx(plain.kl.mean(), rel=0.01)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), 3e38])
def test_rows_that_are_not_finite_are_found(bad):
    reference, artifact, target = draw(4, 50, 3, 2.0, 0.1)
    artifact[2, 7] = bad
    if bad == 3e38:
        reference[2, 7] = -3e38
    measured = compare(reference, artifact, target)
    assert measured.finite.tolist() == [True, True, False, True]


def test_inputs_are_left_alone():
    reference, artifact, target = draw(4, 50, 4, 2.0, 0.1)
    before = reference.clone(), artifact.clone()
    compare(reference, artifact, target)
    assert torch.equal(reference, before[0])
    assert torch.equal(artifact, before[1])
