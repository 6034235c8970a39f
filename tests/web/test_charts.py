"""Charts: pure drawing, checked as XML."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from app.web.dashboard.charts import Series, bars, count, lines, nice_top
from app.words import duration

TIMES = ("10:00", "11:00", "12:00", "13:00")
SVG = "{http://www.w3.org/2000/svg}"


def drawing(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(str(svg).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def shapes(svg: str, look: str) -> list[dict[str, str]]:
    return [one.attrib for one in drawing(svg).iter() if look in one.get("class", "").split()]


def test_bars_stand_on_top_of_each_other() -> None:
    chart = bars("Calls", (Series("good", "home", [2, 0, 1, 4]), Series("bad", "bad", [2, 0, 0, 1])), TIMES)
    assert chart.ticks == ("5", "2.5", "0")
    assert [(one["x"], one["y"], one["height"]) for one in shapes(chart.svg, "home")] == [
        ("1", "60.00", "40.00"), ("21", "80.00", "20.00"), ("31", "20.00", "80.00"),
    ]  # fmt: skip
    assert [(one["x"], one["y"], one["height"]) for one in shapes(chart.svg, "bad")] == [
        ("1", "20.00", "40.00"), ("31", "0.00", "20.00"),
    ]  # fmt: skip
    assert chart.legend == (("home", "good"), ("bad", "bad"))


def test_a_line_is_broken_where_nothing_is_known() -> None:
    chart = lines("Latency", (Series("p50", "p50", [100, 200, None, 400]),), TIMES)
    (line,) = shapes(chart.svg, "line")
    (dot,) = shapes(chart.svg, "dot")
    assert (line["d"], dot["d"]) == ("M5 80.00L15 60.00", "M35 20.00h0"), "the lonely last value is a dot"
    assert chart.ticks == ("500 ms", "250 ms", "0")


def test_nothing_is_drawn_of_nothing() -> None:
    for chart in (bars("Calls", (Series("a", "home", [0, 0, 0, 0]),), TIMES), lines("L", (), ())):
        assert not shapes(chart.svg, "fill") and not shapes(chart.svg, "line")
        assert chart.summary == "nothing yet"


def test_words_for_those_who_point_and_those_who_cannot_see() -> None:
    chart = bars('Calls <&"', (Series("good", "home", [2, 0, 1, 4]),), TIMES)
    root = drawing(chart.svg)
    assert root.get("role") == "img"
    assert root.get("aria-label") == 'Calls <&". good: from 0 to 4, last 4'
    said = [one.text for one in root.iter(f"{SVG}title")]
    assert said == ["10:00: good 2", "12:00: good 1", "13:00: good 4"]


def test_no_style_attribute_and_no_script_in_a_drawing() -> None:
    chart = lines("L", (Series("p50", "p50", [1, 2, 3, 4]),), TIMES)
    for one in drawing(chart.svg).iter():
        assert not {"style", "href", "onclick", "onload"} & one.attrib.keys()


@pytest.mark.parametrize(
    "value, top, whole",
    [(0, 1, 2), (0.3, 0.5, 2), (1, 1, 2), (1.01, 2, 2), (3, 5, 5), (51, 100, 100), (99_999, 100_000, 100_000)],
)
def test_scales_end_at_round_numbers(value: float, top: float, whole: float) -> None:
    assert nice_top(value) == pytest.approx(top)
    assert nice_top(value, whole=True) == pytest.approx(whole)


@pytest.mark.parametrize(
    "ms, words",
    [(0, "0"), (0.5, "0.5 ms"), (420, "420 ms"), (1300, "1.3 s"), (25_000, "25 s"), (9e6, "150 min")],
)  # fmt: skip
def test_durations(ms: float, words: str) -> None:
    assert duration(ms) == words


@pytest.mark.parametrize(
    "number, words", [(0, "0"), (2.5, "2.5"), (1234, "1,234"), (12_340, "12.3k"), (5.42e7, "54.2M")]
)
def test_counts(number: float, words: str) -> None:
    assert count(number) == words
