import itertools
import json
import math

import msgspec
import numpy as np
import pytest
import scipy.special
import torch
from tiny_models import VOCAB, DictSource, source, text, whole_model

from bitwright.calibration.corpora import TokenWindows
from bitwright.core.documents import to_json
from bitwright.core.errors import InputError, MismatchError, UsageError
from bitwright.core.records import ArtifactFile, ValidationRecord
from bitwright.evaluation import score as scoring
from bitwright.evaluation.figures import CONFIDENCE_EDGES
from bitwright.evaluation.soundness import Soundness
from bitwright.evaluation.summary import SUMMARY_BYTES, model_card_section, summary
from bitwright.evaluation.validate import validate
from bitwright.evaluation.verdict import finite_gate
from bitwright.facts.thresholds import Thresholds


def limits(**others: float) -> Thresholds:
    return Thresholds(use_case="chat", source="test", **({"perplexity_delta": 1e6, "kl_mean": 100.0} | others))


LOOSE = limits()


def run(reference, artifact, *texts, thresholds=LOOSE, **options):
    return validate(
        reference, artifact, texts or (text(),), thresholds=thresholds,
        decode=lambda ids: " ".join(f"t{i}" for i in ids), decoder="none 1.0",
        files=(ArtifactFile(name="a", bytes=10, sha256="s"), ArtifactFile(name="b", bytes=5, sha256="t")),
        command="bitwright validate a", **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return whole_model()


@pytest.fixture(scope="module")
def shaken(model):
    return source(model, "artifact", noise=0.05)


def whole_logits(weights: DictSource, tokens: torch.Tensor) -> np.ndarray:
    """transformers' own forward pass of the whole model, in float64."""
    whole = whole_model()
    whole.load_state_dict(weights.weights)
    with torch.no_grad():
        return whole.double()(tokens).logits.numpy()


def test_figures_equal_those_of_whole_models_in_float64(model, shaken):
    """The oracle shares nothing with the measured path: whole models, scipy, a loop over windows."""
    sample = text(windows=6, length=33)
    result = run(source(model), shaken, sample).texts[0]
    first = 17  # second half of 33
    kl, nll, agree, top5, confidence = [], {"here": [], "there": []}, [], [], []
    here, there = (whole_logits(weights, sample.tokens) for weights in (source(model), shaken))
    for window, position in itertools.product(range(6), range(first, 32)):
        p, q = scipy.special.softmax(here[window, position]), scipy.special.softmax(there[window, position])
        kl.append(scipy.special.rel_entr(p, q).sum())
        following = int(sample.tokens[window, position + 1])
        nll["here"].append(-np.log(p[following]))
        nll["there"].append(-np.log(q[following]))
        agree.append(p.argmax() == q.argmax())
        top5.append(len({*np.argsort(p)[-5:]} & {*np.argsort(q)[-5:]}) / 5)
        confidence.append(p.max())
    assert result.scored_tokens == len(kl) == 6 * 15
    assert result.kl_mean.value == pytest.approx(np.mean(kl), rel=1e-3)
    assert result.kl_median == pytest.approx(np.median(kl), rel=1e-3)
    assert result.kl_max == pytest.approx(np.max(kl), rel=1e-3)
    assert result.perplexity_reference.value == pytest.approx(np.exp(np.mean(nll["here"])), rel=1e-4)
    assert result.perplexity_artifact.value == pytest.approx(np.exp(np.mean(nll["there"])), rel=1e-4)
    assert result.top1_agreement.value == pytest.approx(np.mean(agree))
    assert result.top5_agreement.value == pytest.approx(np.mean(top5))
    loss = {side: np.mean(values) for side, values in nll.items()}
    assert result.perplexity_ratio.value == pytest.approx(np.exp(loss["there"] - loss["here"]), rel=1e-4)
    change = np.exp(-np.array(nll["there"])) - np.exp(-np.array(nll["here"]))
    assert result.rms_probability_change.value == pytest.approx(np.sqrt(np.mean(change**2)), rel=1e-3)
    assert [entry.kl.value for entry in result.kl_quantiles] == pytest.approx(
        np.quantile(kl, [0.5, 0.9, 0.99, 0.999]), rel=1e-3
    )
    counts, _ = np.histogram(confidence, CONFIDENCE_EDGES)
    assert [entry.tokens for entry in result.by_confidence] == counts.tolist()
    inside = np.digitize(confidence, CONFIDENCE_EDGES) == 3
    measured = result.by_confidence[2]
    assert inside.sum() > 10
    assert measured.kl.value == pytest.approx(np.mean(np.array(kl)[inside]), rel=1e-3)
    assert measured.top1_agreement.value == pytest.approx(np.mean(np.array(agree)[inside]))
    assert 0.001 < result.kl_mean.value < 1  # neither trivial nor broken


def test_a_model_against_itself_is_exact(model):
    record = run(source(model), source(model), thresholds=limits(perplexity_delta=1e-9, kl_mean=1e-9))
    assert record.verdict == "PASS"
    assert record.texts[0].kl_max == 0
    assert record.texts[0].top1_agreement.low == 1
    assert record.texts[0].perplexity_delta.high == 0
    assert [layer.activation_error for layer in record.layers] == [0, 0, 0]


def test_small_chunks_and_batches_change_nothing(model, shaken, monkeypatch):
    whole = run(source(model), shaken)
    monkeypatch.setattr(scoring, "CHUNK_BYTES", 4 * VOCAB * 7)
    pieces = run(source(model), shaken, batch=1)
    assert pieces.texts[0].kl_mean.value == pytest.approx(whole.texts[0].kl_mean.value, rel=1e-4)
    assert pieces.texts[0].kl_max == pytest.approx(whole.texts[0].kl_max, rel=1e-3)


def test_more_noise_more_of_every_error(model):
    results = [run(source(model), source(model, noise=noise)) for noise in (0.01, 0.05, 0.25)]
    kl = [record.texts[0].kl_mean.value for record in results]
    error = [record.layers[-1].activation_error for record in results]
    agreement = [record.texts[0].top1_agreement.value for record in results]
    assert kl == sorted(kl)
    assert error == sorted(error)
    assert agreement == sorted(agreement, reverse=True)


def test_layers_are_told_apart(model):
    """Damage in block 1 is not seen after block 0."""
    damaged = source(model)
    damaged.weights["model.layers.1.mlp.down_proj.weight"] *= 1.2
    layers = run(source(model), damaged).layers
    assert [layer.layer for layer in layers] == [-1, 0, 1]
    assert layers[0].activation_error == layers[1].activation_error == layers[1].kl == 0
    assert layers[2].activation_error > 0.001
    assert layers[2].kl > 0.001


def test_worst_tokens_are_the_worst_and_shown_in_context(model, shaken):
    sample = text(windows=5)
    record = run(source(model), shaken, text("other", windows=3, seed=9), sample)
    kl = [token.kl for token in record.worst]
    assert len(kl) == 20
    assert kl == sorted(kl, reverse=True)
    assert kl[0] == max(result.kl_max for result in record.texts)
    token = next(token for token in record.worst if token.text == "prose")
    ids = sample.tokens[token.window].tolist()
    assert token.context == " ".join(f"t{i}" for i in ids[token.position - 11 : token.position + 1])
    assert token.next_token == f"t{ids[token.position + 1]}"


def test_every_text_is_gated_and_the_worst_gate_decides(model, shaken):
    easy, hard = text("easy"), text("hard", seed=5)
    loose = run(source(model), shaken, easy, hard)
    assert loose.verdict == "PASS"
    assert [(gate.text, gate.measure) for gate in loose.gates] == [
        ("easy", "kl_mean"), ("easy", "perplexity_delta"), ("hard", "kl_mean"), ("hard", "perplexity_delta"),
    ]  # fmt: skip
    assert run(source(model), shaken, easy, thresholds=limits(perplexity_delta=1e6, kl_mean=1e-9)).verdict == "FAIL"
    middle = loose.texts[0].kl_mean
    at_limit = run(source(model), shaken, easy, thresholds=limits(perplexity_delta=1e6, kl_mean=middle.high * 0.999))
    assert at_limit.verdict == "INCONCLUSIVE"
    assert any("windows would decide" in note for note in at_limit.notes)


def test_other_measures_have_gates_where_a_profile_limits_them(model, shaken):
    sample = text(windows=40, length=64)  # enough tokens above a p99 to bound it
    plain = run(source(model), shaken, sample).texts[0]
    share, tail, ratio = 1 - plain.top1_agreement.value, plain.kl_p99, plain.perplexity_ratio.value
    profile = limits(top1_flips=share / 4, kl_p99=tail * 4, perplexity_ratio=ratio, kl_mean=math.inf, loop_rate=0.1)
    record = run(source(model), shaken, sample, thresholds=profile)
    assert [(gate.measure, gate.verdict) for gate in record.gates] == [
        ("perplexity_delta", "PASS"), ("top1_flips", "FAIL"), ("perplexity_ratio", "INCONCLUSIVE"), ("kl_p99", "PASS"),
    ]  # fmt: skip
    assert record.gates[1].estimate.value == pytest.approx(share)
    assert record.gates[2].windows_more is None
    assert any("lies on the limit" in note for note in record.notes)


def test_gates_of_other_checks_decide_too(model):
    settings = finite_gate("settings", 1)
    record = run(source(model), source(model), soundness=lambda: Soundness(gates=(settings,)))
    assert record.verdict == "FAIL"
    assert record.gates[0] == settings


def test_an_old_record_still_reads(model, shaken):
    record = run(source(model), shaken)
    old = msgspec.to_builtins(record)
    for name in ("profile", "floors", "looks", "confidence"):
        del old[name]
    for result in old["texts"]:
        for name in ("perplexity_ratio", "kl_quantiles", "top5_agreement", "rms_probability_change", "by_confidence"):
            del result[name]
    assert msgspec.convert(old, ValidationRecord).texts[0].kl_mean == record.texts[0].kl_mean


def test_positions_cover_the_window(model, shaken):
    bins = run(source(model), shaken, text(length=64)).texts[0].by_position
    assert len(bins) == 16
    assert (bins[0].start, bins[-1].stop) == (0, 63)
    assert all(left.stop == right.start for left, right in itertools.pairwise(bins))


def test_an_artifact_that_gives_no_numbers_fails(model):
    broken = source(model, "broken")
    broken.weights["model.layers.1.mlp.down_proj.weight"][0, 0] = float("inf")
    record = run(source(model), broken)
    assert record.verdict == "FAIL"
    assert (record.gates[0].measure, record.gates[0].estimate.value) == ("finite_logits", 12)
    assert record.texts == ()
    assert record.layers[-1].activation_error is None
    assert msgspec.json.decode(to_json(record), type=ValidationRecord) == record


def test_one_broken_window_fails_and_the_others_are_still_measured(model):
    broken = source(model)
    sample = text()
    rare = int(sample.tokens[0, 5])
    sample.tokens[1:][sample.tokens[1:] == rare] = (rare + 1) % VOCAB
    broken.weights["model.embed_tokens.weight"][rare] = float("nan")
    record = run(source(model), broken, sample)
    assert record.verdict == "FAIL"
    assert record.gates[0].estimate.value == 1
    assert record.texts[0].windows == 11
    assert record.texts[0].kl_max == 0


def test_a_broken_reference_is_an_input_error(model):
    broken = source(model)
    broken.weights["lm_head.weight"][3] = float("nan")
    with pytest.raises(InputError, match="reference model gives logits that are not finite"):
        run(broken, source(model))


def test_another_model_is_refused_by_shape_and_noted_by_distance(model):
    with pytest.raises(MismatchError, match="layers is 2, expected 3"):
        run(source(whole_model(layers=3)), source(model))
    with pytest.raises(MismatchError, match="vocab is 9, expected 61"):
        run(source(model), source(model, vocab=9))
    stranger = source(whole_model(seed=8))
    stranger.weights["lm_head.weight"] *= 20
    record = run(source(model), stranger)
    assert record.texts[0].kl_mean.value > 5
    assert any("made from this reference?" in note for note in record.notes)


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        ([], UsageError, "no text"),
        ([text(windows=1)], UsageError, "1 windows, at least 2"),
        ([text(length=32), text("b", length=16)], UsageError, "16 tokens, expected 32"),
        ([text(length=6)], UsageError, "6 tokens, expected 8"),
        ([text(), text(seed=4)], UsageError, "same name"),
        ([TokenWindows("x", torch.full((3, 16), VOCAB), "")], InputError, f"token id {VOCAB}, expected 0 to"),
    ],
)  # fmt: skip
def test_texts_that_cannot_be_scored_are_refused(model, texts, error, message):
    with pytest.raises(error, match=message):
        validate(
            source(model),
            source(model),
            texts,
            thresholds=LOOSE,
            decode=str,
            decoder="",
            files=(),
            command="",
        )


def test_the_record_says_what_was_measured(model, shaken):
    record = run(source(model), shaken)
    assert (record.reference, record.artifact) == ("original", "artifact")
    assert (record.artifact_bytes, record.artifact_sha256) == (15, ("s", "t"))
    assert record.texts[0].sha256 == text().sha256
    assert msgspec.json.decode(to_json(record), type=ValidationRecord) == record


def test_the_summary_is_small_and_true_however_many_texts(model, shaken):
    texts = [text(f"Текст {index} " + "x" * 90, windows=2, length=8, seed=index) for index in range(20)]
    record = run(source(model), shaken, *texts)
    line = summary(record)
    assert len(line.encode()) < SUMMARY_BYTES
    short = json.loads(line)
    assert len(short["texts"]) + short["texts_left_out"] == 20
    assert short["texts"][0]["kl_mean"][0] == pytest.approx(record.texts[0].kl_mean.value, rel=1e-3)
    assert short["verdict"] == record.verdict
    card = model_card_section(record)
    assert f"**{record.verdict}**" in card
    assert card.count("\n| Текст") == 20
