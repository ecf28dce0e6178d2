"""The cells of `versus_quality.py`: which artifacts are made, by which commands, and what is claimed of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """Who makes an artifact (a script in `peers/`, or bitwright), and with which flags; GROUP stands for the size."""

    tool: str
    flags: tuple[str, ...]


@dataclass(frozen=True)
class Line:
    """KL of `ours` divided by the least of `peers` is at most `limit`, on other texts at most `other`."""

    ours: str
    peers: tuple[str, ...]
    limit: float
    other: float = 1.0


LLM_COMPRESSOR, AUTO_ROUND, GPTQMODEL, OURS = "llm_compressor", "auto_round_signround", "gptqmodel_gptq", "bitwright"
GROUP = ("--group-size", "GROUP")
COMMANDS = {
    "our-w4a16-best": Command(OURS, ("--type", "W4A16", *GROUP, "--effort", "best")),
    "our-w4a16-balanced": Command(OURS, ("--type", "W4A16", *GROUP)),
    "our-w8a8": Command(OURS, ("--type", "W8A8")),
    "our-fp8": Command(OURS, ("--type", "FP8_DYNAMIC")),
    "gptq": Command(LLM_COMPRESSOR, ("--method", "gptq", *GROUP)),
    "gptq-mse": Command(LLM_COMPRESSOR, ("--method", "gptq", "--observer", "mse", *GROUP)),
    "gptq-imatrix": Command(LLM_COMPRESSOR, ("--method", "gptq", "--observer", "imatrix_mse", *GROUP)),
    "awq": Command(LLM_COMPRESSOR, ("--method", "awq", *GROUP)),
    "awq-gptq": Command(LLM_COMPRESSOR, ("--method", "awq-gptq", *GROUP)),
    "sq-gptq": Command(LLM_COMPRESSOR, ("--method", "smoothquant-gptq")),
    "fp8": Command(LLM_COMPRESSOR, ("--method", "fp8")),
    "autoround": Command(AUTO_ROUND, GROUP),
    "gptqmodel": Command(GPTQMODEL, GROUP),
}
W4A16_PEERS = ("gptq", "gptq-mse", "gptq-imatrix", "gptqmodel", "autoround", "awq", "awq-gptq")
CELLS = {
    "w4a16": (Line("our-w4a16-best", ("gptq",), 0.4), Line("our-w4a16-best", W4A16_PEERS, 0.65)),
    "w8a8": (Line("our-w8a8", ("sq-gptq",), 1.0),),
    "fp8": (Line("our-fp8", ("fp8",), 1.05, 1.05),),
}
ALSO = {"w4a16": ("our-w4a16-balanced",)}


def names_of(cells: list[str]) -> list[str]:
    """Every artifact that the cells ask for, once, ours first."""
    found: list[str] = []
    for cell in cells:
        lines = CELLS[cell]
        found += (
            [line.ours for line in lines] + list(ALSO.get(cell, ())) + [name for line in lines for name in line.peers]
        )
    return list(dict.fromkeys(found))
