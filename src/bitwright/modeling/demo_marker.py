"""The marker inside the demo's folder: which recipe made it. No torch, so that a plan of a ready demo comes at once.

Not here: the recipe (demo.py).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from bitwright.core.errors import UsageError

DemoShape = Literal["base", "wide"]
MARKER_NAME = "bitwright-demo.json"
SEED = 0


def marker(shape: DemoShape) -> dict[str, Any]:
    """What the folder of `shape` says of itself."""
    return {"model": "SmolLM2-135M-Instruct", "shape": shape, "seed": SEED, "recipe": 1}


def is_ready(folder: Path, shape: DemoShape) -> bool:
    """Whether `folder` is this very demo. Raises `UsageError` when it is something else, not ours to replace."""
    if not folder.exists():
        return False
    path = folder / MARKER_NAME
    if path.is_file():
        try:
            return bool(json.loads(path.read_bytes()) == marker(shape))
        except ValueError:
            return False
    if not folder.is_dir() or any(folder.iterdir()):
        raise UsageError(
            f"`{folder}` is in the way: it holds something else than the demo model", hint="choose another folder"
        )
    return False
