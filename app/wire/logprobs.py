"""Take log-probabilities out of replies: the router asked for them to judge the answer, and the client did not.

All other bytes stay the same.  A part of a stream that a server sends only to carry them is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from app.wire import sse
from app.wire.answer import logprobs_in
from app.wire.json_cut import Member, members_at, objects_at, span_of, without_spans

_MEMBER = "logprobs"
_MARK = b'"logprobs"'
_MOST_OPEN_BYTES = 16 * 1024 * 1024  # of an event or a line whose end has not arrived; a longer one is not changed
_DATA = re.compile(rb"^(?:\xef\xbb\xbf)?data: ?([^\r\n]*+)", re.MULTILINE)
_LINE_END = re.compile(rb"\n")


@dataclass(frozen=True, slots=True)
class Part:
    """Hold a whole reply, an event or a line, without its log-probabilities."""

    raw: bytes
    logprobs: tuple[float, ...] = ()  # of the first choice
    is_empty: bool = False  # it carried nothing else


def cut_chat(raw: bytes, absent: str) -> Part:
    """Cut them out of a completion or a chunk."""
    return _cut(raw, absent, _of_choices)


def cut_event(raw: bytes, absent: str) -> Part:
    """Cut them out of a server-sent event of the chat API."""
    lines = list(_DATA.finditer(raw)) if _MARK in raw else []
    if len(lines) != 1:
        return _cut_lines(raw, absent) if lines else Part(raw)
    (data,) = lines
    part = cut_chat(data[1], absent)
    return Part(raw[: data.start(1)] + part.raw + raw[data.end(1) :], part.logprobs, part.is_empty)


def _cut_lines(raw: bytes, absent: str) -> Part:
    """Cut them out of an event whose data has several lines.  No known server sends it, so it is written again."""
    part = cut_chat(sse.data_of(raw) or b"", absent)
    document = sse.json_of(part.raw)
    return Part(raw) if document is None else Part(sse.with_data(raw, document), part.logprobs, part.is_empty)


def cut_ollama(raw: bytes, absent: str) -> Part:
    """Cut them out of a reply or a line of /api/chat."""
    return _cut(raw, absent, _of_line)


@dataclass(slots=True)
class _Places:
    """Hold the places of log-probabilities in a text, and their values."""

    spans: list[tuple[int, int]]
    logprobs: list[float]
    is_empty: bool


def _cut(raw: bytes, absent: str, find: Callable[[str, str], _Places]) -> Part:
    if _MARK not in raw:
        return Part(raw)
    text = raw.decode("utf-8", "surrogateescape")
    try:
        places = find(text, absent)
    except (ValueError, RecursionError):  # it is no JSON: clients cannot read it either
        return Part(raw)
    if not places.spans:
        return Part(raw)
    cut = without_spans(text, places.spans, absent).encode("utf-8", "surrogateescape")
    return Part(cut, tuple(places.logprobs), places.is_empty and not absent)


def _place(members: list[Member], absent: str) -> tuple[int, int] | None:
    """Return the part of a text to replace: the value, or the whole member."""
    if not absent:
        return span_of(members, _MEMBER)
    return next(((member.value_start, member.end) for member in members if member.name == _MEMBER), None)


def _of_choices(text: str, absent: str) -> _Places:
    places = _Places([], [], is_empty=True)
    for top in members_at(text, 0):
        if top.name == "choices":
            for members in objects_at(text, top.value_start):
                _read_choice({member.name: member.value for member in members}, places)
                if place := _place(members, absent):
                    places.spans.append(place)
        elif top.name == "usage" and top.value:
            places.is_empty = False
    return places


def _read_choice(choice: Mapping[str, object], places: _Places) -> None:
    entries = choice.get(_MEMBER)
    if choice.get("index") in (None, 0) and isinstance(entries, Mapping):
        places.logprobs += logprobs_in(entries.get("content"))
    delta = choice.get("delta")
    is_bare = isinstance(delta, Mapping) and not any(value for name, value in delta.items() if name != "role")
    places.is_empty = places.is_empty and is_bare and not choice.get("finish_reason")


def _of_line(text: str, absent: str) -> _Places:
    members = members_at(text, 0)
    line = {member.name: member.value for member in members}
    message = line.get("message")
    is_bare = isinstance(message, Mapping) and not any(value for name, value in message.items() if name != "role")
    place = _place(members, absent)
    return _Places([place] if place else [], logprobs_in(line.get(_MEMBER)), is_bare and not line.get("done"))


class StreamCut:
    """Cut the log-probabilities out of a stream; a piece may end anywhere.  The work is linear in the bytes."""

    def __init__(self, end_mark: re.Pattern[bytes], cut: Callable[[bytes, str], Part], absent: str) -> None:
        """Take the pattern that ends a part, and the function that cuts one."""
        self.logprobs: list[float] = []
        self.parts = 0
        self._end_mark = end_mark
        self._cut = cut
        self._absent = absent
        self._open = bytearray()  # the part whose end has not arrived

    def feed(self, piece: bytes) -> bytes:
        """Return the parts that a piece completes."""
        offset = max(0, len(self._open) - 2)  # an end mark may be cut in two
        self._open += piece
        parts, start = [], 0
        for mark in self._end_mark.finditer(self._open, offset):
            parts.append(self._read(bytes(self._open[start : mark.end()])))
            start = mark.end()
        del self._open[:start]
        if len(self._open) > _MOST_OPEN_BYTES:
            parts.append(bytes(self._open))
            self._open.clear()
        return b"".join(parts)

    def end(self) -> bytes:
        """Return the part without an end mark, at the end of the body."""
        rest = bytes(self._open)
        self._open.clear()
        return self._read(rest) if rest else b""

    def _read(self, raw: bytes) -> bytes:
        part = self._cut(raw, self._absent)
        self.parts += 1
        self.logprobs += part.logprobs
        return b"" if part.is_empty else part.raw


@dataclass(frozen=True, slots=True)
class LogprobsForm:
    """Tell how a wire form carries log-probabilities.  `absent` is the value of `logprobs` in replies without them, as
    JSON; empty: they do not have the member."""

    whole: Callable[[bytes, str], Part]
    part: Callable[[bytes, str], Part]
    end_mark: re.Pattern[bytes]  # of a part of a stream

    def stream(self, absent: str) -> StreamCut:
        """Return a cut for one stream."""
        return StreamCut(self.end_mark, self.part, absent)


CHAT = LogprobsForm(cut_chat, cut_event, sse.EVENT_END)
OLLAMA = LogprobsForm(cut_ollama, cut_ollama, _LINE_END)
