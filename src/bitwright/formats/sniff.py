"""What lies at a path, from its first bytes and small files, and the `WeightSource` that reads it.

    gguf                  a file that starts with `GGUF`, or a folder with one such file and no config.json
    compressed-tensors    a folder whose config.json has quantization_config.quant_method `compressed-tensors`
    gptq, awq, bitsandbytes, fp8, modelopt
                          the same with this quant_method; `gptq` and `modelopt` also where a file beside says it
    checkpoint            a folder with config.json and safetensors, without quantization_config

Other quantized folders (Quark, HQQ, …) are refused by the name that they give themselves. Pickles are
never opened, whatever their name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from bitwright.core.errors import InputError, UnsupportedError, from_os_error
from bitwright.core.protocols import WeightSource
from bitwright.facts.checkpoint import CONFIG, PICKLES, read_config
from bitwright.formats.checkpoint import CheckpointSource
from bitwright.formats.compressed.reader import CompressedTensorsSource
from bitwright.formats.ggml.reader import GgufSource
from bitwright.formats.packed.awq_reader import AwqSource
from bitwright.formats.packed.bnb_reader import BitsandbytesSource
from bitwright.formats.packed.gptq_reader import GptqSource
from bitwright.formats.scaled.fp8_reader import Fp8Source
from bitwright.formats.scaled.modelopt_reader import ModelOptSource

Kind = Literal["gguf", "compressed-tensors", "gptq", "awq", "bitsandbytes", "fp8", "modelopt", "checkpoint"]
GGUF_MAGIC = b"GGUF"
FOLDERS: dict[str, Kind] = {
    "compressed-tensors": "compressed-tensors",
    "gptq": "gptq",
    "awq": "awq",
    "bitsandbytes": "bitsandbytes",
    "fp8": "fp8",
    "modelopt": "modelopt",
    "modelopt_fp4": "modelopt",
}
SIDE_CONFIGS = {"quantize_config.json": "gptq", "quant_config.json": "awq", "hf_quant_config.json": "modelopt"}
_KINDS_HINT = "expected a .gguf file, or a folder with config.json and *.safetensors"


def sniff(path: Path) -> Kind:
    """Name the kind. Raises `InputError` for nothing or damage, `UnsupportedError` for other quantized formats."""
    if not path.exists():
        raise InputError(f"`{path}` does not exist", hint=_KINDS_HINT)
    if path.is_file():
        return _sniff_file(path)
    if (path / CONFIG).exists():
        return _sniff_folder(path)
    gguf_file(path)
    return "gguf"


def open_source(path: Path) -> WeightSource:
    """Open a checkpoint or an artifact. Raises as `sniff`, and as the reader of the kind."""
    match sniff(path):
        case "gguf":
            return GgufSource(gguf_file(path))
        case "compressed-tensors":
            return CompressedTensorsSource(path)
        case "gptq":
            return GptqSource(path)
        case "awq":
            return AwqSource(path)
        case "bitsandbytes":
            return BitsandbytesSource(path)
        case "fp8":
            return Fp8Source(path)
        case "modelopt":
            return ModelOptSource(path)
        case "checkpoint":
            return CheckpointSource(path)


def gguf_file(path: Path) -> Path:
    """The GGUF file at `path`: itself, or the only one in the folder. Raises `InputError` at none or several."""
    if path.is_file():
        return path
    found = sorted(path.glob("*.gguf"))
    if len(found) == 1:
        _sniff_file(found[0])
        return found[0]
    if found:
        names = ", ".join(file.name for file in found[:5])
        raise InputError(f"`{path}` holds {len(found)} GGUF files ({names})", hint="name the file you mean")
    pickles = sorted(file.name for pattern in PICKLES for file in path.glob(pattern))
    if pickles:
        raise InputError(
            f"`{path}` holds weights only as pickle (`{pickles[0]}`), which can run code and is never loaded",
            hint="convert the checkpoint to safetensors: model.save_pretrained(folder) of a recent transformers",
        )
    what = f"has no {CONFIG} and no .gguf file" if any(path.iterdir()) else "is an empty folder"
    raise InputError(f"`{path}` {what}", hint=_KINDS_HINT)


def _sniff_file(path: Path) -> Kind:
    try:
        with open(path, "rb") as handle:
            magic = handle.read(len(GGUF_MAGIC))
    except OSError as error:
        raise from_os_error(error, path) from error
    if magic == GGUF_MAGIC:
        return "gguf"
    if path.suffix == ".gguf":
        raise InputError(
            f"`{path}` is no GGUF file: it starts with {magic!r}, expected {GGUF_MAGIC!r}",
            hint="the download was cut short, or the file was renamed",
        )
    if path.suffix == ".safetensors":
        raise InputError(f"`{path}` is one file of a checkpoint", hint=f"give its folder: {path.parent}")
    raise InputError(f"`{path}` is of no kind that is known here", hint=_KINDS_HINT)


def _sniff_folder(path: Path) -> Kind:
    config = read_config(path)
    settings = config.get("quantization_config") or config.get("compression_config")
    if settings:
        method = str(settings.get("quant_method", "unknown")) if isinstance(settings, dict) else "unknown"
        if method in FOLDERS:
            return FOLDERS[method]
        raise _unsupported(path / CONFIG, method)
    for name, method in SIDE_CONFIGS.items():
        if (path / name).exists():
            if method in ("gptq", "modelopt"):
                return FOLDERS[method]
            raise _unsupported(path / name, method)
    return "checkpoint"


def _unsupported(where: Path, method: str) -> UnsupportedError:
    return UnsupportedError(
        f"`{where}` describes a model quantized with `{method}`, which is not read here",
        hint="readable: float checkpoints, compressed-tensors, GPTQ, AWQ, bitsandbytes, fp8, ModelOpt, GGUF",
    )
