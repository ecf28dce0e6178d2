"""`loop`: Numba's `njit` for the loops of this room, kept on disk and loaded back without what only compiling needs.

Before Numba loads a cached loop it imports all that it could compile against, scipy's linear algebra among it: 0.2 s,
where a run with an importance matrix takes two. The loop itself is machine code and needs none of it. What is compiled
later still finds everything, because Numba's compiler asks for it again.

Not here: the loops.
Source: numba/core/caching.py (Cache.load_overload), numba/core/compiler.py (CompilerBase.__init__), numba 0.68.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
from numba.core.caching import FunctionCache
from numba.core.runtime import rtsys


class _LoopCache(FunctionCache):  # type: ignore[misc]
    def load_overload(self, sig: Any, target_context: Any) -> Any:
        rtsys.initialize(target_context)  # allocates the arrays of loops
        with self._guard_against_spurious_io_errors():
            return self._load_overload(sig, target_context)


def loop(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """A decorator: `numba.njit(cache=True, nogil=True, **options)`."""

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher = numba.njit(cache=True, nogil=True, **options)(function)
        dispatcher._cache = _LoopCache(function)
        return dispatcher

    return decorate
