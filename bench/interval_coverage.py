"""Do intervals hold what they say they hold, and how often does adding windows until a verdict err?

The windows of `interval_windows.py` are taken for all that a text could hold, and validations of a few are drawn from
them, 2000 of each size:

- coverage: how often the 95 % interval of each measure holds the value of all windows, and on which side it misses;
- consecutive: the same for windows that follow each other, as the start of a text does;
- joined: the same where two or four windows in a row are one, as longer windows would be;
- decisions: windows are doubled until the gate is decided, its limit as near to the truth as can be on either side, and
  a tenth and a fifth off; an error is a verdict on the wrong side;
- other ways to make the interval of a mean KL, for comparison.

Windows are drawn with repetition. `validate` repeats none, but what its interval is about is more text of this kind;
draws without repetition from a few hundred windows know a part of the answer and are covered more often for it, which
`not repeated` shows. Other tables are made of windows from distributions.
"""

from __future__ import annotations

import argparse
import base64
import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitwright.core.records import Estimate
from bitwright.evaluation import stats
from bitwright.evaluation.quantiles import quantile
from bitwright.evaluation.sampling import doubling
from bitwright.evaluation.verdict import judge

Floats = NDArray[np.float64]
Interval = Callable[..., Estimate]

RUNS = 2000
SIZES = (8, 12, 16, 24, 32, 64)
SHARES = (0.5, 0.9, 0.99, 0.999)
QUANTILE_RUNS = 500
LOOKS = ((8, 128), (16, 256), (32, 512))  # windows first and most
DISTANCES = (0.8, 0.9, 1 - 1e-9, 1 + 1e-9, 1.1, 1.2)  # limit over truth
MADE = 200_000  # windows that stand for all of a distribution


def log_normal(skewness: float, at_least: float = 0.0) -> Callable[[np.random.Generator], Floats]:
    """Windows of this skewness; `at_least` is added, in units of their mean, as real KL has a floor."""
    sigma = {2.0: 0.5513, 4.0: 0.8326}[skewness]
    return lambda rng: rng.lognormal(-(sigma**2) / 2, sigma, MADE) + at_least


def mixed(share: float, factor: float) -> Callable[[np.random.Generator], Floats]:
    """Windows of which a share is `factor` times as bad: a second kind of text."""
    return lambda rng: rng.lognormal(0, 0.3, MADE) * np.where(rng.random(MADE) < share, factor, 1.0)


DISTRIBUTIONS: dict[str, Callable[[np.random.Generator], Floats]] = {
    "normal, spread 0.3": lambda rng: rng.normal(1, 0.3, MADE).clip(1e-6),
    "uniform from 0": lambda rng: rng.uniform(0, 2, MADE),
    "exponential": lambda rng: rng.exponential(1, MADE),
    "log-normal, skewness 2": log_normal(2.0),
    "log-normal, skewness 4": log_normal(4.0),
    "log-normal and 1, skewness 2": log_normal(2.0, 1.0),
    "log-normal and 1, skewness 4": log_normal(4.0, 1.0),
    "a fifth 4 times as bad": mixed(0.2, 4),
    "one of fifty 10 times as bad": mixed(0.02, 10),
}


def plain(values: Floats, confidence: float = 0.95) -> Estimate:
    return stats.mean_interval(values, floor=0.0, confidence=confidence)


def logarithm(values: Floats, confidence: float = 0.95) -> Estimate:
    """t of the logarithm, by the delta method."""
    estimate = stats.mean_interval(values, confidence=confidence)
    factor = math.exp(estimate.high / estimate.value - 1)
    return Estimate(value=estimate.value, low=estimate.value / factor, high=estimate.value * factor)


def reciprocal(values: Floats, confidence: float = 0.95) -> Estimate:
    """t whose standard error is a share of the true mean."""
    estimate = stats.mean_interval(values, confidence=confidence)
    part = estimate.high / estimate.value - 1
    high = estimate.value / (1 - part) if part < 1 else math.inf
    return Estimate(value=estimate.value, low=estimate.value / (1 + part), high=high)


def hall(values: Floats, confidence: float = 0.95) -> Estimate:
    """Hall's transformation with the windows' own skewness alone."""
    count, mean, error = len(values), values.mean(), values.std(ddof=1) / math.sqrt(len(values))
    skewness = stats._skewness((values - mean) / values.std(ddof=1))
    t = stats._student(count, confidence)
    low, high = (mean - stats._inverse_hall(x, skewness, count) * error for x in (t, -t))
    return Estimate(value=mean, low=low, high=high)


