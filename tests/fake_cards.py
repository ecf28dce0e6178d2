"""Graphics cards that are not there: tensors that claim to lie on `card:0`, `card:1`, … and are computed on the CPU.

torch lets Python stand behind a device of its own. What holds on a real card holds here: tensors of two devices do not
meet in one operation (a number in a tensor without dimensions may), numpy sees none of them, and a new tensor lies
where its `device` says. So a run on these cards shows which tensors go where, with values that can be compared.
`Cards.seen` counts operations by device.

Not shown: speed, memory, and what a real card computes. Source: torch 2.13, torch/utils/backend_registration.py and
test/test_privateuseone_python_backend.py.
"""

from __future__ import annotations

import collections
import functools
from typing import Any

import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CPU = torch.device("cpu")
NAME = "card"


@functools.cache
def card(index: int) -> torch.device:
    """The name of a card; the first call makes torch know them."""
    _register()
    return torch.device(NAME, index)


@functools.cache
def _register() -> None:
    backend_registration._setup_privateuseone_for_python_backend(NAME, hook=_NoHook())


class _NoHook(torch._C._acc.PrivateUse1Hooks):  # type: ignore[name-defined, misc]
    """Says that no such device is there, so that nothing but these tests looks for it."""

    def is_available(self) -> bool:
        return False

    def has_primary_context(self, index: int) -> bool:
        return True

    def is_built(self) -> bool:
        return True


class OnCard(torch.Tensor):
    """A tensor of a card; `inner` holds its values."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor, device: torch.device) -> OnCard:
        return torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.shape, strides=inner.stride(), dtype=inner.dtype, device=device,
            storage_offset=inner.storage_offset(),
        )  # fmt: skip

    def __init__(self, inner: torch.Tensor, device: torch.device) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class Cards(TorchDispatchMode):
    """While entered, tensors can be made on cards."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = _run(func, args, kwargs or {})
        self.seen.update(str(leaf.device) for leaf in tree_leaves(result) if isinstance(leaf, OnCard))
        return result


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    name = func.overloadpacket.__name__
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    devices = {tensor.device for tensor in tensors if isinstance(tensor, OnCard) or tensor.dim()}
    if len(devices) > 1 and name != "copy_":
        raise RuntimeError(f"{func}: tensors on {sorted(map(str, devices))}")
    asked = kwargs.get("device")
    if asked is not None:
        target = torch.device(asked)
        kwargs = {**kwargs, "device": CPU} if target.type == NAME else kwargs
    elif name == "copy_":
        target = tensors[0].device
    else:
        target = next((tensor.device for tensor in tensors if isinstance(tensor, OnCard)), CPU)
    result = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
    known = {id(tensor.inner): tensor for tensor in tensors if isinstance(tensor, OnCard)}
    return tree_map(lambda leaf: _placed(leaf, target, known), result)


def _inner(leaf: Any) -> Any:
    return leaf.inner if isinstance(leaf, OnCard) else leaf


def _placed(leaf: Any, target: torch.device, known: dict[int, OnCard]) -> Any:
    if not isinstance(leaf, torch.Tensor):
        return leaf
    if id(leaf) in known:
        return known[id(leaf)]
    return OnCard(leaf, target) if target.type == NAME else leaf
