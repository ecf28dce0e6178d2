"""Short runs of llama.cpp on random models, from which the cost of a weight on this machine follows.

A model of few large matrices is run in several types, one of many narrow blocks with a short and a long prompt, once
more with a large vocabulary, and with more heads of keys and values. All are made here, so nothing is downloaded, and
no model that anyone serves is measured. Runs take turns (speed.py), because machines drift, and the median of each
counts: it is what users get.

Not here: what follows from the runs (planner/machine_fit.py).
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path

from bitwright.core.errors import from_os_error
from bitwright.core.machine import EngineRun
from bitwright.core.protocols import SILENT, Progress
from bitwright.core.records import SpeedPoint, SpeedRecord
from bitwright.formats.ggml.random_file import RandomShape, write_random

Measure = Callable[..., SpeedRecord]
# 94 million weights: 53 MB in 4 bits, more than most caches hold
LARGE = RandomShape(hidden=1024, intermediate=2816, blocks=8, heads=16, kv_heads=4)
NARROW = RandomShape(hidden=512, intermediate=256, blocks=16, heads=8, kv_heads=2)
HEADED = dataclasses.replace(NARROW, vocab=49152)  # as large as those of small models
# how queries share keys makes a cached position cost 8 to 35 ns on one machine, by no rule that was found (docs/log.md)
PAIRED = dataclasses.replace(NARROW, kv_heads=4)
NARROW_TYPE = "Q8_0"
TYPES = ("F16", "Q8_0", "Q6_K", "Q4_K", "Q5_0")
QUICK_TYPES = ("F16", "Q8_0", "Q4_K")
PROMPT, LONG_PROMPT, DECODED = 256, 4096, 48
LARGE_SECONDS, NARROW_SECONDS = 35.0, 12.0  # a busy machine takes fewer turns, and all is done in a minute and a half


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MachineRuns:
    """What planner/machine_fit.py takes."""

    large: tuple[EngineRun, ...]
    short: EngineRun
    long: EngineRun
    headed: EngineRun
    paired: tuple[EngineRun, EngineRun]  # short and long
    engine: str
    threads: int


def run_engine(
    take: Measure, *, quick: bool = False, folder: Path | None = None, progress: Progress = SILENT
) -> MachineRuns:
    """Run all; `take` is `measure` of speed.py, or measures in another way. Files of about 600 MB lie in a temporary
    folder (of `folder`) meanwhile. Raises `EnvironmentFault` where llama.cpp is not installed, or the disk or memory
    does not suffice.
    """
    repeats = 3 if quick else 6
    try:
        with tempfile.TemporaryDirectory(prefix="bitwright-", dir=folder) as name:
            return _run(Path(name), QUICK_TYPES if quick else TYPES, repeats, take, progress)
    except OSError as error:
        raise from_os_error(error, folder or Path(tempfile.gettempdir())) from error


def _run(folder: Path, types: tuple[str, ...], repeats: int, take: Measure, progress: Progress) -> MachineRuns:
    progress.say("writing models of random weights")
    narrow, headed, paired = (
        (NARROW_TYPE, folder / f"{name}.gguf") for name in ("narrow", "headed", "paired")
    )  # fmt: skip
    for (_, path), shape in ((narrow, NARROW), (headed, HEADED), (paired, PAIRED)):
        write_random(path, shape, NARROW_TYPE)
    files = [(type, folder / f"{type}.gguf") for type in types]
    for type, path in files:
        write_random(path, LARGE, type)

    def measured(paths: list[tuple[str, Path]], prompt: int, seconds: float) -> SpeedRecord:
        return take(
            paths, prompt_tokens=prompt, decode_tokens=DECODED, repeats=repeats, seconds=seconds, progress=progress
        )  # fmt: skip

    large = measured(files, PROMPT, LARGE_SECONDS)
    # together, because their difference counts
    short = measured([narrow, headed, paired], PROMPT, NARROW_SECONDS)
    long = measured([narrow, paired], LONG_PROMPT, NARROW_SECONDS)
    return MachineRuns(
        large=tuple(_as_run(LARGE, point) for point in large.points),
        short=_as_run(NARROW, short.points[0]),
        long=_as_run(NARROW, long.points[0]),
        headed=_as_run(HEADED, short.points[1]),
        paired=(_as_run(PAIRED, short.points[2]), _as_run(PAIRED, long.points[1])),
        engine=large.engine,
        threads=large.threads,
    )


def _as_run(shape: RandomShape, point: SpeedPoint) -> EngineRun:
    return EngineRun(
        type=point.name,
        hidden=shape.hidden,
        blocks=shape.blocks,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        block_weights=shape.block_weights,
        head_weights=shape.head_weights,
        vocab=shape.vocab,
        prompt_tokens=point.prompt_tokens,
        decode_tokens=point.decode_tokens,
        prompt_tokens_s=point.prompt_tokens_s,
        decode_tokens_s=point.decode_tokens_s,
    )
