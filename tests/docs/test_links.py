"""Pages for people: links lead somewhere, and every file that is named is there.

Names of files stand in backticks. A name with a folder is looked for under the root, `docs`, `src`, the package and the
page's own folder; a bare name anywhere in the tree. Files of other projects are named without backticks.
"""

from __future__ import annotations

import functools
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOTS = (ROOT, ROOT / "docs", ROOT / "src", ROOT / "src" / "bitwright")
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("bench/*.md"), *ROOT.glob("docs/**/*.md")])
TITLES = [str(page.relative_to(ROOT)) for page in PAGES]
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
FILE = re.compile(r"([\w./-]*/)?[\w-]+\.py|(docs|bench|src|tests|scripts)/[\w./-]+\.(md|json|toml|txt)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@functools.cache
def all_files() -> frozenset[str]:
    """Paths under the root that are, or could be, in the repository."""
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):  # an unpacked source archive
        folders = ("src", "tests", "scripts", "bench", "docs")
        listed = [str(path.relative_to(ROOT)) for name in folders for path in (ROOT / name).rglob("*")]
    return frozenset(path for path in listed if (ROOT / path).exists())


def anchors(page: Path) -> set[str]:
    """What headings are called in links, by GitHub's rule."""
    headings = HEADING.findall(FENCE.sub("", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def is_there(name: str, page: Path) -> bool:
    if "/" in name:
        return any((root / name).is_file() for root in (*ROOTS, page.parent))
    return any(path.rpartition("/")[2] == name for path in all_files())


def broken_links(text: str, page: Path) -> list[str]:
    """Relative links of a page that lead nowhere."""
    found = []
    for target in LINK.findall(FENCE.sub("", text)):
        place, _, anchor = target.partition("#")
        if "://" in target:
            continue
        path = page.parent / place if place else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            found.append(target)
    return found


def missing_files(text: str, page: Path) -> list[str]:
    """Files that a page names and that are not there."""
    named = {word for code in CODE.findall(FENCE.sub("", text)) for word in code.rstrip(":").split()}
    named = {word.rstrip(":,") for word in named}
    return sorted(name for name in named if FILE.fullmatch(name) and not is_there(name, page))


@pytest.mark.parametrize("page", PAGES, ids=TITLES)
def test_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page.read_text(), page) == []


@pytest.mark.parametrize("page", PAGES, ids=TITLES)
def test_files_that_are_named_are_there(page: Path) -> None:
    assert missing_files(page.read_text(), page) == []


def test_the_index_lists_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    listed = {(index.parent / target.partition("#")[0]).resolve() for target in LINK.findall(index.read_text())}
    pages = {page.resolve() for page in PAGES if page.is_relative_to(ROOT / "docs")} - {index.resolve()}
    assert pages - listed == set()


def test_a_broken_page_is_seen() -> None:
    page = ROOT / "docs" / "architecture.md"
    text = (
        "[a](gone.md) [b](glossary.md#gone) [c](glossary.md) `planner/gone.py` `quantize/gptq.py: factorize` `gone.py`"
    )
    assert broken_links(text, page) == ["gone.md", "glossary.md#gone"]
    assert missing_files(text, page) == ["gone.py", "planner/gone.py"]
