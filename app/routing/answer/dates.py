"""Read dates and times of day in the common forms, and compare them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.routing.answer.plain import Token

_MONTHS = (
    "january jan januar jänner janvier enero gennaio janeiro ene gen januari styczeń stycznia января",
    "february feb februar février febrero febbraio fevereiro fév fev februari luty lutego февраля",
    "march mar märz maerz mars marzo março maart mars marzec marca марта",
    "april apr avril abril aprile abr kwiecień kwietnia апреля",
    "may mai mayo maggio maio mag mei maj maja мая",
    "june jun juni juin junio giugno junho giu czerwiec czerwca июня",
    "july jul juli juillet julio luglio julho lug juil lipiec lipca июля",
    "august aug août agosto ago augustus sierpień sierpnia августа augusti",
    "september sep sept septembre septiembre settembre setembro set wrzesień września сентября",
    "october oct oktober okt octobre octubre ottobre outubro ott out październik października октября",
    "november nov novembre noviembre novembro listopad listopada ноября",
    "december dec dezember dez dic déc décembre diciembre dicembre dezembro grudzień grudnia декабря",
)
_MONTH = {word: number for number, words in enumerate(_MONTHS, 1) for word in words.split()}
_ORDINALS = frozenset({"st", "nd", "rd", "th", "er", ".", "º", "°"})
_SMALL = frozenset({"de", "del", "of", "the", ",", ".", "di", "г", "года"})
Day = tuple[int, int, int]  # year, month, day; 0 = not told


@dataclass(frozen=True, slots=True)
class Moment:
    """Hold a date or a time of day."""

    days: frozenset[Day]  # 05/03/2024 has two meanings
    minutes: int | None = None  # since midnight
    start: int = 0


def moments(tokens: Sequence[Token]) -> list[Moment]:
    """Return the dates and the times of a statement in their order."""
    result: list[Moment] = []
    at = 0
    while at < len(tokens):
        days, end = _date(tokens, at)
        if not days:
            minutes, end = _time(tokens, at)
            if minutes is not None:
                _add_time(result, Moment(frozenset(), minutes, at))
        else:
            result.append(Moment(days, None, at))
        at = max(end, at + 1)
    return result


def _add_time(result: list[Moment], time: Moment) -> None:
    if result and result[-1].minutes is None:
        result[-1] = Moment(result[-1].days, time.minutes, result[-1].start)
    else:
        result.append(time)


def same_moment(first: Moment, second: Moment) -> bool:
    """Return True when two dates are the same.  A year or a time that only one of them tells is no difference."""
    if first.minutes is not None and second.minutes is not None and first.minutes != second.minutes:
        return False
    if not first.days and not second.days:
        return first.minutes is not None and second.minutes is not None
    return any(_same_day(one, two) for one in first.days for two in second.days)


def _same_day(first: Day, second: Day) -> bool:
    year = first[0] == second[0] or not (first[0] and second[0])
    return year and first[1:] == second[1:]


def _date(tokens: Sequence[Token], at: int) -> tuple[frozenset[Day], int]:
    """Return the meanings of the date that begins at a token, and the index behind it."""
    token = tokens[at]
    if token.text in _MONTH:
        return _month_first(tokens, at)
    if not token.is_number:
        return frozenset(), at
    if token.text.count(".") == 2:
        return _of_numbers(token.text.split(".")), at + 1
    if not token.text.isdigit():
        return frozenset(), at
    texts = [token.text for token in tokens[at : at + 6]]
    if len(texts) >= 5 and texts[1] == texts[3] and texts[1] in "-/." and (days := _of_numbers(texts[0:5:2])):
        return days, at + 5
    if len(texts) >= 5 and texts[1::2][:2] == ["年", "月"]:
        return _of_numbers(texts[0:5:2]), at + 6
    return _day_first(tokens, at)


def _of_numbers(parts: Sequence[str]) -> frozenset[Day]:
    """Return the meanings of three numbers."""
    if not all(part.isdigit() and len(part) <= 4 for part in parts):
        return frozenset()
    one, two, three = (int(part) for part in parts)
    if len(parts[0]) == 4:
        return _legal((one, two, three), (one, three, two) if two > 12 else None)
    if len(parts[2]) not in (2, 4) or len(parts[0]) > 2 or len(parts[1]) > 2:
        return frozenset()
    year = three if len(parts[2]) == 4 else 2000 + three if three < 70 else 1900 + three
    return _legal((year, two, one), (year, one, two))


def _legal(*days: Day | None) -> frozenset[Day]:
    return frozenset(day for day in days if day and 1 <= day[1] <= 12 and 1 <= day[2] <= 31)


def _day_first(tokens: Sequence[Token], at: int) -> tuple[frozenset[Day], int]:
    """Return a date such as `5. März 2024` or `the 5th of March`."""
    day, after = int(tokens[at].text[:6]), at + 1
    while after < len(tokens) and after < at + 4 and tokens[after].text in _ORDINALS | _SMALL:
        after += 1
    if after >= len(tokens) or tokens[after].text not in _MONTH or not 1 <= day <= 31:
        return frozenset(), at
    year, end = _year(tokens, after + 1)
    return frozenset({(year, _MONTH[tokens[after].text], day)}), end


def _month_first(tokens: Sequence[Token], at: int) -> tuple[frozenset[Day], int]:
    """Return a date such as `March 5, 2024` or `March 2024`."""
    month, after = _MONTH[tokens[at].text], at + 1
    while after < len(tokens) and after < at + 3 and tokens[after].text in (".", "the", ","):
        after += 1
    if after >= len(tokens) or not tokens[after].text.isdigit():
        return frozenset(), at
    number = int(tokens[after].text[:6])
    if len(tokens[after].text) == 4:
        return frozenset({(number, month, 0)}), after + 1
    if not 1 <= number <= 31:
        return frozenset(), at
    end = after + 1
    while end < len(tokens) and tokens[end].text in _ORDINALS:
        end += 1
    year, end = _year(tokens, end)
    return frozenset({(year, month, number)}), end


def _year(tokens: Sequence[Token], at: int) -> tuple[int, int]:
    """Return the year at a token or behind small words, else 0; and the index behind it."""
    end = at
    while end < len(tokens) and end < at + 2 and tokens[end].text in _SMALL:
        end += 1
    if end < len(tokens) and tokens[end].text.isdigit() and len(tokens[end].text) == 4:
        return int(tokens[end].text), end + 1
    return 0, at


def _time(tokens: Sequence[Token], at: int) -> tuple[int | None, int]:
    """Return the time of day that begins at a token, in minutes, and the index behind it."""
    if not tokens[at].text.isdigit() or int(tokens[at].text[:6]) > 24:
        return None, at
    hour, minute, end = int(tokens[at].text), 0, at + 1
    has_minutes = (
        end + 1 < len(tokens)
        and tokens[end].text in (":", "h")
        and tokens[end + 1].text.isdigit()
        and len(tokens[end + 1].text) == 2
        and tokens[end + 1].start == tokens[end].end
    )
    if has_minutes:
        minute, end = int(tokens[end + 1].text), end + 2
        if end + 1 < len(tokens) and tokens[end].text == ":" and tokens[end + 1].text.isdigit():
            end += 2
    half = "".join(token.text for token in tokens[end : end + 4]).replace(".", "")[:2]
    if half in ("am", "pm") and hour <= 12:
        hour = hour % 12 + 12 * (half == "pm")
        return hour * 60 + minute, end + 1
    if end < len(tokens) and tokens[end].text in ("uhr", "o'clock"):
        half = "".join(token.text for token in tokens[end + 1 : end + 5]).replace(".", "")[:2]
        return (hour + 12 * (half == "pm" and hour < 12)) * 60 + minute, end + 1 + (half in ("am", "pm"))
    return (hour * 60 + minute, end) if has_minutes and minute < 60 else (None, at)
