"""Read the lists of phrases by which answers and requests are judged, and make one pattern of each list.

`[kind]` or `[kind language]` opens a list in phrases.txt.  Commas divide its phrases.  `…` stands for any words, `*`
at the end for any ending.  The other characters have their meaning in RE2.  Patterns search the words of a text, as
`words_of` returns them: a blank before and behind each word is all that they need to know where it begins and ends.
"""

from __future__ import annotations

import re
from functools import cache
from itertools import chain
from pathlib import Path

from app.routing.private.candidate import Pattern, linear

_FILE = Path(__file__).with_name("phrases.txt")
_HAS_WORD_BORDERS = re.compile(r"[a-z\u00c0-\u024f\u0370-\u03ff\u0400-\u04ff\u1e00-\u1fff]")  # Latin, Greek, Cyrillic
_SEPARATORS = re.compile(
    r"[\s,，、;:：()（）\"“”„«»「」『』.!?。！？।؟،…*_`#<>|/\\~=+{}\[\]¿¡]+|(?<!\w)['’‘]+|['’‘]+(?!\w)"
)


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


def entries_of(kind: str, language: str | None = None) -> tuple[str, ...]:
    """Return the phrases of a kind, in one language or in all."""
    languages = _lists()[kind]
    return languages[language] if language is not None else tuple(chain.from_iterable(languages.values()))


def languages_of(kind: str) -> tuple[str, ...]:
    """Return the languages that have phrases of a kind."""
    return tuple(_lists()[kind])


@cache
def pattern_of(kind: str, language: str | None = None) -> Pattern:
    """Return a pattern for the phrases of a kind, in one language or in all."""
    return _pattern(entries_of(kind, language))


def words_of(text: str) -> bytes:
    """Return the words of a text in lower case, with a blank before and behind each."""
    words = _SEPARATORS.sub(" ", text.lower()).replace("’", "'").split()
    return f" {' '.join(words)} ".encode()


def without(kind: str, words: bytes) -> bytes:
    """Return words without the phrases of a kind."""
    pattern = pattern_of(kind)
    while match := pattern.search(words):
        begin, end = match.span(1)
        words = words[:begin] + b" " + words[end:]
    return words


def _pattern(entries: tuple[str, ...]) -> Pattern:
    parts = [_regex(entry) if _HAS_WORD_BORDERS.match(entry.lstrip("(?:^")) else entry for entry in entries]
    return linear(f"({'|'.join(parts)})")


def _regex(entry: str) -> str:
    """Return the pattern of a phrase in a script that divides words."""
    begin = "^ " if entry.startswith("^") else " "
    end = "[^ ]*" if entry.endswith("*") else " $" if entry.endswith("$") else " "
    return begin + entry.removeprefix("^").rstrip("*$").replace(" … ", "(?: | .* )") + end
