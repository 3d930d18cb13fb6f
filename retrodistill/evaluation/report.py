"""Sets evaluated systems side by side, as Markdown or as one HTML page that needs nothing else.

Both come from one `Report`: tables of plain text and notes. The page adds figures.
"""

from __future__ import annotations

import html as markup
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from retrodistill.console import markdown_table
from retrodistill.errors import InputError
from retrodistill.evaluation import figures
from retrodistill.evaluation.protocol import Evaluation
from retrodistill.evaluation.significance import Comparison, compare, holm
from retrodistill.files import write_text

NOTHING = "-"
_QUALITY = "nDCG@10"
_DOCUMENT_SPEED = "encode_documents_per_second"


@dataclass(frozen=True)
class Table:
    """A heading, cells as text, and one note below."""

    heading: str
    header: list[str]
    rows: list[list[str]]
    note: str


@dataclass(frozen=True)
class Report:
    """What a report says, in whatever form it is shown.

    Attributes:
        title: collection and split.
        summary: how much was measured, in one sentence.
        systems: the evaluations, by names that differ.
        metrics: the metrics that all of them have.
        tables: results; then comparisons and speed, where there are any.
        notes: how the numbers were made.
    """

    title: str
    summary: str
    systems: list[Evaluation]
    metrics: list[str]
    tables: list[Table]
    notes: list[str]


def build(evaluations: Sequence[Evaluation]) -> Report:
    """Gather what every form of the report shows; the first system is the baseline.

    Raises:
        InputError: there is no system, or the systems were not measured on the same thing.
    """
    if not evaluations:
        raise InputError("a report needs at least one evaluated system; `retrodistill evaluate` makes one")
    _refuse_other_ground(evaluations)
    systems = _named_apart(evaluations)
    baseline = systems[0]
    metrics = [metric for metric in baseline.metrics if all(metric in system.metrics for system in systems)]
    if not metrics:
        raise InputError("the systems have no metric in common; evaluate them with the same metrics")
    tables = [_results(systems, metrics), _comparisons(systems, metrics), _speed(systems)]
    counts = baseline.counts
    return Report(
        title=f"{baseline.collection} ({baseline.split})",
        summary=f"{counts['queries']:,} queries with {counts['judgements']:,} judgements over "
        f"{counts['documents']:,} documents.",
        systems=systems,
        metrics=metrics,
        tables=[table for table in tables if table is not None],
        notes=_notes(systems, metrics),
    )


def _refuse_other_ground(evaluations: Sequence[Evaluation]) -> None:
    def ground(evaluation: Evaluation) -> tuple[str, ...]:
        sizes = (f"{evaluation.counts.get(name, 0):,} {name}" for name in ("queries", "judgements", "documents"))
        return (evaluation.collection, evaluation.split, *sizes)

    first = evaluations[0]
    for other in evaluations[1:]:
        if ground(other) != ground(first):
            raise InputError(
                f"{first.system} was measured on {', '.join(ground(first))}, but {other.system} on "
                f"{', '.join(ground(other))}; a report compares systems on the same collection, split and judgements"
            )


