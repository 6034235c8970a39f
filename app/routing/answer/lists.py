"""Read the word lists about answers from words.txt: what stands before a final answer, yes and no, hedges, articles."""

from __future__ import annotations

from pathlib import Path


def _lists() -> dict[str, tuple[str, ...]]:
    lists: dict[str, list[str]] = {}
    entries: list[str] = []
    for line in Path(__file__).with_name("words.txt").read_text("utf-8").splitlines():
        if line.startswith("["):
            entries = lists.setdefault(line[1 : line.index("]")], [])
        elif line and not line.startswith("#"):
            entries.append(line)
    return {name: tuple(dict.fromkeys(entries)) for name, entries in lists.items()}


WORDS = _lists()
