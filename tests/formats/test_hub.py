"""Names of models. The network is never asked: the hub client is replaced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

from bitwright.core.errors import BitwrightError, EnvironmentFault, InputError
from bitwright.formats import hub


def test_what_exists_is_itself(tmp_path: Path) -> None:
    assert hub.resolve_model(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["demo2", "no such thing", "./a/b", "/a/b", "a/b/c", "owner/"])
def test_other_names_are_refused(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="is neither a folder, nor a hub id, nor `demo`"):
        hub.resolve_model(name)


def test_a_download_takes_weights_but_no_pickles_or_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: dict[str, Any] = {}

    def download(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", download)
    assert hub.resolve_model("owner/some.model-1", tmp_path / "cache") == tmp_path
    assert asked["name"] == "owner/some.model-1"
    assert asked["cache_dir"] == tmp_path / "cache"
    assert {"*.safetensors", "*.json", "*.jinja", "tokenizer.model"} <= set(asked["allow_patterns"])
    assert asked["ignore_patterns"] == ["consolidated*"]
    assert not any(pattern.endswith((".bin", ".py", "*")) and "." in pattern for pattern in asked["allow_patterns"])


def answer(status: int) -> httpx.Response:
    return httpx.Response(status, request=httpx.Request("GET", "https://example.invalid"))


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (LocalEntryNotFoundError("offline"), EnvironmentFault, "the hub cannot be reached"),
        (httpx.ConnectError("refused"), EnvironmentFault, "the hub cannot be reached"),
        (RepositoryNotFoundError("404", response=answer(404)), InputError, "the hub knows no model of that name"),
        (GatedRepoError("403", response=answer(403)), InputError, "is gated"),
        (OSError(28, "No space left on device"), EnvironmentFault, "no space left"),
    ],
)
def test_refusals_become_one_line(
    error: Exception, kind: type[BitwrightError], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def download(name: str, **options: Any) -> str:
        raise error

    monkeypatch.setattr(hub, "snapshot_download", download)
    with pytest.raises(kind, match=message) as caught:
        hub.resolve_model("owner/name", tmp_path)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/cache/models--owner--name-1/snapshots/abc", "owner/name-1"),
        ("/cache/models--owner--na--me/snapshots/abc/", "owner/na--me"),
        ("/models/owner/name", None),
    ],
)
def test_a_snapshot_knows_its_id(path: str, expected: str | None) -> None:
    assert hub.hub_id(Path(path)) == expected
