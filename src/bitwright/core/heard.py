"""What an engine answered when it was listened to: the door between the room that talks to engines and the one that
judges."""

from __future__ import annotations

from bitwright.core.documents import Record


class Heard(Record, frozen=True, kw_only=True):
    """One prompt, what the engine wrote behind it greedily, and its most probable tokens before each token of that."""

    prompt: tuple[int, ...]
    written: tuple[int, ...]
    top_ids: tuple[tuple[int, ...], ...]
    top_logprobs: tuple[tuple[float, ...], ...]  # natural, of the whole vocabulary


class Server(Record, frozen=True, kw_only=True):
    """A running engine, as far as it tells."""

    engine: str
    model: str
    settings: dict[str, str]


class Reading(Record, frozen=True, kw_only=True):
    """How engine and original read the same text or chat. The engine's `ids` are `None` where it does not tell."""

    asked: str
    original: tuple[int, ...]
    engine: tuple[int, ...] | None
