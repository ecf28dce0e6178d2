"""What a person said of load, limits and cost, and the target that it makes: what was left out is filled in.

A wish comes from flags or from a YAML file whose keys are the flags' names; what a flag says goes before the file.

    workload: rag
    concurrency: 32
    ttft: 0.5            # seconds
    user-speed: 20       # tokens per second
    floor: 0.1           # of perplexity
    aim: cost

Not here: what the defaults are (facts/workloads.toml, facts/thresholds.toml), what is made of a target (ranking.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import msgspec

from bitwright.core.choices import UseCase
from bitwright.core.devices import DeviceFacts
from bitwright.core.documents import Record
from bitwright.core.errors import UsageError, did_you_mean
from bitwright.core.target import Aim, CacheType, Constraints, Limits, Load, QualityFloor, Target
from bitwright.facts.key_file import read_keys
from bitwright.facts.thresholds import thresholds
from bitwright.facts.workloads import workload_row


class Wish(Record, frozen=True, kw_only=True, rename="kebab"):
    """As a person says it; `None` is: decide for me. Seconds, tokens, tokens per second, dollars."""

    workload: Load | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    shared_prefix: int | None = None
    concurrency: int | None = None
    arrivals: float | None = None  # requests per second
    ttft: float | None = None
    user_speed: float | None = None
    throughput: float | None = None
    floor: float | None = None  # rise of perplexity
    aim: Aim | None = None
    engine: tuple[str, ...] = ()
    kv_cache: CacheType | None = msgspec.field(default=None, name="served-cache")  # a plan has a --kv-cache of its own
    price: float | None = None  # dollars per hour of one device

    @property
    def decides(self) -> bool:
        """Whether anything was said, so that figures and not the handbook's first answer decide."""
        return any(getattr(self, name) not in (None, ()) for name in self.__struct_fields__)

    def over(self, other: Wish) -> Wish:
        """Both, where this one goes before the other."""
        said = {n: getattr(self, n) for n in self.__struct_fields__ if getattr(self, n) not in (None, ())}
        return msgspec.structs.replace(other, **said)


def read_wish(path: Path) -> Wish:
    """The wish of a YAML file. Raises `InputError` for a broken one, `UsageError` for an unknown key or value."""
    known = [field.encode_name for field in msgspec.structs.fields(Wish)]
    found = read_keys(path, known, example="concurrency: 8")
    try:
        return msgspec.convert(found, Wish)
    except msgspec.ValidationError as error:
        raise UsageError(f"`{path}`: {error}", hint="`bitwright plan --help` says what each key takes") from error


def said_wish(**said: Any) -> Wish:
    """The wish of flags. Raises `UsageError` for a word that is none of those that a flag takes."""
    for name, kind in (("workload", Load), ("aim", Aim), ("kv_cache", CacheType)):
        word, known = said.get(name), list(get_args(kind))
        if word is not None and word not in known:
            raise UsageError(f"unknown {name.replace('kv_cache', 'cache')} `{word}`", hint=did_you_mean(word, known))
    return Wish(**said)


def check_wish(wish: Wish) -> None:
    """Raises `UsageError` for a number that cannot be, before anything is read."""
    for name in ("prompt_tokens", "output_tokens", "concurrency"):
        value = getattr(wish, name)
        if value is not None and value < 1:
            raise UsageError(f"{name.replace('_', ' ')} {value} is too small", hint="1 is the least")
    for name in ("arrivals", "ttft", "user_speed", "throughput", "price"):
        value = getattr(wish, name)
        if value is not None and not 0 < value < float("inf"):
            raise UsageError(f"{name.replace('_', ' ')} {value} is no limit", hint="give a number above 0")
    if wish.floor is not None and not 0 <= wish.floor < float("inf"):
        raise UsageError(f"a floor of {wish.floor} is none", hint="give the rise of perplexity that is tolerable: 0.1")
    if wish.shared_prefix is not None and wish.shared_prefix < 0:
        raise UsageError(f"a shared prefix of {wish.shared_prefix} tokens is none", hint="0 is the least")


def target_of(wish: Wish, device: DeviceFacts, *, use_case: UseCase, context: int) -> Target:
    """The target: lengths and concurrency by load, the floor by use case, where the wish leaves them open.

    A processor serves one request at a time unless more are asked for: that is who plans for one.
    """
    load: Load = wish.workload or ("vlm" if use_case == "vlm" else "code" if use_case == "code" else "chat")
    usual = workload_row(load).workload
    prompt, output = wish.prompt_tokens or usual.prompt_tokens, wish.output_tokens or usual.output_tokens
    shared = wish.shared_prefix if wish.shared_prefix is not None else usual.shared_prefix_tokens
    workload = msgspec.structs.replace(
        usual,
        prompt_tokens=prompt,
        output_tokens=output,
        concurrency=wish.concurrency or (1 if device.kind == "cpu" else usual.concurrency),
        shared_prefix_tokens=min(shared, prompt),
        requests_per_second=wish.arrivals,
    )
    return Target(
        device=device,
        workload=workload,
        limits=Limits(
            ttft_seconds=wish.ttft, user_tokens_per_second=wish.user_speed, tokens_per_second=wish.throughput
        ),
        floor=_floor(wish, use_case),
        aim=wish.aim or "balanced",
        constraints=Constraints(engines=wish.engine, kv_cache=wish.kv_cache or "auto"),
        context=max(context, workload.context) if wish.decides else context,
        dollars_per_hour=wish.price,
    )


def _floor(wish: Wish, use_case: UseCase) -> QualityFloor:
    usual = thresholds(use_case)
    if wish.floor is None:
        return QualityFloor(use_case=use_case, perplexity_delta=usual.perplexity_delta, kl_mean=usual.kl_mean)
    kl = usual.kl_mean * wish.floor / usual.perplexity_delta if usual.perplexity_delta else wish.floor
    return QualityFloor(use_case=use_case, perplexity_delta=wish.floor, kl_mean=kl)
