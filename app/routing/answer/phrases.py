"""Read the lists of phrases by which answers and requests are judged, and make one pattern of each list.

`[kind]` or `[kind language]` opens a list in phrases.txt.  Commas divide its phrases.  A blank stands for any white
space, `…` for any characters, and `*` at the end for any ending.  The other characters have their meaning in RE2.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from app.routing.private.candidate import Pattern, linear

_FILE = Path(__file__).with_name("phrases.txt")
_HAS_WORD_BORDERS = re.compile(r"[a-z\u00c0-\u024f\u0370-\u03ff\u0400-\u04ff\u1e00-\u1fff]")  # Latin, Greek, Cyrillic
_BORDER_BEFORE, _BORDER_BEHIND = r"(?:^|[^\pL\pN])", r"(?:[^\pL\pN]|$)"


@cache
def _lists() -> dict[str, dict[str, tuple[str, ...]]]:
    """Return the phrases by kind and language; the language is "" where a list has all of them."""
    phrases: dict[str, dict[str, tuple[str, ...]]] = {}
    kind = language = ""
    for line in _FILE.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            kind, _, language = line[1 : line.index("]")].partition(" ")
        elif line and not line.startswith("#"):
            entries = tuple(entry.strip() for entry in line.split(",") if entry.strip())
            of_kind = phrases.setdefault(kind, {})
            of_kind[language] = of_kind.get(language, ()) + entries
    return phrases


def entries_of(kind: str) -> tuple[str, ...]:
    """Return the phrases of a kind in all languages."""
    return tuple(entry for entries in _lists()[kind].values() for entry in entries)


@cache
def pattern_of(kind: str) -> Pattern:
    """Return a pattern for the phrases of a kind in all languages."""
    return _pattern(entries_of(kind))


@cache
def patterns_of(kind: str) -> dict[str, Pattern]:
    """Return a pattern for the phrases of a kind in each language."""
    return {language: _pattern(entries) for language, entries in _lists()[kind].items()}


def _pattern(entries: tuple[str, ...]) -> Pattern:
    bordered = [entry for entry in entries if _HAS_WORD_BORDERS.match(entry.lstrip("(?:^"))]
    whole = [_regex(entry) for entry in bordered if not entry.endswith("*")]
    beginnings = [_regex(entry.rstrip("*")) for entry in bordered if entry.endswith("*")]
    other = [_regex(entry.rstrip("*")) for entry in entries if entry not in bordered]
    parts = [
        *([f"{_BORDER_BEFORE}(?:{'|'.join(whole)}){_BORDER_BEHIND}"] if whole else []),
        *([f"{_BORDER_BEFORE}(?:{'|'.join(beginnings)})[\\pL\\pN]*"] if beginnings else []),
        *other,
    ]
    return linear(f"(?s)({'|'.join(parts)})")


def _regex(entry: str) -> str:
    return entry.replace(" … ", "(?: | .* )").replace("…", ".*").replace(" ", r"\s+")
