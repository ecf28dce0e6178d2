import msgspec
import numpy as np
import pytest
import torch
from tiny_models import DictSource, source, text, whole_model

from bitwright.core.records import ArtifactFile
from bitwright.evaluation.divergence import compare
from bitwright.evaluation.reference_cache import ReferenceCache, draw
from bitwright.evaluation.validate import validate
from bitwright.facts.thresholds import Thresholds

LIMITS = Thresholds(use_case="chat", perplexity_delta=1e6, kl_mean=100.0, source="test")


def judged(reference, artifact, cache, *texts):
    return validate(
        reference, artifact, texts or (text(),), thresholds=LIMITS, decode=str, decoder="none",
        files=(ArtifactFile(name="a", bytes=1, sha256="s"),), command="", cache=cache,
    )  # fmt: skip


def stored(tmp_path, logits, following, **sizes):
    """The logits written and read again."""
    cache = ReferenceCache(folder=tmp_path, fingerprint="f", **sizes)
    tokens = torch.arange(len(logits))[None]
    with cache.writer(tokens, len(logits), logits.shape[1]) as writer:
        for part in range(0, len(logits), 100):  # chunk by chunk, as they come
            exact = compare(logits[part : part + 100], logits[part : part + 100], following[part : part + 100])
            writer.add(logits[part : part + 100], exact.nll_reference)
    return cache.read(tokens)


def logits_of(rows, vocabulary, seed, gap):
    generator = torch.Generator().manual_seed(seed)
    reference = torch.randn(rows, vocabulary, generator=generator) * 2.5
    artifact = reference + torch.randn(rows, vocabulary, generator=generator) * gap
    return reference, artifact, torch.randint(0, vocabulary, (rows,), generator=generator)


@pytest.mark.parametrize("gap", [0.01, 0.3, 1.5])
def test_the_mean_is_right_within_the_error_that_is_said(tmp_path, gap):
    """Near-uniform predictions, half of whose probability lies outside the largest: far worse than text."""
    reference, artifact, following = logits_of(400, 3000, 1, gap)
    exact = compare(reference, artifact, following)
    kept = stored(tmp_path, reference, following, top=64, tail=32)
    found, variance = kept.compare(0, artifact, following)
    error = np.sqrt(variance.sum()) / len(variance)
    assert abs(found.kl.mean() - exact.kl.mean()) < 3 * error
    assert error < 0.05 * exact.kl.mean()
    np.testing.assert_allclose(found.nll_artifact, exact.nll_artifact, rtol=1e-6)
    np.testing.assert_allclose(found.confidence, exact.confidence, rtol=1e-5)
    np.testing.assert_array_equal(found.nll_reference, exact.nll_reference)
    np.testing.assert_array_equal(found.top5_shared, exact.top5_shared)
    np.testing.assert_array_equal(found.top_reference, exact.top_reference)


def test_one_lump_instead_of_drawn_tokens_would_be_too_low(tmp_path):
    """What is gained over the usual cut, whose error has one sign."""
    reference, artifact, following = logits_of(300, 3000, 2, 0.5)
    exact = compare(reference, artifact, following).kl.mean()
    found, _ = stored(tmp_path, reference, following, top=64, tail=32).compare(0, artifact, following)
    p, q = (logits.double().softmax(-1) for logits in (reference, artifact))
    best = reference.topk(96, dim=-1).indices
    p_best, q_best = p.gather(1, best), q.gather(1, best)
    rest_p, rest_q = 1 - p_best.sum(1), 1 - q_best.sum(1)
    lump = float(((p_best * (p_best / q_best).log()).sum(1) + rest_p * (rest_p / rest_q).log()).mean())
    assert lump < 0.9 * exact
    assert abs(found.kl.mean() - exact) < (exact - lump) / 10


def test_places_are_drawn_in_proportion():
    weights = torch.tensor([[0.0, 1.0, 0.0, 3.0, 4.0]]).repeat(200, 1)
    ids = draw(weights, 8, torch.Generator().manual_seed(0))
    assert torch.bincount(ids.flatten(), minlength=5).tolist() == [0, 200, 0, 600, 800]


def test_a_second_artifact_needs_no_pass_of_the_reference(tmp_path):
    """A vocabulary below the number kept: every figure is the same, and the reference is never read."""
    model = whole_model()
    cache = ReferenceCache(folder=tmp_path, fingerprint="f")
    first = judged(source(model), source(model, noise=0.05), cache)
    assert first.texts[0].cache_error is None
    assert first.layers

    class Unread(DictSource):
        def load(self, name):
            raise AssertionError(name)

    whole = source(model)
    again = judged(Unread(whole.weights, whole.config, "original"), source(model, noise=0.05), cache)
    assert again.texts[0].cache_error == 0
    assert again.layers == ()
    assert any("came from a cache" in note for note in again.notes)
    kl = again.texts[0].kl_mean
    assert kl.value == pytest.approx(first.texts[0].kl_mean.value, rel=1e-4)
    assert again.texts[0].perplexity_ratio == first.texts[0].perplexity_ratio
    assert again.texts[0].top5_agreement == first.texts[0].top5_agreement


def test_other_tokens_models_and_counts_have_files_of_their_own(tmp_path):
    cache = ReferenceCache(folder=tmp_path, fingerprint="f")
    tokens = text().tokens
    others = [
        cache.path(tokens + 1), cache.path(tokens[:4]),
        ReferenceCache(folder=tmp_path, fingerprint="g").path(tokens),
        ReferenceCache(folder=tmp_path, fingerprint="f", top=9).path(tokens),
    ]  # fmt: skip
    assert len({cache.path(tokens), *others}) == 5


def test_a_file_that_was_cut_or_is_another_kind_is_not_believed(tmp_path):
    model = whole_model()
    cache = ReferenceCache(folder=tmp_path, fingerprint="f")
    whole = judged(source(model), source(model, noise=0.05), cache)
    path = cache.path(text().tokens)
    for damaged in (path.read_bytes()[:-1], b"something else\n"):
        path.write_bytes(damaged)
        assert cache.read(text().tokens) is None
        assert judged(source(model), source(model, noise=0.05), cache).texts == whole.texts
        assert cache.read(text().tokens) is not None


def test_logits_that_are_not_finite_fail_from_a_cache_too(tmp_path):
    model = whole_model()
    cache = ReferenceCache(folder=tmp_path, fingerprint="f")
    broken = source(model)
    broken.weights["model.layers.1.mlp.down_proj.weight"][0, 0] = float("inf")
    fresh, cached = judged(source(model), broken, cache), judged(source(model), broken, cache)
    assert fresh.verdict == cached.verdict == "FAIL"
    assert msgspec.structs.replace(cached.gates[0], source="") == msgspec.structs.replace(fresh.gates[0], source="")
