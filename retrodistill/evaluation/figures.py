"""Draws a report's figures as inline SVG, with the colours of the page that holds them."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WIDTH = 420
_MARGIN = 12
_ROW = 40
_TEXT_HEIGHT = 13
_TEXT_WIDTH = 7.5  # of a character, about
_NAME = 30  # longest name drawn, in characters


@dataclass(frozen=True)
class Dot:
    """A system's mean and the ends of its interval."""

    name: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Point:
    """A system's place in a scatter."""

    name: str
    x: float
    y: float


def dot_plot(title: str, dots: Sequence[Dot], baseline: str) -> str:
    """One row a system: its mean as a dot, its interval as a line; the baseline is muted."""
    step, low, high = _ticks(min(dot.low for dot in dots), max(dot.high for dot in dots))
    across = _scale(low, high, _MARGIN, WIDTH - _MARGIN - 14)
    height = len(dots) * _ROW + 24
    marks = _vertical_grid(step, low, high, across, height)
    for place, dot in enumerate(dots):
        top = place * _ROW + 14
        middle = top + 12
        kind = "base" if dot.name == baseline else ""
        marks += [
            _text(0, top, dot.name),
            _text(WIDTH, top, f"{dot.value:.4f}", anchor="end"),
            _line(across(dot.low), middle, across(dot.high), middle, kind=f"mark {kind}"),
            _dot(across(dot.value), middle, kind),
        ]
    said = "; ".join(f"{dot.name} {dot.value:.4f} ({dot.low:.4f} to {dot.high:.4f})" for dot in dots)
    return _figure(title, said, height, marks)


def scatter(title: str, points: Sequence[Point], x_title: str, y_title: str, baseline: str) -> str:
    """Two numbers of each system, x above 0 and on a logarithmic axis; the baseline is muted."""
    height, bottom, left = 260, 212, 52
    y_step, y_low, y_high = _ticks(min(p.y for p in points), max(p.y for p in points))
    powers = [math.log10(point.x) for point in points]
    x_low, x_high = math.floor(min(powers)), max(math.ceil(max(powers)), math.floor(min(powers)) + 1)
    across, up = _scale(x_low, x_high, left, WIDTH - _MARGIN - 14), _scale(y_low, y_high, bottom, 24)

    marks = []
    for power in range(x_low, x_high + 1):
        x = across(power)
        marks += [
            _line(x, 24, x, bottom),
            _text(x, bottom + 16, f"{10**power:,g}", anchor="middle", kind="soft"),
        ]
    for tick in _steps(y_step, y_low, y_high):
        y = up(tick)
        marks += [
            _line(left, y, WIDTH - _MARGIN, y),
            _text(left - 6, y + 4, _plain(tick, y_step), anchor="end", kind="soft"),
        ]
    marks += [
        _text(WIDTH - _MARGIN, bottom + 36, x_title, anchor="end", kind="soft"),
        _text(0, 12, y_title, kind="soft"),
    ]

    taken: list[tuple[float, float, float]] = []
    for point in sorted(points, key=lambda point: -point.y):
        x, y = across(math.log10(point.x)), up(point.y)
        width = min(len(point.name), _NAME) * _TEXT_WIDTH
        start, end, anchor = (x + 10, x + 10 + width, "start") if x < WIDTH / 2 else (x - 10 - width, x - 10, "end")
        # A name must not cover another: the lower one moves down.
        place = y + 4
        while any(start < to and since < end and abs(place - other) < _TEXT_HEIGHT for since, to, other in taken):
            place += 1
        taken.append((start, end, place))
        marks += [
            _dot(x, y, "base" if point.name == baseline else ""),
            _text(start if anchor == "start" else end, place, point.name, anchor=anchor),
        ]
    said = "; ".join(f"{point.name}: {y_title} {point.y:.4f}, {point.x:,.4g} {x_title}" for point in points)
    return _figure(title, said, height, marks)


def _figure(title: str, said: str, height: float, marks: Sequence[str]) -> str:
    return (
        f"<figure><figcaption>{html.escape(title)}</figcaption>"
        f"<svg viewBox='0 0 {WIDTH} {height}' role='img' aria-label='{html.escape(said)}'>{''.join(marks)}</svg>"
        f"</figure>"
    )


def _line(x1: float, y1: float, x2: float, y2: float, kind: str = "") -> str:
    return f"<line class='{kind}' x1='{x1:.1f}' y1='{y1:.1f}' x2='{x2:.1f}' y2='{y2:.1f}'/>"


def _dot(x: float, y: float, kind: str) -> str:
    return f"<circle class='{kind}' cx='{x:.1f}' cy='{y:.1f}' r='5'/>"


def _text(x: float, y: float, text: str, anchor: str = "start", kind: str = "") -> str:
    shown = text if len(text) <= _NAME else "…" + text[1 - _NAME :]
    return f"<text class='{kind}' x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}'>{html.escape(shown)}</text>"


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _ticks(low: float, high: float) -> tuple[float, float, float]:
    """A round step (1, 2 or 5 times a power of ten) and the round numbers that enclose low and high."""
    span = max(high - low, abs(high) * 0.05, 0.01)
    rough = span / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return step, first * step, max(last, first + 1) * step


def _steps(step: float, low: float, high: float) -> list[float]:
    return [low + place * step for place in range(round((high - low) / step) + 1)]


def _plain(value: float, step: float) -> str:
    return f"{value:,.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"


def _vertical_grid(step: float, low: float, high: float, across: Callable[[float], float], height: float) -> list[str]:
    marks = []
    for tick in _steps(step, low, high):
        x = across(tick)
        marks += [
            _line(x, 2, x, height - 18),
            _text(x, height - 5, _plain(tick, step), anchor="middle", kind="soft"),
        ]
    return marks
