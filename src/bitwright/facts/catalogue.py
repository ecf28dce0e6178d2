"""Well-known models by their dimensions: rows of catalogue.toml, made into the facts that a checkpoint would give.

A row holds keys of the model's config.json. They go through the same code as a checkpoint's (model.py), and the tensors
are those that the dimensions imply, so that everything in the planner works as on a folder. There is no weight behind
them: `ModelFacts.catalogue` names the checkpoint that has them.

All experts of one kind in a block are one tensor (stacks.py).

Not here: MODEL as people write it (api/models.py).
Sources: config.json and the parameter counts of the models on the Hugging Face hub, by `hub` of each row.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import msgspec

from bitwright.core.documents import Record
from bitwright.core.plan import ModelFacts, TensorFacts, VisionFacts
from bitwright.facts.checkpoint import DTYPE_BYTES
from bitwright.facts.families import FAMILIES, expert_of, family_of
from bitwright.facts.latent_attention import LATENT_ATTENTION, latent_facts, latent_shapes
from bitwright.facts.model import bare_facts, expected_shapes
from bitwright.facts.rows import read_rows

FILE = "catalogue.toml"


class CatalogueRow(Record, frozen=True, kw_only=True):
    """One row; the head of the file says what each field means."""

    id: str
    aliases: tuple[str, ...] = ()
    hub: str
    parameters: int
    dtype: str
    architecture: str
    vision: str = ""
    tower: int = 0
    projector: int = 0
    config: dict[str, Any]
    note: str = ""
    date: str


@functools.cache
def catalogue() -> dict[str, CatalogueRow]:
    """The table, by id."""
    return {row.id: row for row in read_rows(FILE, "model", CatalogueRow)}


def row_of_model(name: str) -> CatalogueRow | None:
    """The row of an id or alias, in any case; `None` for a name that the catalogue does not hold."""
    wanted = name.casefold()
    rows = catalogue()
    return rows.get(wanted) or next((row for row in rows.values() if wanted in row.aliases), None)


def catalogue_facts(row: CatalogueRow) -> ModelFacts:
    """The facts of a row, tensors and all; `path` is its id."""
    where = Path(row.id)
    if row.architecture == LATENT_ATTENTION:
        bare = latent_facts(row.config, where)
        shapes = latent_shapes(bare, row.config)
    else:
        bare = bare_facts(row.config, family_of(row.architecture), where)
        shapes = _stacked_shapes(bare)
    tensors = tuple(_tensor(name, shape, row.dtype) for name, shape in shapes.items())
    vision = None
    if row.vision:  # counts, as one tensor each: what stands inside is nobody's business here
        tower, projector = (_tensor(name, (count,), row.dtype) for name, count in _beside(row))
        vision = VisionFacts(tower=(tower,), projector=(projector,))
    facts = msgspec.structs.replace(
        bare,
        path=row.id,
        architecture=row.vision or row.architecture,
        dtype=row.dtype,
        tensors=tensors,
        fingerprint=f"catalogue:{row.id}",
        vision=vision,
        catalogue=row.hub,
    )
    return msgspec.structs.replace(
        facts,
        parameters=sum(math.prod(tensor.shape) for tensor in facts.all_tensors),
        bytes=sum(tensor.bytes for tensor in facts.all_tensors),
    )


def _stacked_shapes(bare: ModelFacts) -> dict[str, tuple[int, ...]]:
    """Every tensor with its shape, all experts of a kind as one."""
    names, experts = FAMILIES[bare.family].experts, bare.experts
    if names is None or experts is None:
        return expected_shapes(bare)
    single = msgspec.structs.replace(bare, experts=msgspec.structs.replace(experts, count=1))
    shapes = expected_shapes(single)
    for name, shape in shapes.items():
        if expert_of(name) is not None:
            shapes[name] = (experts.count, *shape)
        elif name.endswith(f".{names.router}.weight"):
            shapes[name] = (experts.count, shape[1])
    return shapes


def _beside(row: CatalogueRow) -> tuple[tuple[str, int], tuple[str, int]]:
    return ("vision_tower", row.tower), ("projector", row.projector)


def _tensor(name: str, shape: tuple[int, ...], dtype: str) -> TensorFacts:
    return TensorFacts(name=name, shape=shape, dtype=dtype, file="", bytes=math.prod(shape) * DTYPE_BYTES[dtype])
