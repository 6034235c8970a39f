"""Word lists in text files: which lists do some words stand in?

`[name]` opens a list.  An entry is a word, or a phrase of two or three words written with `_`; entries of scripts
without spaces are looked for anywhere in the text.  Look-ups are dictionary look-ups: linear, nothing backtracks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

_TOKEN = re.compile(r"[^\W_]+(?:['.&][^\W_]+)*[+#]{0,2}")
_WIDE = re.compile(r"[\u0400-\u04ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")  # Cyrillic, too, for its many endings


def tokens(text: str) -> list[str]:
    """Words in lower case; `c++`, `c#`, `node.js` and `don't` are words."""
    return _TOKEN.findall(text.lower().replace("’", "'"))


def is_wide(text: str) -> bool:
    """Does it hold letters of a script whose words are not looked up by token?"""
    return not text.isascii() and _WIDE.search(text) is not None


class Lexicon:
    """The lists of one file."""

    def __init__(self, path: Path) -> None:
        lists: dict[str, list[str]] = {}
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
                        lists.setdefault(entry.replace("_", " "), []).append(name)
        self._lists = {entry: tuple(names) for entry, names in lists.items()}

    def entries(self, name: str, words: Sequence[str], text: str = "") -> list[str]:
        """The entries of one list that are among `words` or, for wide scripts, in `text`; for people to read."""
        triples = zip(words, words[1:], words[2:], strict=False)
        spoken = [*words, *map(" ".join, pairwise(words)), *map(" ".join, triples)]
        found = [entry for entry in spoken if name in self._lists.get(entry, ())]
        return list(dict.fromkeys([*found, *(entry for entry, own in self._wide if own == name and entry in text)]))

    def count(self, words: Sequence[str], text: str = "") -> dict[str, int]:
        """List name -> how many of its entries are among `words` or, for wide scripts, in `text`."""
        pairs = map(" ".join, pairwise(words))
        triples = map(" ".join, zip(words, words[1:], words[2:], strict=False))
        counts: dict[str, int] = {}
        for entry in {*words, *pairs, *triples} & self._lists.keys():
            for name in self._lists[entry]:
                counts[name] = counts.get(name, 0) + 1
        if is_wide(text):
            for entry, name in self._wide:
                if entry in text:
                    counts[name] = counts.get(name, 0) + 1
        return counts
