"""Reads our own Markdown: code blocks, tables, links."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    language: str
    text: str
    line: int


@dataclass(frozen=True, slots=True)
class Document:
    path: Path
    text: str

    @classmethod
    def read(cls, name: str) -> Document:
        return cls(ROOT / name, (ROOT / name).read_text("utf-8"))

    def blocks(self, language: str) -> list[Block]:
        return [
            Block(language, textwrap.dedent(found["text"]), self.text.count("\n", 0, found.start()) + 1)
            for found in _FENCE.finditer(self.text)
            if found["language"] == language
        ]

    @property
    def prose(self) -> str:
        """The text without its code blocks."""
        return _FENCE.sub("", self.text)

    @property
    def links(self) -> list[str]:
        return _LINK.findall(self.prose)

    @property
    def anchors(self) -> set[str]:
        """What GitHub makes of the headings."""
        plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in _HEADING.findall(self.prose))
        return {heading.replace(" ", "-") for heading in plain}

    def rows(self, *titles: str) -> list[list[str]]:
        """The cells of the first table whose first titles are these."""
        lines = iter(self.text.splitlines())
        for line in lines:
            if line.startswith("|") and _cells(line)[: len(titles)] == list(titles):
                next(lines)  # the line of dashes
                return [_cells(row) for row in _until_blank(lines)]
        raise LookupError(f"{self.path.name} has no table {titles}")


def _until_blank(lines):
    for line in lines:
        if not line.startswith("|"):
            return
        yield line


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def names(cell: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)
