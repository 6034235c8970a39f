"""Read signatures.txt: the shapes by which programs that send requests are known, and what they put around an ask."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

_BEGINNING_CHARS = 120


@dataclass(slots=True)
class Signature:
    """Hold the shapes of one program."""

    name: str
    is_harness: bool = False
    headers: list[tuple[str, str]] = field(default_factory=list)  # (name, part of its value)
    system: list[str] = field(default_factory=list)
    ask: list[str] = field(default_factory=list)
    context: list[str] = field(default_factory=list)
    output: list[str] = field(default_factory=list)
    restart: list[str] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    behind: list[str] = field(default_factory=list)

    def restarts(self, text: str) -> bool:
        """Return True for a message of the user behind examples of the program, which are no turns of the user."""
        return self._begins(text, self.restart)

    def puts_in(self, text: str) -> bool:
        """Return True for a message of role user that the program wrote: context, or the output of a program."""
        return self._begins(text, self.context) or self._begins(text, self.output)

    def cut(self, text: str) -> str:
        """Return a message of the user without what the program wrote before and behind the ask."""
        for part in self.before:
            if text[: len(part)].lower() == part:
                text = text[len(part) :]
        if self.behind:
            lower = text.lower()
            text = text[: min((at for part in self.behind if (at := lower.find(part)) > 0), default=len(text))]
        return text

    @staticmethod
    def _begins(text: str, beginnings: list[str]) -> bool:
        return bool(beginnings) and text[:_BEGINNING_CHARS].lower().lstrip().startswith(tuple(beginnings))


class Signatures:
    """Hold the signatures and the lists of one file."""

    def __init__(self, path: Path) -> None:
        self.clients: list[Signature] = []
        self.lists: dict[str, list[str]] = {}
        lines: list[str] = []
        for line in path.read_text(encoding="utf-8").splitlines():
            title = re.match(r"\[(client )?([^\]]+)\]", line)
            if title and title[1]:
                self.clients.append(Signature(title[2]))
                lines = []
            elif title:
                lines = self.lists[title[2]] = []
            elif line and not line.startswith("#"):
                self._add(line, lines)
        self.acting_tools = frozenset(" ".join(self.lists["acting tools"]).split())
        self.ask_tags = frozenset(" ".join(self.lists["ask tags"]).split())

    def _add(self, line: str, lines: list[str]) -> None:
        """Read a line of a signature, or of a list."""
        if self.lists:
            lines.append(line)
            return
        signature, (kind, _, text) = self.clients[-1], line.partition(" ")
        if kind == "harness":
            signature.is_harness = True
        elif kind == "header":
            name, _, value = text.partition(" ")
            signature.headers.append((name, value))
        else:
            getattr(signature, kind).append(text)


SIGNATURES = Signatures(Path(__file__).with_name("signatures.txt"))
ASK_TAGS = SIGNATURES.ask_tags
OTHER = Signature("other")
