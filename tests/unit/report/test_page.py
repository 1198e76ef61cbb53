"""The page: nothing is loaded, nothing of a record is markup, nothing is too much."""

from __future__ import annotations

import re
from collections import Counter
from xml.etree import ElementTree

import pytest

from coldfusion_queue.records import Policy, Rule
from coldfusion_queue.report.charts import Line, Point, line_chart, ticks
from coldfusion_queue.report.gather import gather
from coldfusion_queue.report.lineage import MAX_VERSIONS, lineage_graph
from coldfusion_queue.report.markup import Markup, clean, element, join
from coldfusion_queue.report.page import page
from coldfusion_queue.report.tables import MAX_REFUSALS, duration
from tests.unit.report.history import History, gate_report
from tests.unit.report.pages import Parsed, drawings

FIRST, SECOND = "a" * 32, "b" * 32
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'/><svg onload=alert(1)>",
    "</title><style>*{display:none}</style>",
    "</svg></style><iframe src=http://evil.example>",
    "&lt;script&gt;",
    "\x00\x1b[31m\ud800\u202egnp.exe",
    "https://evil.example/x.js",
]


def everything(hostile: str = "plain") -> History:
    """A history in which everything happens, with a text wherever a stranger can put one."""
    history = History("repo", Policy(gate_datasets=(FIRST,)))
    names = [f"{hostile}{number}" for number in range(3)]
    for dataset in (FIRST, hostile):
        history.evaluate(history.base, dataset, 0.5)
    for number in range(6):
        batch = [history.contribution(name, dataset=hostile) for name in names]
        refused = history.contribution(hostile, dataset=hostile)
        broken = history.contribution(hostile, is_readable=False)
        history.withhold(batch, gate_report(0.4, 0.5, FIRST))
        base = history.fuse(
            batch,
            {
                refused.contribution_id: (Rule.COSINE, hostile),
                broken.contribution_id: (Rule.RECORD, hostile),
            },
            gate=gate_report(0.5 + number / 100, 0.5, FIRST),
        )
        if number != 2:  # a gap
            history.evaluate(base, FIRST, 0.5 + number / 50)
            history.evaluate(base, FIRST, 0.6, kind="few_shot", num_shots=7, seed=number)
        history.evaluate(base, hostile, None, kind="finetuned")
    history.restore(2)
    return history


@pytest.fixture(scope="module")
def plain_page() -> str:
    return page(gather(everything().repository))


def test_the_page_closes_every_element_in_order(plain_page: str) -> None:
    parsed = Parsed(plain_page)

    assert parsed.tags.count("svg") > 8
    assert "Base version 7" in parsed.text
    assert plain_page.startswith("<!doctype html>")


def test_every_drawing_is_well_formed_xml(plain_page: str) -> None:
    found = [ElementTree.fromstring(text) for text in drawings(plain_page)]  # noqa: S314

    assert len(found) > 8
    for drawing in found:
        _, _, width, height = map(float, drawing.attrib["viewBox"].split())
        assert drawing.attrib["aria-label"]
        for circle in drawing.iter("circle"):
            assert 0 <= float(circle.attrib["cx"]) <= width
            assert 0 <= float(circle.attrib["cy"]) <= height


def test_the_page_loads_nothing(plain_page: str) -> None:
    parsed = Parsed(plain_page)

    assert not {"script", "link", "img", "iframe", "object", "embed", "base"} & {*parsed.tags}
    assert {name for _, name, _ in parsed.attributes} & {"src", "srcset", "xlink:href"} == set()
    links = [value for _, name, value in parsed.attributes if name == "href"]
    assert links
    assert all(link.startswith("#") for link in links)
    assert not re.search(r"https?:|@import|url\(|//[a-z]", plain_page)


def test_the_page_forbids_the_browser_to_load_or_run_anything(plain_page: str) -> None:
    (policy,) = [
        value
        for tag, name, value in Parsed(plain_page).attributes
        if tag == "meta" and name == "content" and "default-src" in value
    ]

    assert "default-src 'none'" in policy
    assert "script-src" not in policy


