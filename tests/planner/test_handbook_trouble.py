"""The handbooks' tables of trouble: every row is answered, and what is said to find it does."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import msgspec
import pytest
import typer

from bitwright.cli.app import app
from bitwright.core.documents import Record
from bitwright.core.findings import Diagnosis
from bitwright.core.plan import ArtifactFormat
from bitwright.facts.corrections import corrections
from bitwright.facts.doctor_rules import diagnosis, doctor_rules
from bitwright.facts.lint_rules import lint_rules
from bitwright.facts.thresholds import Thresholds
from bitwright.facts.troubleshooting import SymptomRow, symptom_rows, symptoms, unseen
from bitwright.planner.lint.run import lint

FILE = Path(__file__).parent / "handbook_trouble.toml"
GATES = {"settings", "weights", "vision", *Thresholds.__struct_fields__}
TABLES = {"guide §08": 5, "guide §11": 9, "article": 4, "framework": 7, "production guide": 5}  # rows that were read
SAID = re.compile(r"bitwright (\w+)([^:;)]*)")
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
LINE = re.compile(r"--line '(\w+[ -][^']+)'")


class Trouble(Record, frozen=True, kw_only=True):
    """One row; the head of the file says what each field means."""

    at: str
    says: str
    rows: tuple[str, ...]
    corrected: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.at


TROUBLES = msgspec.convert(tomllib.loads(FILE.read_text(encoding="utf-8"))["row"], tuple[Trouble, ...])
ROWS = {row.id: row for row in symptom_rows()}


def finding(rule: str, part: str = "decoder") -> Diagnosis:
    row = doctor_rules()[rule]
    places = re.findall(r"\{(\w+)\}", row.says + row.cause + row.fix)
    return diagnosis(rule, "somewhere", part=part, **dict.fromkeys(places, 1))


def told(row: SymptomRow, *findings: Diagnosis, **figures: float) -> bool:
    """Whether `doctor` tells the row of these."""
    return row.told() in symptoms(findings, figures)


@pytest.mark.parametrize("table", TABLES)
def test_no_row_of_a_table_is_left_out(table: str) -> None:
    assert sum(trouble.at.startswith(f"{table},") for trouble in TROUBLES) == TABLES[table]


@pytest.mark.parametrize("trouble", TROUBLES, ids=str)
def test_a_row_is_answered(trouble: Trouble) -> None:
    answers = [ROWS[name] for name in trouble.rows]
    assert answers
    given = {name for answer in answers for name in answer.corrections}
    assert {*trouble.corrected} <= given
    assert given <= set(corrections())


def test_nothing_is_corrected_that_no_handbook_says() -> None:
    asked = {name for trouble in TROUBLES for name in trouble.corrected}
    assert {name for row in ROWS.values() for name in row.corrections} <= asked


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_a_row_is_found(row: SymptomRow) -> None:
    """By `doctor` in fact, by others under names that they have; what `doctor` does not see says how it is seen."""
    for rule in row.rules:
        assert told(row, finding(rule))
    if row.vision:
        assert told(row, finding("zero-rows", "projector"))
        assert not told(row, finding("zero-rows"))
    if row.figure:
        limit = row.above or row.below
        assert limit
        assert told(row, **{row.figure: 2 * limit}) is (row.above is not None)
        assert told(row, **{row.figure: limit / 2}) is (row.below is not None)
    assert {*row.gates} <= GATES
    assert {*row.lint} <= {*lint_rules()}  # each is planted in tests/planner/lint
    assert row.shown or row.measure
    for command, words in SAID.findall(row.measure + row.fix):
        flags = {flag for option in COMMANDS[command].params for flag in option.opts}
        assert {*re.findall(r"--[\w-]+", re.sub("'[^']*'", "", words))} <= flags


@pytest.mark.parametrize("row", [row for row in ROWS.values() if LINE.search(row.measure)], ids=lambda row: row.id)
def test_the_line_to_lint_is_refused(row: SymptomRow) -> None:
    line = LINE.search(row.measure)
    assert line
    assert {found.rule for found in lint(line[1], "it", None).findings} & {*row.lint}


@pytest.mark.parametrize("images", [False, True])
@pytest.mark.parametrize("format", ["gguf", "compressed-tensors"])
def test_what_no_file_shows_is_told_to_those_whom_it_concerns(format: ArtifactFormat, images: bool) -> None:
    told = {symptom.because for symptom in unseen(format, images=images)}
    assert ROWS["prefix-misses"].because in told
    assert ROWS["images"].because not in told
    assert (ROWS["slow-gguf"].because in told) is (format == "gguf")
    assert (ROWS["hallucination"].because in told) is images
