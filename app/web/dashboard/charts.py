"""Draw charts as SVG on the server.  Pure.

The page stretches the drawing to its width.  All text (scale, times, legend) is HTML outside the drawing, so that it
stays readable on a telephone.  The style sheet sets the colours of the classes, for light and for dark pages.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from app.words import duration, short

_STEP = 10  # width of a step in the drawing's own units
_HEIGHT = 100


@dataclass(frozen=True, slots=True)
class Series:
    """Hold one line, or one layer of the bars.  `values` has a number for each step, or None when it is unknown."""

    name: str
    look: str  # a class of the style sheet
    values: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Chart:
    title: str
    summary: str  # the text for screen readers
    svg: Markup
    ticks: tuple[str, ...]  # of the vertical scale, from the top to 0
    legend: tuple[tuple[str, str], ...]  # look and name
    empty: bool


def bars(title: str, series: Sequence[Series], times: Sequence[str]) -> Chart:
    """Return a chart of counts, as layers on top of each other."""
    totals = [sum(one.values[at] or 0 for one in series) for at in range(len(times))]
    top = nice_top(max(totals, default=0), whole=True)
    pieces = []
    for at in range(len(times)):
        below = 0.0
        for one in series:
            value = one.values[at] or 0
            if value:
                y, high = _y(below + value, top), _HEIGHT * value / top
                place = f'x="{at * _STEP + 1}" y="{y:.2f}" width="{_STEP - 2}" height="{high:.2f}"'
                pieces.append(f'<rect class="fill {one.look}" {place}/>')
            below += value
    return _chart(title, series, times, top, pieces, count)


def lines(title: str, series: Sequence[Series], times: Sequence[str]) -> Chart:
    """Return a chart of milliseconds.  A line has a gap where its value is unknown."""
    values = [value for one in series for value in one.values if value is not None]
    top = nice_top(max(values, default=0))
    pieces = []
    for one in series:
        for kind, path in (("line", _path(one.values, top)), ("dot", _dots(one.values, top))):
            if path:
                pieces.append(f'<path class="{kind} {one.look}" vector-effect="non-scaling-stroke" d="{path}"/>')
    return _chart(title, series, times, top, pieces, duration)


def _path(values: Sequence[float | None], top: float) -> str:
    """Return the path of a line: it moves to the first of several neighbours and draws to the others."""
    steps = []
    for at, value in enumerate(values):
        if value is not None and not _is_alone(values, at):
            has_neighbour = at > 0 and values[at - 1] is not None
            steps.append(f"{'L' if has_neighbour else 'M'}{at * _STEP + _STEP / 2:g} {_y(value, top):.2f}")
    return "".join(steps)


def _dots(values: Sequence[float | None], top: float) -> str:
    """Return the path of the values without neighbours: each is a thick line without length."""
    return "".join(
        f"M{at * _STEP + _STEP / 2:g} {_y(value, top):.2f}h0"
        for at, value in enumerate(values)
        if value is not None and _is_alone(values, at)
    )


def _is_alone(values: Sequence[float | None], at: int) -> bool:
    return all(one is None for one in (*values[max(0, at - 1) : at], *values[at + 1 : at + 2]))


def _chart(
    title: str,
    series: Sequence[Series],
    times: Sequence[str],
    top: float,
    pieces: Sequence[str],
    words: Callable[[float], str],
) -> Chart:
    width = len(times) * _STEP
    grid = "".join(
        f'<path class="grid" vector-effect="non-scaling-stroke" d="M0 {y}H{width}"/>' for y in (0, 50, _HEIGHT)
    )
    summary = _summary(series, words)
    hits = "".join(_hit(at, series, time, words) for at, time in enumerate(times))
    svg = (
        f'<svg viewBox="0 0 {width} {_HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(title)}. {escape(summary)}">{grid}{"".join(pieces)}{hits}</svg>'
    )
    ticks = tuple(words(value) for value in (top, top / 2, 0)) if pieces else ()
    return Chart(title, summary, Markup(svg), ticks, tuple((one.look, one.name) for one in series), not pieces)


def _hit(at: int, series: Sequence[Series], time: str, words: Callable[[float], str]) -> str:
    """Return the area that shows the values of a step to a pointer, or "" for a step without values."""
    texts = [f"{one.name} {words(value)}" for one in series if (value := one.values[at])]
    if not texts:
        return ""
    text = escape(f"{time}: {', '.join(texts)}")
    return f'<rect class="hit" x="{at * _STEP}" y="0" width="{_STEP}" height="{_HEIGHT}"><title>{text}</title></rect>'


def _summary(series: Sequence[Series], words: Callable[[float], str]) -> str:
    parts = []
    for one in series:
        values = [value for value in one.values if value is not None]
        if any(values):
            parts.append(f"{one.name}: from {words(min(values))} to {words(max(values))}, last {words(values[-1])}")
    return "; ".join(parts) or "nothing yet"


def nice_top(value: float, *, whole: bool = False) -> float:
    """Return the end of a scale: the next 1, 2 or 5 times a power of ten; at least 2 for whole numbers."""
    if value <= 0:
        return 2.0 if whole else 1.0
    decade = 10.0 ** math.floor(math.log10(value))
    top = next(step * decade for step in (1, 2, 5, 10) if step * decade >= value * 0.9999)
    return max(top, 2.0) if whole else top


def _y(value: float, top: float) -> float:
    return _HEIGHT * (1 - value / top)


def count(number: float) -> str:
    """Return a number as `950`, `1,200`, `12.5k` or `12.5M`."""
    return short(number, ",.0f" if number == int(number) else ".1f")