@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_text_of_a_record_becomes_markup(hostile: str, plain_page: str) -> None:
    # A surrogate cannot be in a record, whose bytes are UTF-8.
    written = page(gather(everything(hostile.replace("\ud800", "")).repository))

    found, plain = Parsed(written), Parsed(plain_page)
    assert {*found.tags} == {*plain.tags}
    assert {(tag, name) for tag, name, _ in found.attributes} == {
        (tag, name) for tag, name, _ in plain.attributes
    }
    assert clean(hostile).strip() in found.text
    for drawing in drawings(written):
        ElementTree.fromstring(drawing)  # noqa: S314
    assert not re.search(r"[\x00-\x08\x0b-\x1f\u202e]", written)


def test_only_what_an_element_made_is_markup() -> None:
    inner = element("b", "1 < 2")

    assert element("p", inner, "<i>", class_='"') == (
        '<p class="&quot;"><b>1 &lt; 2</b>&lt;i&gt;</p>'
    )
    assert join("&", Markup("<hr>"), None, 3) == "&amp;<hr>3"


def test_long_texts_are_cut_off() -> None:
    assert clean("x" * 10_000_000, 20) == "x" * 19 + "…"


def test_a_version_without_evaluations_is_a_gap(plain_page: str) -> None:
    (panel,) = [text for text in drawings(plain_page) if 'aria-label="aaaaaa, accuracy' in text]
    drawing = ElementTree.fromstring(panel)  # noqa: S314

    frozen = [group for group in drawing.iter("g") if group.get("class") == "c0"]
    lines = [line.attrib["class"] for line in frozen[0].iter("polyline")]
    # Versions 0 to 2, none for 3, then 4 to 6; 7 restores 2.
    assert sorted(lines) == ["line", "line", "line gap"]
    titles = [title.text or "" for title in frozen[0].iter("title")]
    assert [re.match(r"version (\d+)", title)[1] for title in titles] == list("0124567")
    restored, original = titles[-1], titles[2]
    assert restored.partition(",")[2] == original.partition(",")[2]


def graph(history: History) -> ElementTree.Element:
    return ElementTree.fromstring(lineage_graph(gather(history.repository)))  # noqa: S314


def titles(drawing: ElementTree.Element) -> list[str]:
    return [title.text or "" for title in drawing.iter("title")]


def test_the_graph_shows_versions_contributions_attempts_and_rollbacks() -> None:
    drawing = graph(everything())

    nodes = [node for node in drawing.iter("circle") if "node" in node.attrib["class"]]
    assert [node.attrib["class"].split()[1] for node in nodes] == [
        "pretrained",
        *["fused"] * 6,
        "restored",
    ]
    parts = [node for node in drawing.iter("circle") if "part" in node.attrib["class"]]
    assert len(parts) == 18
    crosses = [path for path in drawing.iter("path") if path.get("class") == "cross"]
    assert len(crosses) == 6
    (arc,) = [path for path in drawing.iter("path") if path.get("class") == "arc"]
    places = [float(node.attrib["cx"]) for node in nodes]
    start, end = re.match(r"M([\d.]+) .* ([\d.]+) [\d.]+$", arc.attrib["d"]).groups()
    assert (float(start), float(end)) == pytest.approx((places[7], places[2]), abs=0.1)


def test_a_contribution_is_coloured_by_its_staleness() -> None:
    history = History()
    for _ in range(6):
        history.fuse([history.contribution("x")])
    history.fuse([history.contribution("y", staleness=number) for number in range(7)])

    parts = [node for node in graph(history).iter("circle") if "part" in node.attrib["class"]]

    assert [node.attrib["class"] for node in parts[6:]] == [
        "a0 part",
        "a1 part",
        "a2 part",
        "a3 part",
        "a3 part",
        "a4 part",
        "a4 part",
    ]