def studentized_bootstrap(values: Floats, confidence: float = 0.95, draws: int = 999) -> Estimate:
    rng, count, mean = np.random.default_rng(1), len(values), values.mean()
    drawn = values[rng.integers(0, count, size=(draws, count))]
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.nan_to_num((drawn.mean(axis=1) - mean) / drawn.std(axis=1, ddof=1), posinf=0, neginf=0)
    ends = np.quantile(t, [(1 - confidence) / 2, (1 + confidence) / 2]) * values.std(ddof=1)
    return Estimate(value=mean, low=mean - ends[1], high=mean - ends[0])


def bca(values: Floats, confidence: float = 0.95, draws: int = 999) -> Estimate:
    """Bias-corrected and accelerated percentiles."""
    from scipy.special import ndtr, ndtri

    rng, count, mean = np.random.default_rng(1), len(values), values.mean()
    means = values[rng.integers(0, count, size=(draws, count))].mean(axis=1)
    bias = ndtri(np.clip((means < mean).mean(), 0.01, 0.99))
    speed = np.mean((values - mean) ** 3) / np.mean((values - mean) ** 2) ** 1.5 / (6 * math.sqrt(count))
    ends = bias + ndtri([(1 - confidence) / 2, (1 + confidence) / 2])
    low, high = np.quantile(means, ndtr(bias + ends / (1 - speed * ends)))
    return Estimate(value=mean, low=low, high=high)


OTHERS: dict[str, tuple[Interval, int]] = {  # and how many draws
    "kept": (stats.positive_mean, RUNS),
    "t": (plain, RUNS),
    "t of the logarithm": (logarithm, RUNS),
    "t, error a share of the mean": (reciprocal, RUNS),
    "Hall, own skewness": (hall, RUNS),
    "studentized bootstrap": (studentized_bootstrap, 500),
    "BCa": (bca, 500),
}
MEASURES: dict[str, tuple[tuple[str, ...], Interval]] = {
    "kl_mean": (("kl",), stats.positive_mean),
    "perplexity_ratio": (("nll_reference", "nll_artifact"), stats.perplexity_ratio),
    "perplexity_delta": (("nll_reference", "nll_artifact"), stats.perplexity_delta),
    "top1_flips": (("flips",), functools.partial(stats.mean_interval, floor=0.0, ceiling=1.0)),
    "rms_probability_change": (("squares",), stats.root_mean_square),
}


def held(columns: list[Floats], interval: Interval, places: NDArray[np.int64], truth: float) -> dict[str, float]:
    """Shares of draws (rows of `places`) whose interval holds the truth, lies below, lies above; its median width."""
    found = [interval(*(column[row] for column in columns)) for row in places]
    below, above = (np.mean([e.high < truth for e in found]), np.mean([e.low > truth for e in found]))
    width = np.median([e.high - e.low for e in found]) / abs(truth)
    named = {"held": 1 - below - above, "too_low": below, "too_high": above, "width": width}
    return {name: round(float(value), 4) for name, value in named.items()}


def at_random(count: int, windows: int, runs: int = RUNS) -> NDArray[np.int64]:
    return np.random.default_rng(7).integers(0, count, size=(runs, windows))


def not_repeated(count: int, windows: int, runs: int = RUNS) -> NDArray[np.int64]:
    rng = np.random.default_rng(7)
    return np.array([rng.permutation(count)[:windows] for _ in range(runs)])


def in_a_row(count: int, windows: int, runs: int = RUNS) -> NDArray[np.int64]:
    starts = np.random.default_rng(7).integers(0, count - windows + 1, size=(runs, 1))
    places: NDArray[np.int64] = starts + np.arange(windows)
    return places


def coverage(values: dict[str, Floats], draw: Callable[[int, int], NDArray[np.int64]]) -> dict[str, Any]:
    """Of every measure, from each number of windows."""
    table: dict[str, Any] = {}
    for name, (fields, interval) in MEASURES.items():
        columns = [values[field] for field in fields]
        truth = interval(*columns).value
        table[name] = {size: held(columns, interval, draw(len(columns[0]), size), truth) for size in SIZES}
    return table


