"""llama.cpp's own way to a quantized GGUF: its converter to F16, llama-imatrix, llama-quantize. Skips what exists.

Files in the peers folder, NAME being the model folder's: NAME-f16.gguf, NAME-imatrix.gguf, NAME-TYPE.gguf; beside each
a .log and a .cost.json (seconds, peak memory), so that a figure can be reported again without running again.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from process import run


@dataclass(frozen=True)
class LlamaCpp:
    """Where the tools are: the folder of the programs, and the source tree with the converter."""

    programs: Path
    source: Path
    threads: int


def float_file(tools: LlamaCpp, model: Path, peers: Path) -> Path:
    """The F16 file that llama.cpp's converter makes."""
    out = peers / f"{model.name}-f16.gguf"
    converter = [sys.executable, tools.source / "convert_hf_to_gguf.py", model, "--outtype", "f16", "--outfile", out]
    _once(out, converter, {"PYTHONPATH": str(tools.source / "gguf-py")})
    return out


def imatrix_file(tools: LlamaCpp, model: Path, peers: Path, text: Path, chunks: int, length: int) -> Path:
    """Importance matrix over the first `chunks` windows of the text."""
    out = peers / f"{model.name}-imatrix.gguf"
    source = float_file(tools, model, peers)
    words = ["-m", source, "-f", text, "-o", out, "-c", length, "--chunks", chunks, "-t", tools.threads]
    _once(out, [tools.programs / "llama-imatrix", *words])
    return out


def quantized_file(tools: LlamaCpp, model: Path, peers: Path, imatrix: Path, kind: str) -> Path:
    """llama-quantize with the importance matrix."""
    out = peers / f"{model.name}-{kind}.gguf"
    source = float_file(tools, model, peers)
    _once(out, [tools.programs / "llama-quantize", "--imatrix", imatrix, source, out, kind, tools.threads])
    return out


def quantize_again(
    tools: LlamaCpp, model: Path, peers: Path, imatrix: Path, kind: str, out: Path
) -> dict[str, float | int]:
    """What llama-quantize costs now; the file it writes is removed."""
    source = float_file(tools, model, peers)
    command = [tools.programs / "llama-quantize", "--imatrix", imatrix, source, out, kind, str(tools.threads)]
    measured = run(command, log=out.with_suffix(".log"))
    out.unlink()
    return measured.document()


def cost(file: Path) -> dict[str, float | int] | None:
    """What making a file cost, if this script made it."""
    record = file.with_suffix(".cost.json")
    costs: dict[str, float | int] | None = json.loads(record.read_text()) if record.exists() else None
    return costs


def _once(out: Path, command: list[object], environment: dict[str, str] | None = None) -> None:
    if out.exists():
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    measured = run([str(word) for word in command], log=out.with_suffix(".log"), environment=environment)
    out.with_suffix(".cost.json").write_text(json.dumps(measured.document()) + "\n", encoding="utf-8")
