"""Server-sent events: the splitter gives the same events however the bytes were cut."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.wire import sse
from app.wire.sse import Splitter, data_of, json_of


def split(chunks: list[bytes], **options: int) -> list[bytes]:
    splitter = Splitter(**options)
    return [event for chunk in chunks for event in splitter.feed(chunk)] + splitter.flush()


EVENTS: list[tuple[str, bytes, list[bytes | None]]] = [
    ("one", b"data: a\n\n", [b"a"]),
    ("two", b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
    ("crlf", b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
    ("mixed line ends", b"data: a\r\n\ndata: b\n\r\ndata: c\n\n", [b"a", b"b", b"c"]),
    ("byte order mark", b"\xef\xbb\xbfdata: a\n\ndata: b\n\n", [b"a", b"b"]),
    ("no space", b"data:a\n\n", [b"a"]),
    ("one space is taken", b"data:  a \n\n", [b" a "]),
    ("several data lines", b"data: a\ndata: b\n\n", [b"a\nb"]),
    ("several data lines, crlf", b"data: a\r\ndata: b\r\n\r\n", [b"a\nb"]),
    ("event line", b"event: x\ndata: a\n\n", [b"a"]),
    ("id and retry", b"id: 1\nretry: 5\ndata: a\n\n", [b"a"]),
    ("comment", b": hello\n\ndata: a\n\n", [None, b"a"]),
    ("comment inside", b": hello\ndata: a\n: more\n\n", [b"a"]),
    ("empty lines", b"\n\n\n\ndata: a\n\n\n\n\ndata: b\n\n\n", [b"a", b"b"]),
    ("no end", b"data: a\n\ndata: b", [b"a", b"b"]),
    ("half an end", b"data: a\n\ndata: b\n", [b"a", b"b"]),
    ("half a crlf end", b"data: a\r\n\r\ndata: b\r\n\r", [b"a", b"b"]),
    ("empty data", b"data:\n\n", [b""]),
    ("bare field", b"data\n\n", [None]),
    ("other field", b"dataset: a\n\n", [None]),
    ("done", b"data: [DONE]\n\n", [b"[DONE]"]),
    ("utf-8", "data: né\U0001f600\n\n".encode(), ["né\U0001f600".encode()]),
    ("nothing", b"", []),
]


@pytest.mark.parametrize(("raw", "expected"), [row[1:] for row in EVENTS], ids=[row[0] for row in EVENTS])
def test_split_at_every_byte(raw: bytes, expected: list[bytes | None]) -> None:
    for at in range(len(raw) + 1):
        assert [data_of(event) for event in split([raw[:at], raw[at:]])] == expected
    assert [data_of(event) for event in split([raw[at : at + 1] for at in range(len(raw))])] == expected


LINE_END = st.sampled_from([b"\n", b"\r\n"])
FIELD = st.sampled_from([b"data: ", b"data:", b"event: ", b": ", b"id: ", b""])
VALUE = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=8).map(str.encode)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    raw = b""
    for _ in range(draw(st.integers(0, 4))):
        end = draw(LINE_END)
        for _ in range(draw(st.integers(0, 3))):
            raw += draw(FIELD) + draw(VALUE) + end
        raw += end
    return raw + draw(VALUE)


@given(bodies(), st.lists(st.integers(0, 60), max_size=6))
def test_cuts_do_not_matter(raw: bytes, marks: list[int]) -> None:
    marks = sorted(min(mark, len(raw)) for mark in marks)
    chunks = [raw[begin:end] for begin, end in zip([0, *marks], [*marks, len(raw)], strict=True)]
    assert split(chunks) == split([raw])


@given(bodies(), st.integers(1, 20), st.lists(st.integers(0, 60), max_size=6))
def test_cuts_do_not_matter_for_what_is_too_long(raw: bytes, longest: int, marks: list[int]) -> None:
    """Every event that is given out is short enough, and is one that an unbounded splitter gives."""
    marks = sorted(min(mark, len(raw)) for mark in marks)
    chunks = [raw[begin:end] for begin, end in zip([0, *marks], [*marks, len(raw)], strict=True)]
    whole = split([raw])
    kept = split(chunks, max_event_bytes=longest)
    assert all(len(event) <= longest for event in kept)
    rest = iter(whole)
    assert all(event in rest for event in kept)  # in order
    short = longest - 6  # line ends around an event count too
    assert [event for event in whole if len(event) <= short] == [event for event in kept if len(event) <= short]


def test_an_oversized_event_is_left_out_and_counted() -> None:
    long = b"data: " + b"x" * 100
    for size in (1, 7, 1000):
        raw = b"data: a\n\n" + long + b"\n\ndata: b\n\n" + long
        splitter = Splitter(max_event_bytes=50)
        events = [event for at in range(0, len(raw), size) for event in splitter.feed(raw[at : at + size])]
        assert events + splitter.flush() == [b"data: a", b"data: b"]
        assert splitter.oversized == 2


def test_memory_is_bounded_while_an_event_is_too_long() -> None:
    splitter = Splitter(max_event_bytes=1000)
    for _ in range(1000):
        assert splitter.feed(b"x" * 1000) == []
    assert len(splitter._open) <= 2000


def test_a_long_line_in_small_chunks_is_read_once() -> None:
    """Linear: 2 MB byte by byte would never end if every byte read all that came before."""
    raw = b"data: " + b"x" * 200_000 + b"\n\n"
    assert split([raw[at : at + 1] for at in range(len(raw))]) == [raw[:-2]]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"a": 1}', {"a": 1}),
        (b"[1]", None),
        (b"5", None),
        (b"[DONE]", None),
        (b"", None),
        (b"{", None),
        (b"\xff", None),
        (b'{"a": [NaN, -Infinity, Infinity, 1]}', {"a": [None, None, None, 1]}),
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
    ],
)
def test_json_of(data: bytes, expected: object) -> None:
    assert json_of(data) == expected


def test_json_of_takes_no_nesting_bomb() -> None:
    assert json_of(b'{"a":' * 100_000 + b"1" + b"}" * 100_000) is None


@given(st.dictionaries(st.text(max_size=5), st.text(st.characters(exclude_categories=[]), max_size=9), max_size=3))
def test_an_event_is_read_as_it_was_written(document: dict[str, str]) -> None:
    for name in (None, "response.created"):
        raw = sse.event(document, name)
        [event] = split([raw])
        assert raw.startswith(b"event: response.created\n") == bool(name)
        data = data_of(event)
        assert data is not None
        assert json_of(data) == json.loads(json.dumps(document))
