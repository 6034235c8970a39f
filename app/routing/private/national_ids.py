"""Find national identity, tax and health numbers.  The optional package python-stdnum checks their digits.

Numbers with a strong form (letters, a date of birth, two check digits) count by themselves.  The others look like any
number of their length, so they count only after a word that names them.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from app.routing.private.candidate import Candidate, Kind

_DATA = Path(__file__).with_name("national_ids.txt")
_COLUMNS = re.compile(r" {2,}")
_NUMBER_WORD = r"(?:[ -]?(?:no|nr|number|nummer|numero)\.?)?"
_BEFORE_NUMBER = r"[\"' \t:=#.]{0,5}(?:is |ist |es |est )?[\"' ]?"
_GAPS = re.compile(r"[ ./-]")


class NotInstalled(Exception):
    """Report that a detector needs python-stdnum, which is not installed."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} needs python-stdnum: pip install -r requirements-ids.txt")


@dataclass(frozen=True, slots=True)
class _Number:
    """Represent one line of national_ids.txt."""

    module: str  # of python-stdnum
    form: str
    words: str  # "-" = the form is strong enough alone
    about: str


def _read(text: str) -> dict[str, _Number]:
    rows = (_COLUMNS.split(line) for line in text.splitlines() if line and not line.startswith("#"))
    return {name: _Number(*columns) for name, *columns in rows}


_NUMBERS = _read(_DATA.read_text(encoding="utf-8"))
NAMES = tuple(_NUMBERS)


def kind(name: str) -> Kind:
    """Return the kind of a country's number.  Raise NotInstalled when python-stdnum is missing."""
    number = _NUMBERS[name]
    try:
        module = importlib.import_module(f"stdnum.{number.module}")
    except ImportError:
        raise NotInstalled(name) from None
    if number.words == "-":
        start = r"(?:^|[^0-9A-Za-z])"
    else:
        start = rf"(?i)(?:^|[^\pL\d])(?:{number.words}){_NUMBER_WORD}{_BEFORE_NUMBER}"
    return Kind(name, name, rf"{start}({number.form})(?:$|[^0-9A-Za-z])", _check(module.is_valid), overlaps=True)


def about(name: str) -> str:
    """Return the country's own name of its number."""
    return _NUMBERS[name].about


def _check(is_valid: Callable[[str], object]) -> Callable[[Candidate], bool]:
    def check(candidate: Candidate) -> bool:
        if re.search(r"[0-9A-Za-z][-._/+]\Z", candidate.before) or re.match(r"[-_/+][0-9A-Za-z]|\.\d", candidate.after):
            return False
        digits = _GAPS.sub("", candidate.text)
        return len(set(digits)) > 2 and bool(is_valid(candidate.text)) and not candidate.in_dump()

    return check
