from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pytest

from retrodistill.errors import InputError
from retrodistill.evaluation import figures
from retrodistill.evaluation.protocol import evaluate_run
from retrodistill.evaluation.report import build, html, markdown, write_report
from retrodistill.evaluation.significance import compare, holm

QUERIES = 40
SPEED = {"encode_documents_per_second": 1234.5, "parameters": 22_713_216, "index_bytes": 7_961_088}


def system(name, strength, seed=0, details=None, queries=QUERIES, **options):
    rng = np.random.default_rng(seed)
    qrels = {f"q{i}": {f"d{d}": int(d < 2) + 1 for d in range(3)} for i in range(queries)}
    run = {query: {f"d{d}": float(rng.normal() + strength * (d < 3)) for d in range(30)} for query in qrels}
    options = {"collection": "toy", "split": "test", "documents": 30, "depth": 100, **options}
    return evaluate_run(run, qrels, system=name, details=details, **options)[0]


@pytest.fixture(scope="module")
def three():
    return [
        system("bm25", 1.0, seed=1, details=SPEED),
        system("before", 1.1, seed=2, details={"encode_documents_per_second": 210.0, "parameters": None}),
        system("after", 2.5, seed=3, details={"encode_documents_per_second": 230, "encode_queries_per_second": 3.14}),
    ]


def cells(text):
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|") and "---" not in line]
    return [[cell.strip() for cell in row] for row in rows]


def test_one_system_is_a_table_of_results(three):
    text = markdown(three[:1])
    assert cells(text)[0] == ["System", "nDCG@10", "AP@100", "R@100", "RR@10"]
    low, high = three[0].intervals["nDCG@10"]
    assert cells(text)[1][:2] == ["bm25", f"{three[0].metrics['nDCG@10']:.4f} [{low:.4f}, {high:.4f}]"]
    assert "Against" not in text
    assert "40 queries with 120 judgements over 30 documents." in text


def test_two_systems_are_compared_without_correction(three):
    baseline, other = three[0], three[2]
    text = markdown([baseline, other])
    assert "## Against bm25" in text
    assert "uncorrected" in text
    assert "Holm" not in text
    found = compare("AP@100", baseline.per_query["AP@100"], other.per_query["AP@100"])
    (row,) = [row for row in cells(text) if row[0] == "after, AP@100"]
    assert row == [
        "after, AP@100",
        f"{found.before:.4f} → {found.after:.4f}",
        f"{found.difference:+.4f} [{found.low:+.4f}, {found.high:+.4f}]",
        "< 0.0001",
        f"{found.wins} / {found.ties} / {found.losses}",
    ]
    assert found.p < 0.0001


def test_three_systems_are_corrected_metric_by_metric(three):
    systems = [three[0], system("x", 1.3, seed=5), system("y", 1.4, seed=6)]
    comparisons = build(systems).tables[1]
    assert "Holm-corrected for 2 comparisons" in comparisons.note
    assert len(comparisons.rows) == 2 * 4
    shown = {row[0]: row[3] for row in comparisons.rows}
    for metric in systems[0].metrics:
        raw = [compare(metric, systems[0].per_query[metric], s.per_query[metric]).p for s in systems[1:]]
        assert [shown[f"x, {metric}"], shown[f"y, {metric}"]] == [f"{p:.4f}" for p in holm(raw)]
        assert min(raw) > 0.0001  # or the correction would not be seen


def test_a_system_against_itself_has_no_difference(three):
    text = markdown([three[0], three[0]])
    (row,) = [row for row in cells(text) if row[0] == "bm25 (2), nDCG@10"]
    assert row[2:] == ["+0.0000 [+0.0000, +0.0000]", "1.0000", "0 / 40 / 0"]


def test_speed_and_size_show_what_is_known(three):
    table = build(three).tables[2]
    assert table.header == ["System", "Documents/s", "Queries/s", "Parameters", "Index"]
    assert table.rows == [
        ["bm25", "1,234", "-", "22.7 M", "7.59 MiB"],
        ["before", "210", "-", "-", "-"],
        ["after", "230", "3.1", "-", "-"],
    ]
    assert len(build([system("plain", 1.0)]).tables) == 1


def test_the_protocol_and_what_was_left_out_are_said(three):
    other = system("other", 1.0, metrics=["nDCG@10", "P@5", "NumRet"], depth=10)
    notes = "\n".join(build([three[0], replace(other, counts={**other.counts, "queries_without_results": 2})]).notes)
    assert "own id: dropped before the cut, as BEIR" in notes
    assert "the best 10 or 100" in notes
    assert "The depths differ" in notes
    assert "other: 2 judged queries without results." in notes
    assert "bm25: AP@100, R@100, RR@10 left out" in notes
    assert "other: P@5, NumRet left out" in notes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"collection": "other"}, "bm25 was measured on toy, test, .*, but x on other, test"),
        ({"split": "dev"}, "same collection, split and judgements"),
        ({"documents": 31}, "31 documents"),
        ({"queries": 39}, "39 queries"),
        ({"metrics": ["P@5"]}, "no metric in common"),
    ],
)
def test_systems_on_other_ground_are_refused(three, options, message):
    for form in (markdown, html):
        with pytest.raises(InputError, match=message):
            form([three[0], system("x", 1.0, **options)])


