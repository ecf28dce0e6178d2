"""The model card `README.md` of an artifact folder, and the verdict inside it.

The verdict comes after the weights, so it has a place of its own between two comments, which is replaced whole:

    <!-- bitwright:validation -->
    …Markdown…
    <!-- /bitwright:validation -->

The same summary as in a GGUF file stands in it as a comment of one line, for `inspect`:

    <!-- bitwright:summary {"verdict":"PASS",…} -->

Everything outside the marks belongs to whoever edits the card and is kept byte for byte.
Source: huggingface.co/docs/hub/model-cards (front matter fields).
"""

from __future__ import annotations

from pathlib import Path

from bitwright.core.atomic import write_bytes
from bitwright.core.errors import from_os_error
from bitwright.core.plan import Plan
from bitwright.core.schemes import FloatScheme, IntScheme
from bitwright.core.units import format_bytes
from bitwright.formats.hub import hub_id

CARD_NAME = "README.md"
BEGIN = "<!-- bitwright:validation -->"
END = "<!-- /bitwright:validation -->"
DATA, DATA_END = "<!-- bitwright:summary ", " -->"
TAGS = {"gptq_v2": "gptq"}
NEEDS = {
    "compressed-tensors": "Needs vLLM, or transformers with the package compressed-tensors.",
    "gptq": "Needs vLLM (symmetric, 4 or 8 bits), SGLang, or transformers with the packages optimum and gptqmodel.",
    "gptq_v2": "Needs SGLang, or transformers with the packages optimum and gptqmodel; vLLM where symmetric.",
    "awq": "Needs vLLM or SGLang, or transformers with the package gptqmodel.",
    "fp8": "Needs vLLM or SGLang; transformers takes it where weights are scaled per block.",
    "modelopt": "Needs TensorRT-LLM, vLLM or SGLang.",
    "safetensors": "Any loader of Hugging Face checkpoints takes it.",
    "bitsandbytes": "Needs transformers or SGLang, and the package bitsandbytes.",
}
PENDING = "Not validated yet: run `bitwright validate`."


def model_card(plan: Plan) -> str:
    """The card of a fresh artifact, with an empty place for the verdict."""
    model = plan.model
    source = Path(model.path)
    known = hub_id(source)
    name = known or source.name
    front = [f"base_model: {known}", "base_model_relation: quantized"] if known else []
    labels = sorted({entry.scheme.label for entry in plan.tensors if not isinstance(entry.scheme, FloatScheme)})
    packed = sum(not isinstance(entry.scheme, FloatScheme) for entry in plan.tensors)
    lines = [
        "---",
        *front,
        "library_name: transformers",
        f"tags: [{TAGS.get(plan.format, plan.format)}, quantized, bitwright]",
        "---",
        "",
        f"# {name}, {' and '.join(labels) or 'unquantized'}",
        "",
        f"Quantized from `{name}` ({model.architecture}, {model.parameters:,} parameters, {model.dtype}).",
        "",
        "| | |",
        "|---|---|",
        f"| scheme | {', '.join(labels) or 'none'} ({packed} matrices; the others as in the source) |",
        f"| method | {plan.method} |",
        f"| format | {plan.format} |",
        f"| weights | {format_bytes(plan.file_bytes)}, {plan.bits_per_weight:.2f} bits per weight |",
        f"| source fingerprint | `{model.fingerprint}` |",
        "",
        "## Validation",
        "",
        section(PENDING),
        "",
        "## Use",
        "",
        NEEDS.get(plan.format, NEEDS["compressed-tensors"]),
        "",
        "```sh",
        _launch(plan),
        "```",
        "",
        "```python",
        *_loading(plan),
        "```",
        "",
    ]
    return "\n".join(lines)


def _launch(plan: Plan) -> str:
    words = ("vllm", "serve", "{artifact}") if plan.format == "compressed-tensors" else plan.launch
    return " ".join(words).format(artifact="PATH_TO_THIS_FOLDER")


def with_origin(card: str, origin: str) -> str:
    """The card with a sentence on where the codes come from, before the place of the verdict."""
    before, heading, after = card.partition("## Validation")
    return f"{before}{origin}\n\n{heading}{after}"


def _loading(plan: Plan) -> list[str]:
    """Packed zero points load only dequantized in transformers 5.23 with compressed-tensors 0.20."""
    imports = "from transformers import AutoModelForCausalLM"
    if plan.format != "compressed-tensors" or all(
        entry.scheme.symmetric for entry in plan.tensors if isinstance(entry.scheme, IntScheme)
    ):
        return [imports, "", 'model = AutoModelForCausalLM.from_pretrained("PATH_TO_THIS_FOLDER")']
    return [
        f"{imports}, CompressedTensorsConfig",
        "",
        "settings = CompressedTensorsConfig(dequantize=True)",
        'model = AutoModelForCausalLM.from_pretrained("PATH_TO_THIS_FOLDER", quantization_config=settings)',
    ]


def section(markdown: str) -> str:
    """The marked section around `markdown`."""
    return f"{BEGIN}\n{markdown.strip()}\n{END}"


def embed_summary(folder: Path, summary_markdown: str, summary_json: str = "") -> None:
    """Put the verdict into the card, atomically; a card without the marks gets the section at its end.

    `summary_json` is one line of ASCII; without it `inspect` can show the verdict and not hold it against the weights.
    """
    path = folder / CARD_NAME
    if summary_json:
        data = summary_json.replace("--", "-\\u002d")  # two would end a comment; JSON may write one as its number
        summary_markdown = f"{summary_markdown.strip()}\n\n{DATA}{data}{DATA_END}"
    text = _read(path) if path.exists() else ""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if begin and end:
        text = before + section(summary_markdown) + after
    else:
        text = text.replace(BEGIN, "").replace(END, "")
        text = text + ("\n" if text and not text.endswith("\n\n") else "") + section(summary_markdown) + "\n"
    write_bytes(path, text.encode("utf-8", errors="surrogateescape"))


def read_summary(folder: Path) -> str | None:
    """The Markdown between the marks, or `None` when there is no card, no section, or no verdict yet."""
    path = folder / CARD_NAME
    if not path.exists():
        return None
    _, begin, rest = _read(path).partition(BEGIN)
    summary, end, _ = rest.partition(END)
    summary = summary.strip()
    return summary if begin and end and summary != PENDING else None


def has_verdict(folder: Path) -> bool:
    """Whether the card holds a verdict that `inspect` can read."""
    return read_data(folder) is not None


def read_data(folder: Path) -> str | None:
    """The summary as JSON, or `None` where the verdict carries none."""
    _, begin, rest = (read_summary(folder) or "").partition(DATA)
    data, end, _ = rest.partition(DATA_END)
    return data if begin and end else None


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", errors="surrogateescape")
    except OSError as error:
        raise from_os_error(error, path) from error
