"""Check the arithmetic that an answer shows: equations such as 12 * 5 = 60, and comparisons such as 9.11 < 9.9."""

from __future__ import annotations

import math
import re

from app.routing.answer.numbers import read_number

_MOST = 60  # equations and comparisons that are checked
_READ_CHARS = 4_000  # at the end of an answer
_NUMBER = r"[$€£]?\d{1,15}+(?:[.,]\d{1,15}+){0,4}+%?"
_EQUATION = re.compile(
    rf"(?<![\w.,^/*+\-)}}\\=$€£])(?<![-+*/^x]\s)({_NUMBER}(?:\s?[-+*/x]\s?{_NUMBER}){{1,15}})\s?=\s?(-?{_NUMBER})"
    r"(?![\w^/*(]|\s?[-+*/x^%]\s?[\d($€£]|[.,]\d)"
)
_PIECE = re.compile(r"\d[\d.,]*+%?|[-+*/x]")
_OTHER_ARITHMETIC = (
    " mod ",
    "(mod",
    "\\pmod",
    "modulo",
    "binary",
    " in base ",
    "hexadecimal",
    "≡",
)  # there 9 + 5 may be 2
_SPELLINGS = (
    ("\\times", "*"), ("\\cdot", "*"), ("\\div", "/"), ("\\$", "$"), ("×", "*"), ("⋅", "*"), ("·", "*"), ("÷", "/"),
    ("−", "-"), ("–", "-"), ("≈", "="), ("\\approx", "="), ("**", ""), ("{,}", ","), ("\\,", ""),
)  # fmt: skip
_COMPARISON = re.compile(
    r"(?<![\w.,=^/*+)-])(\d{1,15}(?:\.\d{1,15})?)\s?(?:"
    r"(?P<more>>|is (?:greater|larger|bigger|more|higher) than)|(?P<less><|is (?:less|smaller|lower|fewer) than))"
    r"\s?(\d{1,15}(?:\.\d{1,15})?)(?![\w^/*%=]|\s?[-+*/^]\s?\d|\.\d)"
)


def shown(text: str, is_cut: bool = False) -> tuple[int, int]:
    """Return the number of equations and comparisons in an answer that are true, and the number of false ones."""
    text = text[-_READ_CHARS:]
    if any(name in text for name in _OTHER_ARITHMETIC):
        return 0, 0
    for spelling, sign in _SPELLINGS:
        text = text.replace(spelling, sign)
    right = wrong = 0
    for count, match in enumerate(_EQUATION.finditer(text)):
        value = _value(match[1])
        if value is None or count >= _MOST or (is_cut and match.end() == len(text)):
            continue
        if _is_result(value, match[2]):
            right += 1
        else:
            wrong += 1
    for count, match in enumerate(_COMPARISON.finditer(text)):
        if count == _MOST:
            break
        first, second = float(match[1]), float(match[4])
        holds = first > second if match["more"] else first < second
        right, wrong = right + holds, wrong + (not holds)
    return right, wrong


def _is_result(value: float, text: str) -> bool:
    """Return True when a text is a number, or the number rounded to what was written."""
    negative = text.startswith("-")
    digits = text.strip("-$€£%")
    number, decimals, other = read_number(digits)
    for meaning in (number, other):
        if meaning is None:
            continue
        meaning = -meaning if negative else meaning
        tolerance = max(1.01 * 10.0**-decimals if decimals else 0.5, 0.002 * abs(value))
        if any(abs(meaning - wanted) <= tolerance for wanted in (value, value * 100, value / 100)):
            return True
    return False


def _value(text: str) -> float | None:
    """Return the value of a sum of products, or None."""
    pieces = _PIECE.findall(text)
    total, product, sign, operator = 0.0, 1.0, 1.0, "*"
    for piece in pieces:
        if piece[0].isdigit():
            number = read_number(piece.strip("%.,"))[0] * (0.01 if piece.endswith("%") else 1)
            if operator == "/" and not number:
                return None
            product = product / number if operator == "/" else product * number
        elif piece in "+-":
            total, product, sign, operator = total + sign * product, 1.0, 1.0 if piece == "+" else -1.0, "*"
        else:
            operator = "/" if piece == "/" else "*"
    result = total + sign * product
    return result if math.isfinite(result) else None
