"""Read the numbers of a statement with their units, and compare them: 1,234.5 = 1.234,5, 50 % = 0.5, 3 km = 3000 m."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from app.routing.answer import spelled
from app.routing.answer.lists import WORDS
from app.routing.answer.plain import Token


def _units() -> dict[str, tuple[str, float]]:
    """Return the dimension and the factor of each unit."""
    units: dict[str, tuple[str, float]] = {}
    dimension = ""
    for line in Path(__file__).with_name("units.txt").read_text("utf-8").splitlines():
        if line.startswith("["):
            dimension = line[1 : line.index("]")]
        elif line and not line.startswith("#"):
            factor, *names = line.split()
            units |= dict.fromkeys(names, (dimension, float(factor)))
    return units


_MONEY = frozenset({"usd", "eur", "gbp", "jpy", "inr", "chf", "krw", "rub"})
_SHORT_UNITS = frozenset({"in", "an", "a", "t", "b", "n", "s", "h", "k", "v", "l", "w", "j", "mi", "rs", "ore", "mes"})
_UNIT = _units()
_SAME_NAMES = ({"angle", "celsius"}, {"angle", "fahrenheit"}, {"gbp", "mass"})  # 20 degrees, 3 pounds
_MINUS = frozenset({"-", "minus", "negative"})
_LANGUAGE_COMMA = frozenset(WORDS["decimal comma"])
_ROUNDED_DIGITS = 2  # 0.33 may be a rounded 1/3, and 13.1 is no rounded 13.11


@dataclass(frozen=True, slots=True)
class Quantity:
    """Hold a number of a statement."""

    value: float
    unit: str  # the dimension, or ""
    factor: float  # of the unit
    decimals: int  # that were written; -1 = exact (a fraction, a power)
    other: float | None  # the other meaning of 1.234 or 1,234
    start: int  # the index of its first token …
    end: int  # … and of the token behind it


def read_number(text: str, comma: bool = False) -> tuple[float, int, float | None]:
    """Return the value of digits with separators, its decimals, and the other meaning when there are two.

    `comma` tells that the language writes decimals with a comma.
    """
    mantissa, _, exponent = text.lower().partition("e")
    power = 10.0 ** min(300, int(exponent)) if exponent else 1.0
    separators = [sign for sign in mantissa if not sign.isdigit()]
    if not separators:
        return float(mantissa[:300]) * power, 0, None
    last = separators[-1]
    head, _, tail = mantissa.rpartition(last)
    grouped = all(len(group) == 3 for group in _groups(mantissa)[1:]) and len(_groups(mantissa)[0]) <= 3
    whole, decimal = float("".join(_groups(mantissa))[:300]), float(f"{''.join(_groups(head))[:300]}.{tail[:30]}")
    if len(set(separators)) > 1 or (separators.count(last) == 1 and last in ".," and not grouped):
        return decimal * power, len(tail), None
    if separators.count(last) > 1 or last not in ".,":
        return whole * power, 0, None
    if mantissa.startswith("0"):
        return decimal * power, len(tail), None
    is_decimal = (last == ",") == comma  # one separator with three digits behind it
    if is_decimal:
        return decimal * power, len(tail), None if last == "." and not comma else whole * power
    return whole * power, 0, decimal * power if last == "," else None


def _groups(text: str) -> list[str]:
    return "".join(sign if sign.isdigit() else " " for sign in text).split()


def writes_comma(words: Sequence[str]) -> bool:
    """Return True when the words are of a language that writes decimals with a comma."""
    return sum(word in _LANGUAGE_COMMA for word in words) > 1


def quantities(tokens: Sequence[Token], comma: bool = False) -> list[Quantity]:
    """Return the numbers of a statement in their order."""
    words = [token.text for token in tokens]
    result: list[Quantity] = []
    at = 0
    while at < len(tokens):
        number = _at(tokens, words, at, comma)
        if number is None:
            at += 1
        else:
            at = number.end
            if result and (sum_ := _joined(result[-1], number, words)):
                result[-1] = sum_
            else:
                result.append(number)
    return result


def _at(tokens: Sequence[Token], words: Sequence[str], at: int, comma: bool) -> Quantity | None:
    """Return the number that begins at a token."""
    start = at
    sign, unit = 1.0, ""
    if words[at] in _MINUS and _may_be_sign(tokens, at):
        sign, at = -1.0, at + 1
    if at < len(words) and words[at] in _UNIT and _UNIT[words[at]][0] in _MONEY and not words[at].isalpha():
        unit, at = _UNIT[words[at]][0], at + 1
        if at < len(words) and words[at] == "-":
            sign, at = -sign, at + 1
    if at >= len(words):
        return None
    core = _core(tokens, words, at, comma)
    if core is None:
        return None
    core = replace(core, value=sign * core.value, other=None if core.other is None else sign * core.other, start=start)
    return _with_unit(core, words, unit)


def _may_be_sign(tokens: Sequence[Token], at: int) -> bool:
    """Return True when a minus is no hyphen and no subtraction."""
    if tokens[at].text != "-":
        return True
    before = tokens[at - 1] if at else None
    if before is not None and (before.is_number or before.text in ")]"):
        return False
    return before is None or before.end < tokens[at].start or not before.is_word


def _core(tokens: Sequence[Token], words: Sequence[str], at: int, comma: bool) -> Quantity | None:
    """Return a number without its sign and unit."""
    token = tokens[at]
    if token.text in ("∞", "infinity", "unendlich"):
        return Quantity(math.inf, "", 1, -1, None, at, at + 1)
    if token.text in ("π", "pi"):
        return _continued(Quantity(math.pi, "", 1, -1, None, at, at + 1), tokens, words, comma)
    if token.text == "√":
        return _root(tokens, words, at, 1.0, comma)
    if not token.is_number:
        pair = spelled.read(words, at) if spelled.begins(token.text) else None
        if pair is None:
            return None
        return Quantity(pair[0], "", 1, 0 if pair[0] == int(pair[0]) else -1, None, at, pair[1])
    value, decimals, other = read_number(token.text, comma)
    return _continued(Quantity(value, "", 1, decimals, other, at, at + 1), tokens, words, comma)


def _root(tokens: Sequence[Token], words: Sequence[str], at: int, factor: float, comma: bool) -> Quantity | None:
    """Return a number of the form √2 or √(2), times a factor."""
    at += 1
    bracket = at < len(words) and words[at] == "("
    at += bracket
    if at >= len(words) or not tokens[at].is_number:
        return None
    value = read_number(tokens[at].text, comma)[0]
    at += 1
    if bracket:
        if at >= len(words) or words[at] != ")":
            return None
        at += 1
    number = Quantity(factor * math.sqrt(value), "", 1, -1, None, at, at)
    return _continued(number, tokens, words, comma) if words[at : at + 1] == ["/"] else number


def _continued(number: Quantity, tokens: Sequence[Token], words: Sequence[str], comma: bool) -> Quantity:
    """Return a number with the fraction, power, root, π or word such as `million` behind it."""
    at = number.end

    def digits(index: int) -> float | None:
        return read_number(words[index], comma)[0] if index < len(words) and tokens[index].is_number else None

    sign = words[at] if at < len(words) else ""
    following = digits(at + 1)
    if sign == "/" and following:
        return replace(number, value=number.value / following, decimals=-1, other=None, end=at + 2)
    if number.decimals == 0 and (above := digits(at)) is not None and words[at + 1 : at + 2] == ["/"]:
        below = digits(at + 2)
        if below and above < below:
            return replace(number, value=number.value + above / below, decimals=-1, other=None, end=at + 3)
    if sign == "^":
        minus = words[at + 1 : at + 2] == ["-"]
        power = digits(at + 1 + minus)
        if power is not None and power < 300 and abs(number.value) < 1e6:
            value = _power(number.value, -power if minus else power)
            return replace(number, value=value, decimals=-1, other=None, end=at + 2 + minus)
    if sign in ("*", "x") and words[at + 1 : at + 3] == ["10", "^"]:
        exponent = _continued(Quantity(10, "", 1, 0, None, at + 1, at + 2), tokens, words, comma)
        if exponent.end > at + 2:
            return replace(number, value=number.value * exponent.value, decimals=-1, other=None, end=exponent.end)
    at += sign == "*"
    if words[at : at + 1] == ["π"] or words[at : at + 1] == ["pi"]:
        return _continued(
            replace(number, value=number.value * math.pi, decimals=-1, other=None, end=at + 1), tokens, words, comma
        )
    if words[at : at + 1] == ["√"]:
        return _root(tokens, words, at, number.value, comma) or number
    factor = spelled.scale(sign)
    if factor > 1 and sign not in ("cent", "cents", "mil", "mn"):
        more = spelled.scale(words[at + 1]) if at + 1 < len(words) else 1
        end = at + 1 + (more >= 1_000)
        factor *= more if more >= 1_000 else 1
        return replace(number, value=number.value * factor, decimals=-1, other=None, end=end)
    if sign in ("k", "m", "bn") and tokens[at].start == tokens[at - 1].end and sign == "k":
        return replace(number, value=number.value * 1_000, decimals=-1, other=None, end=at + 1)
    return number


def _power(base: float, exponent: float) -> float:
    try:
        return base**exponent if base or exponent > 0 else 1.0
    except OverflowError:
        return math.inf


def _with_unit(number: Quantity, words: Sequence[str], unit: str) -> Quantity:
    """Return a number with the unit in front of it or behind it."""
    at = number.end
    word = words[at] if at < len(words) else ""
    if word == "°" and at + 1 < len(words) and words[at + 1] in ("c", "f"):
        return replace(number, unit="celsius" if words[at + 1] == "c" else "fahrenheit", end=at + 2)
    if word in ("per", "pour", "por", "pro") and words[at + 1 : at + 2] in (["cent"], ["ciento"], ["cento"]):
        return replace(number, unit="percent", factor=0.01, end=at + 2)
    entry = _UNIT.get(word) or (_UNIT.get(word[:-1]) if word.endswith("s") and len(word) > 3 else None)
    if entry is None or (word in _SHORT_UNITS and not _is_unit(words, at)):
        return replace(number, unit=unit)
    dimension, factor = entry
    if (
        at + 1 < len(words)
        and words[at + 1] in ("^", "/", "per")
        and dimension not in _MONEY
        and dimension != "percent"
    ):
        return _compound(number, words, at, dimension, factor)
    return replace(number, unit=dimension, factor=factor, end=at + 1)


def _is_unit(words: Sequence[str], at: int) -> bool:
    """Return True when a short word behind a number is a unit: the statement ends there, or goes on with a sign."""
    return at + 1 >= len(words) or not words[at + 1].isalpha()


def _compound(number: Quantity, words: Sequence[str], at: int, dimension: str, factor: float) -> Quantity:
    """Return a number with an area, a volume, or a rate such as km/h."""
    sign, following = words[at + 1], words[at + 2] if at + 2 < len(words) else ""
    if sign == "^":
        power = int(following) if following in ("2", "3") else 1
        return replace(number, unit=f"{dimension}^{power}", factor=factor**power, end=at + 2 + (power > 1))
    below = _UNIT.get(following) or _UNIT.get(following.removesuffix("s"))
    if below is None:
        return replace(number, unit=dimension, factor=factor, end=at + 1)
    return replace(number, unit=f"{dimension}/{below[0]}", factor=factor / below[1], end=at + 3)


def _joined(first: Quantity, second: Quantity, words: Sequence[str]) -> Quantity | None:
    """Return the sum of two parts of one quantity, such as 1 hour 30 minutes; else None."""
    between = words[first.end : second.start]
    if (
        first.unit not in ("time", "length", "years", "mass")
        or first.unit != second.unit
        or between not in ([], ["and"], ["und"], ["et"], ["y"])
    ):
        return None
    if second.factor >= first.factor or second.value < 0:
        return None
    return replace(first, value=first.value + second.value * second.factor / first.factor, end=second.end)


def same_number(first: Quantity, second: Quantity, exact: bool = False) -> bool:
    """Return True when two numbers are the same.  With `exact`, a rounded number is another one."""
    units = {first.unit, second.unit}
    if "" not in units and len(units) == 2 and units not in _SAME_NAMES:
        return False
    pairs = [(first.value * first.factor, second.value * second.factor)]
    if not (first.unit and second.unit and first.unit == second.unit):
        pairs.append((first.value, second.value))
    pairs += [(other, second.value) for other in (first.other,) if other is not None]
    pairs += [(first.value, other) for other in (second.other,) if other is not None]
    return any(math.isclose(one, two, rel_tol=1e-9, abs_tol=1e-12) for one, two in pairs) or (
        not exact and (_is_rounded(first, second) or _is_rounded(second, first))
    )


def _is_rounded(first: Quantity, second: Quantity) -> bool:
    """Return True when the first number is the second one, rounded to the decimals that were written."""
    if first.decimals < _ROUNDED_DIGITS or math.isinf(first.value) or math.isinf(second.value):
        return False
    is_converted = first.unit == second.unit and first.unit != ""
    value = second.value * second.factor / first.factor if is_converted else second.value
    return abs(first.value - value) <= 0.5000001 * 10.0**-first.decimals
