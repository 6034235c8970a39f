"""Read signatures.txt: the shapes by which programs that send requests are known, and what they put around an ask.

Shapes are compared in lower case.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_BEGINNING_CHARS = 200
_WRITTEN = ("compaction", "summary", "context", "output", "restart")
_TITLE = re.compile(r"\[(client )?([^\]]+)\]")


@dataclass(slots=True)
class Signature:
    """Hold the shapes of one program.  signatures.txt says what each of them means."""

    name: str
    is_harness: bool = False
    is_quoted: bool = False  # asks stand in double quotes
    headers: list[tuple[str, str]] = field(default_factory=list)  # (name, beginning of a word in its value)
    system: list[str] = field(default_factory=list)
    ask: list[str] = field(default_factory=list)
    background: list[str] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    behind: list[str] = field(default_factory=list)
    written: dict[str, str] = field(default_factory=dict)  # beginning of a text of role user -> its kind, of _WRITTEN
    beginnings: tuple[str, ...] = ()  # the keys of `written` …
    initials: frozenset[str] = frozenset()  # … and their first characters

    def kind_of(self, text: str) -> str:
        """Return what a text of role user is that the program wrote: context, output, restart, summary or compaction;
        "" for the words of the user."""
        first = text[:1]
        if first not in self.initials and not first.isspace():
            return ""
        head = even(text[:_BEGINNING_CHARS])
        if not head.startswith(self.beginnings):
            return ""
        return next(kind for beginning, kind in self.written.items() if head.startswith(beginning))

    @property
    def compaction(self) -> list[str]:
        """Return the beginnings of wishes for a summary of the conversation."""
        return [beginning for beginning, kind in self.written.items() if kind == "compaction"]

    def cut(self, text: str) -> str:
        """Return a message of the user without what the program wrote before and behind the ask."""
        if not (self.before or self.after or self.behind or self.is_quoted):
            return text
        for part in self.before:
            if text[: len(part)].lower() == part:
                text = text[len(part) :].lstrip()
        if self.after:
            lower = _lower(text)
            text = text[max((at + len(part) for part in self.after if (at := lower.rfind(part)) >= 0), default=0) :]
        if self.behind:
            lower = _lower(text)
            text = text[: min((at for part in self.behind if (at := lower.find(part)) > 0), default=len(text))]
        if self.is_quoted and (inner := text.strip())[:1] == '"' == inner[-1:] and len(inner) > 1:
            text = inner[1:-1]
        return text


def begins(text: str, beginnings: Sequence[str]) -> bool:
    """Return True when a text begins with one of some texts in lower case."""
    return bool(beginnings) and even(text[:_BEGINNING_CHARS]).startswith(tuple(beginnings))


def even(text: str) -> str:
    """Return a text in lower case, with one space for all white space between two words."""
    return " ".join(text.lower().split())


def _lower(text: str) -> str:
    """Return a text in lower case when every character keeps its place; else the text."""
    lower = text.lower()
    return lower if len(lower) == len(text) else text


class Signatures:
    """Hold the signatures and the lists of one file."""

    def __init__(self, path: Path) -> None:
        self.clients: list[Signature] = []
        lists: dict[str, list[str]] = {}
        lines: list[str] | None = None  # of the list that is open
        for line in path.read_text(encoding="utf-8").splitlines():
            title = _TITLE.match(line)
            if title and title[1]:
                self.clients.append(Signature(title[2]))
            elif title:
                lines = lists[title[2]] = []
            elif line and not line.startswith("#"):
                if lines is None:
                    _add(self.clients[-1], line)
                else:
                    lines.append(line)
        self.acting_tools = _words(lists["acting tools"])
        self.tool_verbs = _words(lists["tool verbs"])
        self.tool_things = _words(lists["tool things"])
        self.acting_words = _words(lists["acting words"])
        self.hosted_tools = _words(lists["hosted tools"])
        self.ask_tags = _words(lists["ask tags"])
        self.plain_ask_tags = _words(lists["plain ask tags"])
        self.background = lists["background"]
        self.transcript = lists["transcript"]
        self.gaps = lists["gaps"]


def _add(signature: Signature, line: str) -> None:
    """Add a line of the file to a signature."""
    kind, _, text = line.partition(" ")
    if kind == "harness":
        signature.is_harness = True
    elif kind == "quoted":
        signature.is_quoted = True
    elif kind == "header":
        name, _, value = text.partition(" ")
        signature.headers.append((name, value))
    elif kind in _WRITTEN:
        signature.written[text] = kind
        signature.beginnings = tuple(signature.written)
        signature.initials |= {text[0], text[0].upper()}
    else:
        getattr(signature, kind).append(text)


def _words(lines: Iterable[str]) -> frozenset[str]:
    return frozenset(" ".join(lines).split())


SIGNATURES = Signatures(Path(__file__).with_name("signatures.txt"))
OTHER = Signature("other")
