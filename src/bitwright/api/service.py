"""Serve an artifact, or ask it one question."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bitwright.core.errors import BitwrightError, UsageError
from bitwright.core.plan import ArtifactFormat

if TYPE_CHECKING:
    from bitwright.engines.server import EngineServer

QUANT_FILE = "quant.json"
QUESTION = "Name three things that bees make or do."


def serve(
    artifact: Path | str,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    api_key: str | None = None,
    context: int | None = None,
    parallel: int | None = None,
    kv_cache: str | None = None,
) -> EngineServer:
    """Start the engine of this artifact and wait until it answers; the caller stops it, or uses it in `with`.

    Context, requests at once and type of the cache are those of the artifact's plan where they are `None`.

    Raises `InputError` for what is no artifact, `UsageError` for a bad host, `EnvironmentFault` for a busy port or a
    missing engine.
    """
    path, kind = locate(Path(artifact))
    from bitwright.engines.serve import serve as start

    return start(
        path, kind, host=host, port=port, api_key=api_key, context=context, parallel=parallel, kv_cache=kv_cache,
        planned=planned_line(path),
    )  # fmt: skip


def planned_line(path: Path) -> tuple[str, ...]:
    """The launch line of the plan that an artifact was made by; empty where no readable record lies beside it.

    `plan.json` goes before the record: the same artifact may have been planned for another load since.
    """
    from bitwright.api.decision import PLAN_FILE, what_differs
    from bitwright.core.documents import read_document
    from bitwright.core.plan import Plan
    from bitwright.core.records import QuantRecord

    folder = path if path.is_dir() else path.parent
    try:
        record = read_document(QuantRecord, folder / QUANT_FILE)
    except BitwrightError:
        return ()
    if not path.is_dir() and path.name not in {file.name for file in record.files}:
        return ()
    try:
        newer = read_document(Plan, folder / PLAN_FILE)
    except BitwrightError:
        return record.plan.launch
    return record.plan.launch if what_differs(record.plan, newer) else newer.launch


def why_not_served(format: ArtifactFormat) -> str | None:
    """Why no engine on this machine serves a format, or `None` where one does."""
    if format == "gguf":
        return None
    from bitwright.engines.vllm import find_vllm

    if format == "bitsandbytes":
        return "`bitwright serve` starts no engine that loads bitsandbytes"
    return None if find_vllm() is not None else "vLLM is not installed here"


def chat(url: str, prompt: str = QUESTION, *, api_key: str | None = None, max_tokens: int = 64) -> str:
    """One question to a served model, and its answer."""
    from bitwright.engines.chat import chat_once

    return chat_once(url, prompt, api_key=api_key, max_tokens=max_tokens).text


def locate(path: Path) -> tuple[Path, ArtifactFormat]:
    """The path that engines want, and its format. Raises `InputError`, or `UsageError` for a float checkpoint."""
    from bitwright.formats.sniff import gguf_file, sniff

    kind = sniff(path)
    if kind == "checkpoint" and (path / QUANT_FILE).exists():
        return path, "safetensors"  # cast by us
    if kind == "checkpoint":
        raise UsageError(
            f"`{path}` is a float checkpoint, an artifact was expected",
            hint=f"bitwright ship {path} --out DIR makes one",
        )
    return (gguf_file(path), kind) if kind == "gguf" else (path, kind)
