"""What a decoder keeps of the tokens that it has seen, in counts of values: the engine's type says how many bytes.

Not here: how a config says it (facts/cache_layout.py), bytes and padding of an engine (planner/cache_bytes.py).
"""

from __future__ import annotations

from bitwright.core.documents import Record


class CacheGroup(Record, frozen=True, kw_only=True):
    """Layers that keep the same of every token: `heads` keys and as many values.

    Of multi-head latent attention `heads` is 1, `key` the latent and the rotary part, and `value` 0: values are made
    out of the latent.
    """

    layers: int
    heads: int  # of keys and values, which tensor parallelism shares out
    key: int  # values in a key
    value: int  # values in a value
    window: int | None = None  # tokens that these layers look back; None: all


class StateGroup(Record, frozen=True, kw_only=True):
    """Layers that keep a state of fixed size for each request, however long it is: Mamba, gated delta nets, short
    convolutions."""

    layers: int
    convolution: int  # values, in 16 bits
    recurrent: int  # values, in float32


class CacheLayout(Record, frozen=True, kw_only=True):
    """Of all layers of one decoder."""

    groups: tuple[CacheGroup, ...]
    states: tuple[StateGroup, ...] = ()
