"""A model's name to a folder on this disk: a folder itself, or a snapshot from the Hugging Face hub.

Only safetensors, JSON, templates and tokenizers are fetched; pickles and code never are. The hub client draws its own
progress when it downloads; a folder is returned without a word to the network.

Not here: what is in the folder (sniff.py), the demo model (modeling/demo.py).
Source: huggingface_hub 2.4, snapshot_download and errors.
"""

from __future__ import annotations

import re
from pathlib import Path

import httpx
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from bitwright.core.errors import EnvironmentFault, InputError, from_os_error

PATTERNS = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt", "LICENSE*", "NOTICE*"]
IGNORED = ["consolidated*"]  # the same weights once more, under names of another library
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
SNAPSHOT = re.compile(r"models--([^/]+?)--([^/]+)/snapshots/[^/]+/?$")
HAVE_FOLDER = "download the model elsewhere and give its folder"


def resolve_model(name: str, cache: Path | None = None) -> Path:
    """The folder (or file) of `name`, downloaded into `cache` (the hub's own default when `None`) if need be.

    Raises `InputError` for a name that is nothing known, `EnvironmentFault` when the hub does not answer.
    """
    path = Path(name).expanduser()
    if path.exists():
        return path
    if not HUB_ID.fullmatch(name) or name.startswith(("./", "../")):
        raise InputError(
            f"`{name}` is neither a folder, nor a hub id, nor `demo`",
            hint="give a folder with config.json and *.safetensors, an id such as owner/name, or `demo`",
        )
    return _download(name, cache)


def hub_id(folder: Path) -> str | None:
    """`owner/name` when the folder is a snapshot in a hub cache, else `None`."""
    found = SNAPSHOT.search(folder.as_posix())
    return f"{found[1]}/{found[2]}" if found else None


def _download(name: str, cache: Path | None) -> Path:
    try:
        return Path(snapshot_download(name, cache_dir=cache, allow_patterns=PATTERNS, ignore_patterns=IGNORED))
    except GatedRepoError as error:
        raise InputError(
            f"`{name}` is gated on the hub", hint="accept its terms on the hub, then set HF_TOKEN"
        ) from error
    except RepositoryNotFoundError as error:
        raise InputError(
            f"there is no folder `{name}`, and the hub knows no model of that name",
            hint="check the spelling; private models need HF_TOKEN",
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, httpx.HTTPError) as error:
        raise EnvironmentFault(
            f"there is no folder `{name}`, and the hub cannot be reached ({type(error).__name__})", hint=HAVE_FOLDER
        ) from error
    except OSError as error:
        raise from_os_error(error, cache or name) from error
