"""Bring words into a form in which they can be compared: without case, accents, punctuation and articles."""

from __future__ import annotations

import re
import unicodedata

from app.routing.answer.lists import WORDS

_WORD = re.compile(r"\d++(?:[.,]\d++)*+|[^\W\d_]++(?:'[^\W\d_]++)*+")
_INITIAL = re.compile(r"(?<=\s)\W{0,2}([A-Z])(?!\w)")
_ARTICLES = frozenset(WORDS["article"])


def folded(text: str) -> str:
    """Return a text in lower case without accents."""
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFKD", text.lower().replace("ß", "ss"))
    return unicodedata.normalize("NFC", "".join(char for char in decomposed if not "\u0300" <= char <= "\u036f"))


def words_of(text: str) -> list[str]:
    """Return the words and the numbers of a text."""
    return _WORD.findall(folded(text))


def normal_words(text: str) -> list[str]:
    """Return the words of a text without articles.  A capital letter, as in "vitamin A", is no article."""
    words = words_of(text)
    names = {letter.lower() for letter in _INITIAL.findall(text)}
    return [word for word in words if word not in _ARTICLES or word in names] or words


def phrase(text: str) -> str:
    """Return the normal words with a blank around each of them, so that one phrase can be found in another."""
    return f" {' '.join(normal_words(text))} "
