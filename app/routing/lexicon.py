"""Read word lists from text files, and tell which lists the words of a text belong to.

`[name]` opens a list.  An entry is a word, or a phrase of two or three words written with `_`.  Entries of scripts
without spaces are searched anywhere in the text.  All other look-ups are dictionary look-ups, so they are linear.
Phrases are looked up as tuples of words: joining the words would cost more than all look-ups together.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence, Set
from itertools import chain, pairwise
from pathlib import Path

# A word ends where Chinese, Japanese or Korean begins: `JavaScript` is a word of `JavaScriptで書いて`.
_UNSPACED = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_LETTERS = rf"[^\W_{_UNSPACED}]++"
_TOKEN = re.compile(rf"{_LETTERS}(?:['.&]{_LETTERS})*+[+#]{{0,2}}+|[{_UNSPACED}]++")
# Chinese, Japanese and Korean; Cyrillic and Arabic too, because their words have many forms; Devanagari, because
# its vowel signs are no letters for a regular expression.
_WIDE = re.compile(r"[\u0400-\u04ff\u0600-\u06ff\u0900-\u097f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")


def tokens(text: str) -> list[str]:
    """Return the words in lower case; `c++`, `c#`, `node.js` and `don't` are words."""
    return _TOKEN.findall(text.lower().replace("’", "'"))


def is_wide(text: str) -> bool:
    """Return True for a text with letters of a script whose words are not looked up by token."""
    return not text.isascii() and _WIDE.search(text) is not None


MISSPELT = "misspelt"  # a list whose words count with a letter left out, doubled or swapped as well

Entry = str | tuple[str, ...]  # a word, or the words of a phrase


class Lexicon:
    """Hold the word lists of one file."""

    def __init__(self, path: Path) -> None:
        lists: dict[Entry, list[str]] = {}
        self._wide: dict[str, list[tuple[str, str]]] = {}  # by the first character: most are not in a text
        name = ""
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("["):
                name = line[1 : line.index("]")]
            elif not line.startswith("#"):
                for entry in line.split():
                    if is_wide(entry):
                        self._wide.setdefault(entry[0], []).append((entry.replace("_", " "), name))
                    else:
                        lists.setdefault(tuple(entry.split("_")) if "_" in entry else entry, []).append(name)
        for word in [word for word, names in lists.items() if MISSPELT in names and isinstance(word, str)]:
            lists[word].remove(MISSPELT)
            for form in _misspellings(word):
                lists.setdefault(form, lists[word])
        self._lists = {entry: tuple(names) for entry, names in lists.items() if names}

    def words(self, name: str) -> frozenset[str]:
        """Return the single words of one list, without those of wide scripts."""
        return frozenset(entry for entry, names in self._lists.items() if isinstance(entry, str) and name in names)

    def entries(self, name: str, words: Sequence[str], text: str = "") -> list[str]:
        """Return the entries of one list that are among `words` or, for wide scripts, in `text`, as readable text."""
        entries = [entry for entry in _entries_of(words) if name in self._lists.get(entry, ())]
        phrases = [entry if isinstance(entry, str) else " ".join(entry) for entry in entries]
        wide = [entry for entry, list_name in self._wide_entries(text) if list_name == name]
        return list(dict.fromkeys([*phrases, *wide]))

    def first(self, words: Sequence[str], names: Set[str]) -> list[str]:
        """Return the lists, of those in `names`, that the first word with such a list belongs to."""
        for word in words:
            lists = [name for name in self._lists.get(word, ()) if name in names]
            if lists:
                return lists
        return []

    def count(self, words: Sequence[str], text: str = "") -> dict[str, int]:
        """Return for each list how many of its entries are among `words` or, for wide scripts, in `text`."""
        counts: dict[str, int] = {}
        for entry in self._lists.keys() & _entries_of(words):
            for name in self._lists[entry]:
                counts[name] = counts.get(name, 0) + 1
        for _, name in self._wide_entries(text):
            counts[name] = counts.get(name, 0) + 1
        return counts

    def _wide_entries(self, text: str) -> Iterator[tuple[str, str]]:
        """Yield the entries of wide scripts that are anywhere in `text`, each with the name of its list."""
        if is_wide(text):
            lower = text.lower()
            for first in self._wide.keys() & set(lower):
                for entry, name in self._wide[first]:
                    if entry in lower:
                        yield entry, name


def _entries_of(words: Sequence[str]) -> Iterator[Entry]:
    """Yield every possible entry: the words, then their pairs and triples."""
    return chain(words, pairwise(words), zip(words, words[1:], words[2:], strict=False))


def _misspellings(word: str) -> Iterator[str]:
    """Yield the word with a letter left out, doubled, or swapped with the next one; the first letter stays."""
    for index in range(1, len(word)):
        before, letter, after = word[:index], word[index], word[index + 1 :]
        yield before + after
        yield before + letter + letter + after
        yield before + after[:1] + letter + after[1:]
