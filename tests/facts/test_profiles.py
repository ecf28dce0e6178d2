import math

import pytest

from bitwright.core.errors import InputError, UsageError
from bitwright.core.plan import USE_CASES
from bitwright.facts.thresholds import limits, read_profile, source_of, thresholds


def profile(tmp_path, body, use_case="chat"):
    path = tmp_path / "desk.yaml"
    path.write_text(body)
    return read_profile(path, use_case)


def test_a_profile_stands_over_its_use_case(tmp_path):
    found = profile(tmp_path, "use_case: code\nkl_mean: 0.02\nkl_p99: 0.5\nloop_rate: 0.01\n")
    assert (found.use_case, found.name) == ("code", "desk")
    usual = limits(thresholds("code"))
    assert limits(found) == usual | {"kl_mean": 0.02, "kl_p99": 0.5, "loop_rate": 0.01}
    assert source_of(found, "top1_flips") == "profile desk.yaml over code"


def test_the_use_case_of_the_command_stands_where_the_file_names_none(tmp_path):
    assert profile(tmp_path, "name: mine\nkl_mean: 1\n", "medical-legal").perplexity_delta == 0.05


def test_infinity_takes_a_limit_away(tmp_path):
    found = profile(tmp_path, "perplexity_delta: .inf\ntop1_flips: null\n")
    assert limits(found) == {"kl_mean": 0.1}
    assert math.isinf(found.perplexity_delta)


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        ("kl_men: 0.1", UsageError, "did you mean `kl_mean`"),
        ("use_case: poetry", UsageError, "known: chat"),
        ("kl_mean: low", UsageError, "kl_mean: 0.05"),
        ("kl_mean: -1", UsageError, "from 0 on"),
        ("top1_flips: .nan", UsageError, "from 0 on"),
        ("kl_mean: .inf\nperplexity_delta: .inf\ntop1_flips: null", UsageError, "at least one"),
        ("- kl_mean", InputError, "kl_mean: 0.05"),
        ("kl_mean: [", InputError, "kl_mean: 0.05"),
    ],
)
def test_what_is_no_profile_is_refused_with_a_way_out(tmp_path, body, kind, said):
    with pytest.raises(kind) as caught:
        profile(tmp_path, body)
    assert said in str(caught.value.hint)


def test_every_use_case_limits_perplexity_kl_and_flips():
    for use_case in USE_CASES:
        assert set(limits(thresholds(use_case))) == {"kl_mean", "perplexity_delta", "top1_flips"}
        assert "llama.cpp" in source_of(thresholds(use_case), "top1_flips")
