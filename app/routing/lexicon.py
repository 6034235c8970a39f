"""Read word lists from text files, and tell which lists the words of a text belong to.

`[name]` opens a list.  An entry is a word, or a phrase of two or three words written with `_`.  Entries of scripts
without spaces are searched anywhere in the text.  All other look-ups are dictionary look-ups, so they are linear.
Phrases are looked up as tuples of words: joining the words would cost more than all look-ups together.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path

_TOKEN = re.compile(r"[^\W_]++(?:['.&][^\W_]++)*+[+#]{0,2}+")
_WIDE = re.compile(
    r"[\u0400-\u04ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
)  # Cyrillic too, because its words have many endings


def tokens(text: str) -> list[str]:
    """Return the words in lower case; `c++`, `c#`, `node.js` and `don't` are words."""
    return _TOKEN.findall(text.lower().replace("’", "'"))


def is_wide(text: str) -> bool:
    """Return True for a text with letters of a script whose words are not looked up by token."""
    return not text.isascii() and _WIDE.search(text) is not None


Entry = str | tuple[str, ...]  # a word, or the words of a phrase


class Lexicon:
    """Hold the word lists of one file."""

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

    def words(self, name: str) -> frozenset[str]:
        """Return the single words of one list, without those of wide scripts."""
        return frozenset(entry for entry, names in self._lists.items() if isinstance(entry, str) and name in names)

    def entries(self, name: str, words: Sequence[str], text: str = "") -> list[str]:
        """Return the entries of one list that are among `words` or, for wide scripts, in `text`, as readable text."""
        entries = [entry for entry in _entries_of(words) if name in self._lists.get(entry, ())]
        phrases = [entry if isinstance(entry, str) else " ".join(entry) for entry in entries]
        wide = [entry for entry, list_name in self._wide if list_name == name and entry in text]
        return list(dict.fromkeys([*phrases, *wide]))

    def count(self, words: Sequence[str], text: str = "") -> dict[str, int]:
        """Return for each list how many of its entries are among `words` or, for wide scripts, in `text`."""
        counts: dict[str, int] = {}
        for entry in self._lists.keys() & _entries_of(words):
            for name in self._lists[entry]:
                counts[name] = counts.get(name, 0) + 1
        if is_wide(text):
            for entry, name in self._wide:
                if entry in text:
                    counts[name] = counts.get(name, 0) + 1
        return counts


def _entries_of(words: Sequence[str]) -> Iterator[Entry]:
    """Yield every possible entry: the words, then their pairs and triples."""
    return chain(words, pairwise(words), zip(words, words[1:], words[2:], strict=False))