def joined(values: Floats, count: int) -> Floats:
    """Means of windows that follow each other."""
    return values[: len(values) // count * count].reshape(-1, count).mean(axis=1)


def decisions(values: Floats, first: int, most: int) -> dict[str, Any]:
    """Shares of wrong and of open verdicts on a mean KL, for limits at several distances from the truth."""
    looks, truth = doubling(first, most), float(values.mean())
    confidence = 1 - 0.05 / len(looks)
    places = np.random.default_rng(11).integers(0, len(values), size=(RUNS, most))
    found = [[stats.positive_mean(values[row[:n]], confidence=confidence) for n in looks] for row in places]
    table = {}
    for distance in DISTANCES:
        wrong = "FAIL" if distance > 1 else "PASS"
        verdicts = [_first(judge(estimate, truth * distance) for estimate in row) for row in found]
        table[f"{distance:.3g}" if abs(distance - 1) > 1e-6 else "just below" if distance < 1 else "just above"] = {
            "wrong": round(verdicts.count(wrong) / RUNS, 4),
            "open": round(verdicts.count("INCONCLUSIVE") / RUNS, 4),
        }
    return table


def _first(verdicts: Any) -> str:
    """The first that decides."""
    return next((verdict for verdict in verdicts if verdict != "INCONCLUSIVE"), "INCONCLUSIVE")


def quantile_coverage(tokens_WP: Floats) -> dict[str, Any]:
    """Of the KL of tokens; `bounded`: the share of draws that have an upper end."""
    truth, table = np.quantile(tokens_WP, SHARES), {}
    for size in SIZES:
        draws = [tokens_WP[row] for row in at_random(len(tokens_WP), size, QUANTILE_RUNS)]
        table[size] = {}
        for share, value in zip(SHARES, truth, strict=True):
            found = [quantile(draw, share) for draw in draws]
            low, high = (np.mean([f.kl.high < value for f in found]), np.mean([f.kl.low > value for f in found]))
            bounded = np.mean([f.bounded for f in found])
            named = {"held": 1 - low - high, "too_low": low, "too_high": high, "bounded": bounded}
            table[size][str(share)] = {name: round(float(one), 4) for name, one in named.items()}
    return table


def compared(values: Floats, sizes: tuple[int, ...] = (8, 16, 32)) -> dict[str, Any]:
    """The interval that is kept beside others."""
    truth = float(values.mean())
    return {
        name: {size: held([values], interval, at_random(len(values), size, runs), truth) for size in sizes}
        for name, (interval, runs) in OTHERS.items()
    }


def shape(values: Floats) -> dict[str, float]:
    """Of windows: their spread, skewness, and how much of it the next window repeats."""
    away = values - values.mean()
    spread = away.std()
    found = {
        "windows": len(values),
        "relative_spread": spread / values.mean(),
        "skewness": np.mean(away**3) / spread**3,
        "correlation_of_neighbours": np.mean(away[1:] * away[:-1]) / spread**2,
    }
    return {name: round(float(value), 4) for name, value in found.items()}


def of_file(file: Path) -> dict[str, Any]:
    """All tables of one file of windows."""
    document = json.loads(file.read_text(encoding="utf-8"))
    values = {field: np.array(document[field]) for fields, _ in MEASURES.values() for field in fields}
    found = {
        "what": {name: document[name] for name in ("reference", "artifact", "text", "length")},
        "shape": shape(values["kl"]),
        "coverage": coverage(values, at_random),
        "not repeated": coverage(values, not_repeated),
        "consecutive": coverage(values, in_a_row),
        "joined": {
            str(count): shape(joined(values["kl"], count))
            | coverage({name: joined(column, count) for name, column in values.items()}, at_random)
            for count in (2, 4)
        },
        "decisions": {f"{first} to {most}": decisions(values["kl"], first, most) for first, most in LOOKS},
        "intervals": compared(values["kl"]),
    }
    if document["kl_tokens"]:
        packed = np.frombuffer(base64.b64decode(document["kl_tokens"]), dtype="<f2")
        found["quantiles"] = quantile_coverage(packed.astype(np.float64).reshape(-1, document["scored_tokens"]))
    return found


def of_distribution(draw: Callable[[np.random.Generator], Floats]) -> dict[str, Any]:
    values = draw(np.random.default_rng(3))
    return {
        "shape": shape(values),
        "intervals": compared(values),
        "decisions": {f"{first} to {most}": decisions(values, first, most) for first, most in LOOKS},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", help="of interval_windows.py")
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    found = {file.stem: of_file(file) for file in arguments.files}
    found |= {name: of_distribution(draw) for name, draw in DISTRIBUTIONS.items()}
    arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