def _named_apart(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    names: list[str] = []
    for evaluation in evaluations:
        name, number = evaluation.system, 1
        while name in names:
            number += 1
            name = f"{evaluation.system} ({number})"
        names.append(name)
    return [replace(evaluation, system=name) for evaluation, name in zip(evaluations, names, strict=True)]


def _results(systems: Sequence[Evaluation], metrics: Sequence[str]) -> Table:
    def cell(system: Evaluation, metric: str) -> str:
        low, high = system.intervals[metric]
        return f"{system.metrics[metric]:.4f} [{low:.4f}, {high:.4f}]"

    return Table(
        heading="Results",
        header=["System", *metrics],
        rows=[[system.system, *(cell(system, metric) for metric in metrics)] for system in systems],
        note="Mean over queries, with its 95 % interval (percentile bootstrap).",
    )


def _comparisons(systems: Sequence[Evaluation], metrics: Sequence[str]) -> Table | None:
    baseline, others = systems[0], systems[1:]
    if not others:
        return None
    rows = []
    for metric in metrics:
        found = [_against(baseline, other, metric) for other in others]
        corrected = holm([comparison.p for comparison in found])
        for other, comparison, p in zip(others, found, corrected, strict=True):
            rows.append(
                [
                    f"{other.system}, {metric}",
                    f"{comparison.before:.4f} → {comparison.after:.4f}",
                    f"{comparison.difference:+.4f} [{comparison.low:+.4f}, {comparison.high:+.4f}]",
                    "< 0.0001" if p < 0.0001 else f"{p:.4f}",
                    f"{comparison.wins:,} / {comparison.ties:,} / {comparison.losses:,}",
                ]
            )
    return Table(
        heading=f"Against {baseline.system}",
        header=["System, metric", "Means", "Difference [95 %]", "p", "Wins / ties / losses"],
        rows=rows,
        note="Two-sided paired randomisation test; the interval is the percentile bootstrap of the differences. "
        + (
            f"The p values of each metric are Holm-corrected for {len(others)} comparisons."
            if len(others) > 1
            else "Each metric is one test, uncorrected."
        ),
    )


def _against(baseline: Evaluation, other: Evaluation, metric: str) -> Comparison:
    return compare(metric, baseline.per_query[metric], other.per_query[metric], names=(baseline.system, other.system))


def _scaled(value: float, step: float, units: Sequence[str]) -> str:
    place = 0
    while abs(value) >= step and place < len(units) - 1:
        value, place = value / step, place + 1
    return f"{value:.3g} {units[place]}".strip() if value < 1000 else f"{value:,.0f} {units[place]}".strip()


_SPEEDS = {
    _DOCUMENT_SPEED: ("Documents/s", lambda value: f"{value:,.0f}" if value >= 10 else f"{value:.2g}"),
    "encode_queries_per_second": ("Queries/s", lambda value: f"{value:,.0f}" if value >= 10 else f"{value:.2g}"),
    "search_queries_per_second": ("Searches/s", lambda value: f"{value:,.0f}" if value >= 10 else f"{value:.2g}"),
    "parameters": ("Parameters", lambda value: _scaled(value, 1000, ("", "K", "M", "G"))),
    "index_bytes": ("Index", lambda value: _scaled(value, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))),
}


def _number(system: Evaluation, key: str) -> float | None:
    value = system.details.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else None


def _speed(systems: Sequence[Evaluation]) -> Table | None:
    shown = {
        key: column for key, column in _SPEEDS.items() if any(_number(system, key) is not None for system in systems)
    }
    if not shown:
        return None
    rows = []
    for system in systems:
        numbers = [(_number(system, key), show) for key, (_, show) in shown.items()]
        rows.append([system.system, *(NOTHING if number is None else show(number) for number, show in numbers)])
    return Table(
        heading="Speed and size",
        header=["System", *(title for title, _ in shown.values())],
        rows=rows,
        note="Encoding of documents and queries, and search, as measured while evaluating; other machines differ.",
    )


def _notes(systems: Sequence[Evaluation], metrics: Sequence[str]) -> list[str]:
    protocol = systems[0].protocol
    depths = sorted({system.protocol.get("depth", 0) for system in systems})
    named = {"gains": "gains", "ties": "ties", "own_id": "the query's own id", "denominator": "mean over"}
    rules = [f"{words}: {protocol[key]}" for key, words in named.items() if key in protocol]
    depth = " or ".join(f"{depth:,}" for depth in depths)
    notes = [f"Protocol: {'; '.join(rules)}; results of a query: the best {depth}."]
    if len(depths) > 1:
        notes.append("The depths differ: metrics without a cutoff favour the deeper run.")
    for system in systems:
        notes += [f"{system.system}: {fact}." for fact in _oddities(system.counts)]
        left_out = [metric for metric in system.metrics if metric not in metrics]
        if left_out:
            notes.append(f"{system.system}: {', '.join(left_out)} left out, which other systems lack.")
    return notes


def _oddities(counts: Mapping[str, int]) -> list[str]:
    named = {
        "queries_without_results": "judged queries without results",
        "unjudged_queries": "queries of the run without judgements, left out",
        "own_id_dropped": "results that were the query itself, dropped",
    }
    return [f"{counts[key]:,} {words}" for key, words in named.items() if counts.get(key)]