def test_many_contributions_are_bars_whose_length_is_their_number() -> None:
    history = History()
    for number in (64, 32, 16):
        history.fuse([history.contribution(f"c{each}") for each in range(number)])

    drawing = graph(history)

    assert [node for node in drawing.iter("circle") if "part" in node.attrib["class"]] == []
    heights = [float(box.attrib["height"]) for box in drawing.iter("rect")]
    assert heights == pytest.approx([heights[0], heights[0] / 2, heights[0] / 4], abs=0.02)
    assert any("64 contributions: 64 of staleness 0" in title for title in titles(drawing))
    assert any("c19 and 52 more" in title for title in titles(drawing))


def test_a_rollback_across_rows_is_a_word_and_no_line() -> None:
    history = History()
    for _ in range(30):
        history.fuse([history.contribution("x")])
    history.restore(3)

    drawing = graph(history)

    assert [path for path in drawing.iter("path") if path.get("class") == "arc"] == []
    assert [text.text for text in drawing.iter("text") if text.get("class") == "back"] == ["↶ 3"]


def test_rows_of_the_graph_are_about_equally_long() -> None:
    history = History()
    for _ in range(24):
        history.fuse([history.contribution("x")])

    nodes = [node for node in graph(history).iter("circle") if "node" in node.attrib["class"]]

    assert sorted(Counter(node.attrib["cy"] for node in nodes).values()) == [12, 13]


def test_two_hundred_versions_of_64_contributions_stay_small() -> None:
    history = History()
    for _ in range(200):
        history.fuse([history.contribution(f"c{each}") for each in range(64)])
    report = gather(history.repository)

    drawing = lineage_graph(report)

    width, height = map(float, re.match(r'<svg viewBox="0 0 ([\d.]+) ([\d.]+)"', drawing).groups())
    assert len(drawing) < 300_000
    assert height < 2 * width


def test_of_a_longer_history_the_newest_versions_are_drawn() -> None:
    history = History()
    for _ in range(MAX_VERSIONS + 9):
        history.fuse([history.contribution("x")])

    drawing = graph(history)
    text = Parsed(page(gather(history.repository))).text

    numbers = [node.text for node in drawing.iter("text") if node.get("class") == "number"]
    assert numbers[0] == "10"
    assert numbers[-1] == str(MAX_VERSIONS + 9)
    assert "The first 10 versions are left out" in text


def test_refusals_are_listed_newest_first_and_the_oldest_left_out() -> None:
    history = History()
    for number in range(MAX_REFUSALS + 7):
        item = history.contribution("x")
        history.refuse({item.contribution_id: (Rule.COSINE, f"reason-{number}.")})

    text = Parsed(page(gather(history.repository))).text

    listed = [int(number) for number in re.findall(r"reason-(\d+)\.", text)]
    assert listed == list(range(MAX_REFUSALS + 6, 6, -1))
    assert "7 refusals, the oldest, are left out" in text
    assert f"cosine {MAX_REFUSALS + 7}" in text


def test_a_repository_that_was_just_made_has_a_page() -> None:
    text = Parsed(page(gather(History().repository))).text

    for sentence in ("No contribution was decided yet", "Nothing was refused", "No gate is set"):
        assert sentence in text


@pytest.mark.parametrize("score", [float("nan"), float("inf"), 1e300])
def test_numbers_that_no_axis_can_hold_break_nothing(score: float) -> None:
    history = everything()
    history.evaluate(history.base, SECOND, score, interval=(float("nan"), float("inf")))
    bad = gate_report(score, 0.5, FIRST)
    history.fuse([history.contribution("x")], gate=bad)

    Parsed(page(gather(history.repository)))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 10, [0, 2, 4, 6, 8, 10]), (48.2, 71, [50, 60, 70]), (0, 0.9, [0, 0.2, 0.4, 0.6, 0.8])],
)
def test_axes_have_round_numbers(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high, 5 if high != 71 else 4) == pytest.approx(expected)


def test_a_chart_of_one_point_is_a_chart() -> None:
    drawing = line_chart([Line("c0", (Point(0, 50, 50, 50, "alone"),))], 0, "one")

    assert "alone" in titles(ElementTree.fromstring(drawing))  # noqa: S314


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0.0 s"), (119, "119.0 s"), (120, "2.0 min"), (7200, "2.0 h"), (864_000, "10.0 d")],
)
def test_durations_have_the_unit_that_suits_them(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected
