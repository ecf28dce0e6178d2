"""Pages in a browser, wide and narrow: nothing sticks out, no name leaves its chart, the verdict is seen at once."""

from __future__ import annotations

import html
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sample_records as sample
from test_compare_page import comparison

from bitwright import api
from bitwright.api.decision import explain
from bitwright.core.findings import Diagnosis
from bitwright.planner.wish import Wish
from bitwright.report.compare_page import render_comparison
from bitwright.report.html import render
from bitwright.report.plan_page import render_plan

WIDTHS = (1280, 800, 400)
FOLD = 800  # pixels that a telephone shows
LOOK = """
const found = [];
for (const frame of document.querySelectorAll("iframe")) {
  const page = frame.contentDocument, width = frame.clientWidth, out = [];
  const say = (what, one) => out.push(`${what}: ${one.tagName} ${(one.textContent || "").trim().slice(0, 60)}`);
  if (page.documentElement.scrollWidth > width) say("page is wider than its window", page.body);
  for (const one of page.querySelectorAll("main *:not(svg *)")) {
    const box = one.getBoundingClientRect();
    if (!one.closest(".scroll") && box.width && box.right > width + 1) say("sticks out", one);
  }
  if (width >= 1280)
    for (const one of page.querySelectorAll("section:not(.long) .scroll"))
      if (one.scrollWidth > one.clientWidth + 1) say("must be scrolled", one);
  for (const one of page.querySelectorAll(".card b, .verdict *"))
    if (one.scrollWidth > one.clientWidth + 1 && one.clientWidth) say("is cut", one);
  for (const one of page.querySelectorAll("svg.chart text, svg.gauge text, svg.strip text")) {
    const box = one.getBoundingClientRect(), sheet = one.closest("svg").getBoundingClientRect();
    if (box.left < sheet.left - 2 || box.right > sheet.right + 2) say("leaves its chart", one);
  }
  const first = page.querySelector(".verdict strong, .answer p");
  found.push({page: frame.title, width: width, first: first.getBoundingClientRect().bottom, wrong: out});
}
document.body.innerHTML = "<pre>" + JSON.stringify(found).replaceAll("&", "&amp;").replaceAll("<", "&lt;") + "</pre>";
"""


def pages() -> dict[str, str]:
    """Every kind of page, each verdict."""
    finding = Diagnosis(
        rule="rope", severity="error", where="rope_parameters.rope_theta", says="`rope_theta` is 1e6, not 1e5",
        fix="write 100000.0 there", source="s", cause="a default that a converter filled in", evidence={},
    )  # fmt: skip
    records = {verdict: sample.validation(verdict) for verdict in ("PASS", "FAIL", "INCONCLUSIVE")}
    records["FAIL"] = msgspec.structs.replace(records["FAIL"], findings=(finding,), long_output=(sample.long_output(),))
    found = {verdict: render(sample.plan(), sample.quant(), one, sample.speed()) for verdict, one in records.items()}
    plan = api.plan("llama-3.1-8b", target="rtx4090:2", wish=Wish(engine=("vllm", "sglang"), user_speed=45.0))
    return {**found, "compare": render_comparison(comparison()), "plan": render_plan(plan, explain(plan))}


def look(folder: Path, held: dict[str, str]) -> list[dict[str, Any]]:
    """What a script finds in each page at each width; one browser for all."""
    frames = "".join(
        f'<iframe title="{name}" style="border:0;width:{width}px;height:900px" srcdoc="{html.escape(page)}"></iframe>'
        for name, page in held.items()
        for width in WIDTHS
    )
    outer = folder / "outer.html"
    outer.write_text(f"<body>{frames}<script>window.onload = () => {{{LOOK}}}</script></body>")
    done = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
         f"--user-data-dir={folder / 'profile'}", "--dump-dom", outer.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    told = re.search(r"<pre>(.*)</pre>", done.stdout, re.DOTALL)
    assert told, done.stderr[-2000:]
    answer: list[dict[str, Any]] = json.loads(html.unescape(told[1]))
    return answer


@pytest.mark.slow
@pytest.mark.browser
def test_nothing_sticks_out_at_any_width(tmp_path: Path) -> None:
    held = pages()
    wide = "<main><p class='verdict'><strong>FAIL</strong></p><p style='width:2000px'>too wide</p></main>"
    found = look(tmp_path, {**held, "too wide": wide})
    assert {(one["page"], one["width"]) for one in found} >= {(name, width) for name in held for width in WIDTHS}
    for one in found:
        assert bool(one["wrong"]) == (one["page"] == "too wide"), one
        assert one["first"] < FOLD, one
