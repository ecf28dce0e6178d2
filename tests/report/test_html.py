import re
import subprocess
from html.parser import HTMLParser

import msgspec
import pytest
import sample_records as sample

from bitwright.core.behaviour import EngineCheck, Suspect, TaskResult
from bitwright.core.records import Estimate, Gate, TensorRecord
from bitwright.report.html import render, visible
from bitwright.report.verdict_words import verdict_sentence

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{7*7}}"
VOID = {"meta", "link", "br", "img", "input", "hr"}
SVG_EMPTY = {"line", "circle", "rect", "polyline", "path"}


class Page(HTMLParser):
    """Checks that tags nest, and collects what the page refers to and says."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words += " " + " ".join(data.split())


def whole(verdict="PASS", **changes):
    return render(sample.plan(), sample.quant(), sample.validation(verdict, **changes), sample.speed())


@pytest.mark.parametrize("verdict", ["PASS", "FAIL", "INCONCLUSIVE"])
def test_the_verdict_comes_first_with_its_reason(verdict):
    page = Page(whole(verdict))
    beginning = page.words[:900]
    assert verdict in beginning
    assert "138.7 MiB" in beginning
    if verdict != "PASS":
        assert "python-source" in verdict_sentence(sample.validation(verdict))
        assert "limit is 0.1" in beginning


def test_the_page_stands_alone():
    html = whole()
    page = Page(html)
    assert "script" not in page.tags
    assert not any(name.startswith("on") for name, _ in page.attributes)
    references = [
        value for name, value in page.attributes if name in ("src", "href", "srcset", "data", "action", "xlink:href")
    ]
    assert references == ["data:,"]
    assert "default-src 'none'" in html
    assert not re.search(r"url\(|@import|https?://", html)
    assert len(html) < 500_000


def test_every_figure_that_matters_is_there():
    words = Page(whole()).words
    for expected in (
        "0.0452 (0.0407 to 0.0497)", "0.150 (0.070 to 0.230)", "23.51", "87.1 %", "2.54×", "31.8 % of 436.6 MiB",
        "damping raised to 0.1: the Gram matrix was singular (2 tensors)", "the machine has 2 cores",
        "Q4_K_M", "handbook 002, table 3", "there is no GPU on this machine", "gguf 0.19.0",
        "model.layers.0.mlp.down_proj",
        "bitwright validate out/wide-Q4_K_M.gguf", "bitwright serve {artifact}", "ab" * 32, "cd" * 32, "ef" * 32,
        "Kullback", "year↵of", "torch 2.13.0",
    ):  # fmt: skip
        assert expected in words, expected


def test_the_floors_stand_beside_the_figure():
    words = Page(whole()).words
    assert "the original in bfloat16, as engines serve it 0.00052" in words
    assert "90 to 99 % 10.1 %" in words
    assert "86.10 % (85.50 to 86.70 %)" in words
    assert "1.3" in words


def test_a_record_without_floors_and_bins_has_a_page():
    bare = msgspec.structs.replace(sample.text(), by_confidence=(), kl_quantiles=(), top5_agreement=None)
    words = Page(whole(floors=None, texts=(bare,), layers=())).words
    assert "How much is that?" not in words
    assert "Where the original was sure" not in words
    assert "Error after each block" not in words


@pytest.mark.parametrize(("verdict", "step"), [("FAIL", "keeps more bits"), ("INCONCLUSIVE", "about 40 more windows")])
def test_what_to_do_follows_the_verdict(verdict, step):
    record = sample.validation(verdict)
    gates = tuple(
        msgspec.structs.replace(gate, windows_more=40) if gate.verdict == "INCONCLUSIVE" else gate
        for gate in record.gates
    )
    assert step in Page(whole(verdict, gates=gates)).words[:1200]


def test_what_was_not_measured_is_said():
    words = Page(render(sample.plan(), None, sample.validation(), None)).words
    for gap in (
        "Other text judged on wikitext2-test and python-source alone",
        "windows hold 512 tokens",
        "no engine was",
    ):
        assert gap in words


def test_tasks_are_told_where_they_were_run():
    task = TaskResult(
        task="colours", metric="acc", filter="none", items=60, higher_is_better=True, reference=sample.around(0.7, 0.1),
        artifact=sample.around(0.65, 0.1), drop=Estimate(value=0.05, low=-0.01, high=0.11), lost=5, won=2,
        mcnemar_p=0.4531,
    )  # fmt: skip
    record = sample.validation(tasks=(task,))
    words = Page(render(sample.plan(), None, record, None)).words
    assert "colours acc" in words
    assert "0.050 (-0.010 to 0.110) 5 2 0.453" in " ".join(words.split())
    assert "no question was asked" not in words
    assert "no question was asked" in Page(whole()).words


def test_long_texts_are_told_where_they_were_written():
    both = (sample.long_output(), sample.long_output("temperature 0.8", 0.11))
    html = whole(long_output=both)
    words = Page(html).words
    assert "Greedy: 48 prompts, up to 512 tokens" in words
    assert "texts that end in a loop 2.0 % (1.0 to 3.0 %) 11.0 % (5.5 to 16.5 %) 2.0 % (-2.0 to 6.0 %) more" in words
    assert "tokens of a text 311 (292 to 330) 334 (314 to 354) 1.070 (1.027 to 1.113) times as long" in words
    assert "part after 61 (49 to 73) tokens on average" in words
    assert html.count('<svg class="chart') == 8
    assert "texts were written up to 512 tokens" in words
    assert "nothing was generated" not in words
    assert "nothing was generated" in Page(whole()).words


def test_the_engine_is_told_where_it_was_asked():
    check = EngineCheck(
        engine="llama.cpp", url="http://127.0.0.1:8080", model="wide", settings={"cache": "q8_0"}, prompts=16,
        positions=512, top=20, kl_engine=sample.around(0.3, 0.1), kl_decoded=sample.around(0.04, 0.1),
        kl_served=sample.around(0.33, 0.1), kl_first=sample.around(0.0002, 0.1),
        top1_agreement=sample.around(0.7, 0.02),
        allowed=0.02, kl_rounding=sample.around(0.004, 0.1),
        suspects=(Suspect(name="rope", finding="found", evidence="KL 0.0002 behind one token"),),
    )  # fmt: skip
    gate = Gate(measure="engine_kl", limit=0.02, estimate=check.kl_engine, verdict="FAIL", source="s", text="llama.cpp")
    words = Page(render(sample.plan(), None, sample.validation("FAIL", gates=(gate,), engine=check), None)).words
    assert "is not served as it was judged: KL of the engine from the file as decoded on llama.cpp is 0.300" in words
    assert "16 prompts" in words
    assert "with cache q8_0" in words
    assert "the engine from the file as decoded 0.300 (0.270 to 0.330)" in words
    assert "inputs of 8 bits, the floor 0.00400 (0.00360 to 0.00440)" in words
    assert "rope found KL 0.0002 behind one token" in words
    assert "Other ways to serve it" in words
    assert "In the engine that serves" not in Page(whole()).words


def test_an_artifact_of_another_tool_has_a_page():
    words = Page(render(None, None, sample.validation("FAIL"), None)).words
    assert "made from wide, 229 million parameters" in words
    assert "31.8 % of 436.6 MiB" in words
    assert "Serve it with" not in words
    assert "Decisions and their reasons" not in words


def test_seven_charts_are_drawn():
    html = whole()
    assert html.count('<svg class="chart') == 7
    assert html.count('<svg class="gauge') == 4


def test_hostile_names_and_tokens_stay_text():
    token = sample.validation().worst[0]
    evil_token = msgspec.structs.replace(
        token, context=HOSTILE, reference_token=HOSTILE, artifact_token=HOSTILE, next_token=HOSTILE, text=HOSTILE
    )
    text = msgspec.structs.replace(sample.text(), name=HOSTILE)
    gate = msgspec.structs.replace(sample.validation().gates[0], text=HOSTILE, source=HOSTILE)
    record = sample.validation(
        worst=(evil_token,), texts=(text, sample.text("b")), gates=(gate,), notes=(HOSTILE,), artifact=HOSTILE,
        command=HOSTILE, decoder=HOSTILE, reference=HOSTILE,
    )  # fmt: skip
    tensor = TensorRecord(
        name=f"model.layers.0.{HOSTILE}.weight", scheme=HOSTILE, method=HOSTILE, bytes=1, weight_error=0.1,
        output_error=0.2, notes=(HOSTILE,),
    )  # fmt: skip
    quant = msgspec.structs.replace(sample.quant(), tensors=(tensor,))
    points = tuple(msgspec.structs.replace(point, name=HOSTILE) for point in sample.speed().points)
    speed = msgspec.structs.replace(sample.speed(), points=points, engine=HOSTILE)
    html = render(sample.plan(type=HOSTILE, warnings=(HOSTILE,)), quant, record, speed, others=(record,))
    page = Page(html)
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert page.words.count("<script>alert(1)</script>") > 15
    assert "{{7*7}}" in page.words


def test_a_page_without_quant_and_speed_says_so():
    words = Page(render(sample.plan(), None, sample.validation(), None)).words
    assert "Speed was not measured" in words
    assert "without a record of how it was made" in words


def test_an_artifact_without_numbers_has_a_page():
    count = Estimate(value=12.0, low=12.0, high=12.0)
    gate = Gate(measure="finite_logits", limit=0.0, estimate=count, verdict="FAIL", source="s", text="prose")
    layer = msgspec.structs.replace(sample.validation().layers[3], activation_error=None, kl=None)
    record = sample.validation("FAIL", texts=(), gates=(gate,), layers=(layer,), worst=())
    words = Page(render(sample.plan(), sample.quant(), record, None)).words
    assert "is broken: 12 windows without numbers on prose, where none is allowed" in words


def test_other_artifacts_stand_beside_this_one():
    other = sample.validation(artifact="out/wide-Q8_0.gguf", artifact_bytes=240_000_000)
    assert "wide-Q8_0.gguf" in Page(render(sample.plan(), None, sample.validation(), None, others=(other,))).words


def test_invisible_tokens_are_shown():
    assert visible("\n") == "↵"
    assert visible("") == "∅"
    assert visible("  ") == "\u00a0\u00a0"
    assert visible("a b") == "a b"


def open_in_browser(folder, html):
    """Load the page in Chromium: its text, what it printed to the console, and which addresses it asked for.

    The browser's own calls (updates, clock) have no origin in its log; those of a page do.
    """
    page, net_log = folder / "report.html", folder / "net.json"
    page.write_text(html)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-component-update"]
    folders = [f"--user-data-dir={folder / 'profile'}", f"--log-net-log={net_log}"]
    done = subprocess.run(
        ["chromium", *flags, "--host-resolver-rules=MAP * ~NOTFOUND", *folders, "--enable-logging=stderr", "--dump-dom",
         page.as_uri()], capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    starts = [line for line in net_log.read_text().splitlines() if '"initiator":"null"' in line]
    return done.stdout, console, re.findall(r'"url":"(https?://[^"]*)"', "".join(starts))


@pytest.mark.slow
@pytest.mark.browser
def test_a_browser_opens_it_without_an_error_or_a_request(tmp_path):
    text, console, requests = open_in_browser(tmp_path, whole())
    assert "good enough for chat" in text
    assert console == []
    assert requests == []
    loud = "<img src='http://127.0.0.1:9/x.png'><script>console.error('loud')</script>"
    _, console, requests = open_in_browser(tmp_path, loud)
    assert len(console) >= 1
    assert requests == ["http://127.0.0.1:9/x.png"]