def markdown(evaluations: Sequence[Evaluation]) -> str:
    """The report as Markdown; see `build`."""
    report = build(evaluations)
    parts = [f"# {report.title}", report.summary]
    for table in report.tables:
        parts += [f"## {table.heading}", markdown_table(table.header, table.rows), table.note]
    parts.append("\n".join(f"- {note}" for note in report.notes))
    # A name must not turn into a tag where Markdown is shown as HTML; `p < 0.01` may stay.
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", "\n\n".join(parts)) + "\n"


def html(evaluations: Sequence[Evaluation]) -> str:
    """The report as one HTML page: no script, nothing loaded from elsewhere, readable in light and dark."""
    report = build(evaluations)
    body = [f"<h1>{markup.escape(report.title)}</h1>", f"<p>{markup.escape(report.summary)}</p>"]
    for place, table in enumerate(report.tables):
        body.append(_html_table(table))
        if place == 0:
            body.append(_html_figures(report))
    notes = "".join(f"<li>{markup.escape(note)}</li>" for note in report.notes)
    body.append(f"<footer><ul>{notes}</ul></footer>")
    return _PAGE.format(title=markup.escape(report.title), style=_STYLE, body="\n".join(body))


def _html_table(table: Table) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{markup.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return (
        f"<h2>{markup.escape(table.heading)}</h2>\n"
        f"<div class='wide'><table>\n<thead>{row(table.header, 'th')}</thead>\n"
        f"<tbody>{''.join(row(cells, 'td') for cells in table.rows)}</tbody>\n</table></div>\n"
        f"<p class='note'>{markup.escape(table.note)}</p>"
    )


def _html_figures(report: Report) -> str:
    drawn = [
        figures.dot_plot(
            metric,
            [figures.Dot(s.system, s.metrics[metric], *s.intervals[metric]) for s in report.systems],
            report.systems[0].system,
        )
        for metric in report.metrics
    ]
    if _QUALITY in report.metrics:
        speeds = [(system, _number(system, _DOCUMENT_SPEED)) for system in report.systems]
        points = [figures.Point(s.system, speed, s.metrics[_QUALITY]) for s, speed in speeds if speed is not None]
        if points:
            x_title = "documents encoded per second"
            drawn.append(figures.scatter("Quality and speed", points, x_title, _QUALITY, report.systems[0].system))
    return f"<div class='figures'>{''.join(drawn)}</div>"


def write_report(path: Path, evaluations: Sequence[Evaluation]) -> None:
    """Write the report in the form that the suffix asks for.

    Raises:
        InputError: the suffix is neither `.md` nor `.html`, or the systems cannot be compared.
    """
    forms = {".md": markdown, ".html": html}
    if path.suffix.lower() not in forms:
        raise InputError(f"{path}: a report is written as .md or .html, got the suffix {path.suffix!r}")
    write_text(path, forms[path.suffix.lower()](evaluations))


_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #66707c; --rule: #d9dee4; --paper: #fff; --accent: #0b6bcb }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6eaef; --soft: #9aa5b1; --rule: #343b44; --paper: #14181d; --accent: #62b0ff }
}
body { margin: 2.5rem auto; max-width: 68rem; padding: 0 1.25rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif }
h1 { font-size: 1.5rem; line-height: 1.25; overflow-wrap: anywhere } h2 { font-size: 1.15rem; margin: 2.25rem 0 .5rem }
.wide { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem }
th, td { padding: .4rem .9rem .4rem 0; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap }
th { color: var(--soft); font-weight: 600 } th:first-child, td:first-child { text-align: left }
.note, footer { color: var(--soft); font-size: .86rem } footer { margin-top: 2.5rem; border-top: 1px solid var(--rule) }
footer ul { padding-left: 1.1rem }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(19rem, 1fr)); gap: 1.25rem 2rem }
figure { margin: 1.25rem 0 0 } figcaption { font-weight: 600; font-size: .92rem } svg { width: 100%; height: auto }
svg text { fill: var(--ink); font-size: 12px; stroke: var(--paper); stroke-width: 4px; paint-order: stroke }
svg .soft { fill: var(--soft); font-size: 11px }
svg line { stroke: var(--rule) } svg .mark { stroke: var(--accent); stroke-width: 2 } svg circle { fill: var(--accent) }
svg .base.mark { stroke: var(--soft) } svg circle.base { fill: var(--soft) }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""
