"""Evaluation texts of other kinds than encyclopedia prose: Python source code, and chat.

`source` joins modules of the running interpreter's standard library; the same Python version gives the same bytes.
`chat` lets a model answer `texts/prompts.txt` (one dialogue a line, turns parted by `||`) through its own chat
template, sampled with a fixed seed, and writes every dialogue as the template renders it. The sampled text may differ
between torch builds, so the file that the published figures used is kept as `texts/chat.txt`.
"""

from __future__ import annotations

import argparse
import sysconfig
from pathlib import Path

SOURCE_MODULES = (
    "heapq.py",
    "textwrap.py",
    "json/decoder.py",
    "sched.py",
    "graphlib.py",
    "fractions.py",
    "shlex.py",
    "contextlib.py",
    "csv.py",
    "wave.py",
)
TEMPERATURE = 0.8
ANSWER_TOKENS = 160


def source_text() -> str:
    """Standard-library modules, one after the other."""
    library = Path(sysconfig.get_path("stdlib"))
    return "\n\n".join((library / module).read_text(encoding="utf-8") for module in SOURCE_MODULES)


def chat_text(model_folder: Path, prompts: Path, seed: int) -> str:
    """Every dialogue rendered by the model's chat template, answers sampled one by one."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    torch.manual_seed(seed)
    dialogues = []
    for line in prompts.read_text(encoding="utf-8").splitlines():
        messages: list[dict[str, str]] = []
        for turn in line.split("||"):
            messages.append({"role": "user", "content": turn.strip()})
            ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")["input_ids"]
            with torch.inference_mode():
                output = model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    do_sample=True,
                    temperature=TEMPERATURE,
                    top_k=0,
                    max_new_tokens=ANSWER_TOKENS,
                    pad_token_id=tokenizer.eos_token_id,
                )
            answer = tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
            messages.append({"role": "assistant", "content": answer.strip()})
        dialogues.append(tokenizer.apply_chat_template(messages, tokenize=False))
    return "".join(dialogues)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["source", "chat"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="folder of the model that answers (chat)")
    parser.add_argument("--prompts", type=Path, default=Path(__file__).parent / "texts" / "prompts.txt")
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    if arguments.kind == "chat" and arguments.model is None:
        parser.error("chat needs --model")
    text = (
        source_text() if arguments.kind == "source" else chat_text(arguments.model, arguments.prompts, arguments.seed)
    )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
