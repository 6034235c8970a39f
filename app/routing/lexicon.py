"""Word lists in text files: which lists do some words stand in?

`[name]` opens a list.  An entry is a word, or a phrase of two or three words written with `_`; entries of scripts
without spaces are looked for anywhere in the text.  Look-ups are dictionary look-ups: linear, nothing backtracks.
Phrases are looked up as tuples of words: joining the words of each would cost more than all look-ups do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path

_TOKEN = re.compile(r"[^\W_]++(?:['.&][^\W_]++)*+[+#]{0,2}+")
_WIDE = re.compile(r"[\u0400-\u04ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")  # Cyrillic, too, for its many endings


def tokens(text: str) -> list[str]:
    """Words in lower case; `c++`, `c#`, `node.js` and `don't` are words."""
    return _TOKEN.findall(text.lower().replace("’", "'"))


def is_wide(text: str) -> bool:
    """Does it hold letters of a script whose words are not looked up by token?"""
    return not text.isascii() and _WIDE.search(text) is not None


Entry = str | tuple[str, ...]  # a word, or the words of a phrase


class Lexicon:
    """The lists of one file."""

    def __init__(self, path: Path) -> None:
        lists: dict[Entry, list[str]] = {}
        self._wide: list[tuple[str, str]] = []
        name = ""
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("["):
                name = line[1 : line.index("]")]
            elif not line.startswith("#"):
                for entry in line.split():
                    if is_wide(entry) and "_" not in entry:
                        self._wide.append((entry, name))
                    else:
                        lists.setdefault(tuple(entry.split("_")) if "_" in entry else entry, []).append(name)
        self._lists = {entry: tuple(names) for entry, names in lists.items()}

    def entries(self, name: str, words: Sequence[str], text: str = "") -> list[str]:
        """The entries of one list that are among `words` or, for wide scripts, in `text`; for people to read."""
        found = [entry for entry in _entries_of(words) if name in self._lists.get(entry, ())]
        spoken = [entry if isinstance(entry, str) else " ".join(entry) for entry in found]
        return list(dict.fromkeys([*spoken, *(entry for entry, own in self._wide if own == name and entry in text)]))

    def count(self, words: Sequence[str], text: str = "") -> dict[str, int]:
        """List name -> how many of its entries are among `words` or, for wide scripts, in `text`."""
        counts: dict[str, int] = {}
        for entry in self._lists.keys() & _entries_of(words):
            for name in self._lists[entry]:
                counts[name] = counts.get(name, 0) + 1
        if is_wide(text):
            for spelling, name in self._wide:
                if spelling in text:
                    counts[name] = counts.get(name, 0) + 1
        return counts


def _entries_of(words: Sequence[str]) -> Iterator[Entry]:
    """Yield what could be an entry: the words, then their pairs and triples."""
    return chain(words, pairwise(words), zip(words, words[1:], words[2:], strict=False))