def test_other_queries_of_the_same_number_are_refused(three):
    other = system("x", 1.0)
    renamed = {m: {q.replace("q3", "r3"): v for q, v in by.items()} for m, by in other.per_query.items()}
    with pytest.raises(InputError, match="bm25 and x were measured on different queries: 11 of bm25 only"):
        markdown([three[0], replace(other, per_query=renamed)])


def test_no_system_is_no_report():
    with pytest.raises(InputError, match="at least one evaluated system"):
        markdown([])


def parsed(page):
    """The page as XML: what is not escaped or closed does not parse."""
    return ElementTree.fromstring(re.sub(r"<meta [^>]*>", "", page.removeprefix("<!doctype html>")))


def test_the_page_says_what_the_markdown_says(three):
    said = " ".join(parsed(html(three)).itertext())
    for table in build(three).tables:
        for text in [table.heading, table.note, *table.header, *(cell for row in table.rows for cell in row)]:
            assert text in said
    for note in build(three).notes:
        assert note in said


def test_the_page_has_a_figure_a_metric_and_one_for_speed(three):
    figures_ = parsed(html(three)).findall(".//figure")
    titles = [figure.findtext("figcaption") for figure in figures_]
    assert titles == ["nDCG@10", "AP@100", "R@100", "RR@10", "Quality and speed"]
    assert [len(figure.findall(".//circle")) for figure in figures_] == [3] * 5
    slow = html([system("plain", 1.0)])
    assert "per second" not in slow
    assert len(parsed(slow).findall(".//figure")) == 4


def test_the_page_loads_and_runs_nothing(three):
    page = html(three)
    assert not re.search(r"<(script|link|img|iframe|object)|https?:|url\(|@import", page)
    assert "prefers-color-scheme: dark" in page


NASTY = "</td><script>alert('x')</script>&\"|`{x}"


def test_names_from_outside_stay_text(three):
    nasty = replace(three[1], system=NASTY)
    page = html([three[0], nasty])
    assert "<script" not in page
    parsed(page)
    text = markdown([three[0], nasty])
    assert "<script" not in text
    assert "\\|" in text
    assert len({len(row) for row in cells(text.replace("\\|", "/"))[:3]}) == 1


def test_write_report_goes_by_the_suffix(tmp_path, three):
    write_report(tmp_path / "out" / "report.md", three)
    write_report(tmp_path / "report.HTML", three)
    assert (tmp_path / "out" / "report.md").read_text(encoding="utf-8") == markdown(three)
    assert (tmp_path / "report.HTML").read_text(encoding="utf-8") == html(three)
    for name in ("report.pdf", "report"):
        with pytest.raises(InputError, match=r"written as \.md or \.html"):
            write_report(tmp_path / name, three)


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 0.0), (1.0, 1.0), (0.61, 0.69), (0.0, 1.0), (0.6451, 0.6452), (3.0, 1000.0)]
)
def test_axes_enclose_what_they_show_with_a_handful_of_round_ticks(low, high):
    step, first, last = figures._ticks(low, high)
    ticks = figures._steps(step, first, last)
    assert first <= low + 1e-9
    assert last >= high - 1e-9
    assert 2 <= len(ticks) <= 7
    assert len({figures._plain(tick, step) for tick in ticks}) == len(ticks)


def test_dots_stand_where_the_values_are():
    drawn = ElementTree.fromstring(
        figures.dot_plot("m", [figures.Dot("a", 0.2, 0.1, 0.3), figures.Dot("b", 0.4, 0.4, 0.5)], "b")
    )
    a, b = (float(circle.get("cx")) for circle in drawn.findall(".//circle"))
    intervals = [line for line in drawn.findall(".//line") if "mark" in line.get("class")]
    ends = [(float(line.get("x1")), float(line.get("x2"))) for line in intervals]
    assert ends[0][0] < a < ends[0][1] < b == ends[1][0] < ends[1][1]
    assert a - ends[0][0] == pytest.approx(ends[0][1] - a, abs=0.11)


def test_names_of_neighbours_in_the_scatter_do_not_cover_each_other():
    points = [figures.Point(f"s{i}", 100.0, 0.5 + i * 1e-4) for i in range(4)] + [figures.Point("far", 9000.0, 0.9)]
    drawn = ElementTree.fromstring(figures.scatter("title", points, "speed", "quality", "far"))
    heights = sorted(float(t.get("y")) for t in drawn.findall(".//text") if re.fullmatch(r"s\d", t.text))
    assert len(heights) == 4
    assert min(np.diff(heights)) >= 12
    (muted,) = [circle for circle in drawn.findall(".//circle") if circle.get("class") == "base"]
    assert float(muted.get("cx")) > float(drawn.findall(".//circle")[-1].get("cx"))
