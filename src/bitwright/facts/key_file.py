"""YAML files of a person's own: keys and values, unknown keys refused with the nearest known one.

Not here: what the keys mean (thresholds.py, planner/wish.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bitwright.core.errors import InputError, UsageError, did_you_mean, from_os_error


def read_keys(path: Path, known: Sequence[str], *, example: str) -> dict[str, Any]:
    """The keys of a YAML file. Raises `InputError` for a broken one, `UsageError` for a key that is not `known`."""
    import yaml  # slow to import, and only needed where a file is given

    try:
        found: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise from_os_error(error, path) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        said = " ".join(str(error).split())
        raise InputError(f"`{path}` is not YAML: {said}", hint=f"write lines as `{example}`") from error
    if not isinstance(found, dict):
        raise InputError(f"`{path}` holds no keys", hint=f"write lines as `{example}`")
    for key in found:
        if str(key) not in known:
            raise UsageError(f"`{path}` has an unknown key `{key}`", hint=did_you_mean(str(key), [*known]))
    return {str(key): value for key, value in found.items()}
