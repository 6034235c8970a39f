"""Log-probabilities are cut out of replies, and all other bytes stay the same, wherever the pieces are cut."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest

from app.types import Wire
from app.wire import WIRES
from app.wire.json_cut import members_at
from app.wire.logprobs import StreamCut
from tests.linear import problem_of

ENTRIES = (
    r'{"content": [{"token": "\"}]", "logprob": -0.5, "bytes": [34], "top_logprobs": [{"token": "x", "logprob": -1}]}'
    r', {"token": "logprobs", "logprob": -2, "bytes": null}], "refusal": null}'
)
VALUES = [-0.5, -2.0]
# Texts of a choice; L is where the member stands, with the comma that belongs to it.
CHOICES = [
    '{"index":0,"delta":{"content":"hello"}L,"finish_reason":null}',
    '{"index":0,"delta":{"content":"hello"},"finish_reason":null L}',
    '{F"index":0,"delta":{"content":"hello"}}',
    '{ F"index": 0, "delta": {"content": "a\\"logprobs\\": {"} , "finish_reason" : null }',
    '{"index":0,"message":{"content":"ü 😀 \\ud83d"}L,"finish_reason":"stop"}',
    '{"delta":{"tool_calls":[{"function":{"name":"f","arguments":"{\\"logprobs\\":{\\"content\\":[]}}"}}]}L}',
    '{"delta":{"content":"x","logprobs":{"content":[{"logprob":-9}]}} L}',
    '{"delta":{},"finish_reason":"stop" , "stop_reason" : NaN L}',
    '{"delta":{"content":"line\ttab"}L}',
]
AROUND = [
    '{"id":"1","choices":[C],"usage":null}',
    '{ "choices" : [ C ] , "id" : "\\\\" }',
    '{"logprobs":{"content":[{"logprob":-8}]},"choices":[C],"x":{"choices":[{"logprobs":{}}]},"n":12345678901234567890.5}',
    '{"choices":[null, C, 7, {}, [], { }]}',
]


def put(text: str, value: str | None) -> bytes:
    """A text with the member, or without it."""
    first, later = ("", "") if value is None else (f'"logprobs": {value} , ', f', "logprobs":{value}')
    return text.replace("F", first).replace("L", later).encode()


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("choice", CHOICES)
def test_a_chat_reply(choice: str, around: str) -> None:
    text = around.replace("C", choice)
    part = WIRES[Wire.CHAT].logprobs.whole(put(text, ENTRIES), "")
    assert part.raw == put(text, None)
    assert [*part.logprobs] == VALUES


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("choice", CHOICES)
def test_null_stays_where_a_server_writes_it(choice: str, around: str) -> None:
    text = around.replace("C", choice)
    for value, values in ((ENTRIES, VALUES), ("null", []), ('{"content":null}', [])):
        part = WIRES[Wire.CHAT].logprobs.whole(put(text, value), "null")
        assert part.raw == put(text, "null")
        assert [*part.logprobs] == values


def test_the_values_are_those_of_the_first_choice() -> None:
    text = '{"choices":[{"index":1,"delta":{"content":"b"}L},{"index":0,"delta":{"content":"a"}L}]}'
    other = ENTRIES.replace("-0.5", "-7")
    raw = text.replace("L", f',"logprobs":{other}', 1).replace("L", f',"logprobs":{ENTRIES}').encode()
    part = WIRES[Wire.CHAT].logprobs.whole(raw, "")
    assert (part.raw, [*part.logprobs]) == (put(text, None), VALUES)


LINES = [
    '{"model":"m","message":{"role":"assistant","content":"hello"},"done":falseL}',
    '{F"message":{"content":"\\"logprobs\\":[]"},"done":true}',
    '{"message":{"content":"","tool_calls":[{"function":{"name":"f","arguments":{"logprobs":[{"logprob":-9}]}}}]}L}',
    '{"message":{"content":"","thinking":"hm"} L , "done" : false}',
]
OLLAMA_ENTRIES = '[{"token": "]}", "logprob": -0.5}, {"token": "x", "logprob": -2, "bytes": [120]}]'


@pytest.mark.parametrize("line", LINES)
def test_a_reply_of_ollama(line: str) -> None:
    part = WIRES[Wire.OLLAMA].logprobs.whole(put(line, OLLAMA_ENTRIES), "")
    assert (part.raw, [*part.logprobs]) == (put(line, None), VALUES)


def cut_in_pieces(wire: Wire, raw: bytes, size: int, absent: str = "") -> tuple[bytes, list[float]]:
    cut: StreamCut = WIRES[wire].logprobs.stream(absent)
    out = b"".join(cut.feed(raw[start : start + size]) for start in range(0, len(raw), size)) + cut.end()
    return out, cut.logprobs


def events(chunks: Iterable[str], value: str | None) -> bytes:
    """A stream of chat events with comments and other fields."""
    other = [b": keep-alive\n", b"\xef\xbb\xbf", b"event: x\nid: 7\n", b"", b"retry: 5\r\n\r\n"]
    raw = b""
    for number, chunk in enumerate(chunks):
        mark = b"\r\n\r\n" if number % 3 == 2 else b"\n\n"
        raw += other[number % 5] + (b"data: ", b"data:")[number % 2] + put(chunk, value) + mark
    return raw + b"data: [DONE]\n\n"


CHUNKS = [around.replace("C", choice) for choice in CHOICES for around in AROUND[:2] if "\t" not in choice]


@pytest.mark.parametrize("absent", ["", "null"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 100, 100_000])
def test_a_stream_of_events(size: int, absent: str) -> None:
    out, values = cut_in_pieces(Wire.CHAT, events(CHUNKS, ENTRIES), size, absent)
    assert out == events(CHUNKS, absent or None)
    assert values == VALUES * len(CHUNKS)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100, 100_000])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_stream_of_lines(size: int, end: bytes) -> None:
    raw, plain = (end.join([put(line, value) for line in LINES]) for value in (OLLAMA_ENTRIES, None))
    for last in (end, b""):
        assert cut_in_pieces(Wire.OLLAMA, raw + last, size) == (plain + last, VALUES * len(LINES))


def chunk(*, finish: str | None = None, usage: Any = None, **delta: Any) -> dict[str, Any]:
    document = {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
    return document | ({"usage": usage} if usage else {})


# Parts of a stream: True = a server sends it only to carry log-probabilities.
BARE: list[tuple[Wire, dict[str, Any], bool]] = [
    (Wire.CHAT, chunk(role="assistant", content=""), True),
    (Wire.CHAT, chunk(role="assistant", content=None), True),
    (Wire.CHAT, chunk(), True),
    (Wire.CHAT, chunk(role="assistant", content=" "), False),
    (Wire.CHAT, chunk(reasoning="h"), False),
    (Wire.CHAT, chunk(refusal="no"), False),
    (Wire.CHAT, chunk(tool_calls=[{}]), False),
    (Wire.CHAT, chunk(finish="stop", content=""), False),
    (Wire.CHAT, chunk(content="", usage={"prompt_tokens": 1}), False),
    (Wire.CHAT, {"choices": [{"index": 0, "message": {"content": ""}}]}, False),
    (Wire.OLLAMA, {"message": {"role": "assistant", "content": ""}, "done": False}, True),
    (Wire.OLLAMA, {"message": {"role": "assistant", "content": "a"}, "done": False}, False),
    (Wire.OLLAMA, {"message": {"role": "assistant", "content": "", "thinking": "h"}, "done": False}, False),
    (Wire.OLLAMA, {"message": {"content": "", "tool_calls": [{}]}, "done": False}, False),
    (Wire.OLLAMA, {"message": {"role": "assistant", "content": ""}, "done": True}, False),
]


@pytest.mark.parametrize(("wire", "document", "is_bare"), BARE)
def test_a_part_that_only_carries_them_is_left_out(wire: Wire, document: dict[str, Any], is_bare: bool) -> None:
    entries = [{"token": "t", "logprob": -1}]
    with_them = json.loads(json.dumps(document))
    if wire is Wire.CHAT:
        with_them["choices"][0]["logprobs"] = {"content": entries}
    else:
        with_them["logprobs"] = entries

    def raw(part: dict[str, Any]) -> bytes:
        text = json.dumps(part).encode()
        return b"data: " + text + b"\n\n" if wire is Wire.CHAT else text + b"\n"

    assert cut_in_pieces(wire, raw(with_them), 9) == (b"" if is_bare else raw(document), [-1.0])
    assert cut_in_pieces(wire, raw(document), 9) == (raw(document), [])  # a server sends it without them too
    if wire is Wire.CHAT:  # a server with null there sends it in any case
        kept, _ = cut_in_pieces(wire, raw(with_them), 9, "null")
        with_them["choices"][0]["logprobs"] = None
        assert kept == raw(with_them)


def test_data_of_several_lines_is_written_again() -> None:
    raw = b'event: x\ndata: {"choices":[{"delta":{"content":"a"},\ndata:"logprobs":{"content":[{"logprob":-1}]}}]}\n\n'
    out, values = cut_in_pieces(Wire.CHAT, raw, 5)
    assert out == b'event: x\ndata: {"choices":[{"delta":{"content":"a"}}]}\n\n'
    assert values == [-1.0]


ODD = [
    b"",
    b"{",
    b'{"logprobs"',
    b'{"logprobs":',
    b'{"choices":[{"logprobs":{"content":[',
    b'{"choices":[{"logprobs":{}',
    b'{"choices":{"logprobs":1}}',
    b'{"choices":"logprobs"}',
    b'{"choices":[{"index":[],"logprobs":[]}]',
    b'["logprobs"]',
    b'"logprobs"',
    b'\xff\xfe{"logprobs":1}',
    b'{"logprobs":' + b"[" * 100_000,
    b'{"choices":[' + b'{"choices":[' * 50_000 + b'"logprobs"',
    b'{"message":[],"logprobs":{"x":1}}',
    b'{,"logprobs":1}',
    b'{"a":1 "logprobs":1}',
]


@pytest.mark.parametrize("wire", [Wire.CHAT, Wire.OLLAMA])
def test_odd_bytes_raise_nothing(wire: Wire) -> None:
    for raw in ODD:
        WIRES[wire].logprobs.whole(raw, "")
        for sent in (raw, b"data: " + raw, b"data: " + raw + b"\n\n"):
            out, _ = cut_in_pieces(wire, sent, 1000)
            assert b'"logprobs"' not in raw or out == sent or len(out) < len(sent)


def test_bytes_that_are_no_text_stay_the_same() -> None:
    raw = b'{"choices":[{"delta":{"content":"\xff\xc3"}%b}]}'
    part = WIRES[Wire.CHAT].logprobs.whole(raw % f',"logprobs":{ENTRIES}'.encode(), "")
    assert part.raw == raw % b""


def test_members_have_their_places() -> None:
    text = ' { "a" : 1 , "\\u0062": [2] }'
    first, second = members_at(text, 0)
    assert (first.name, first.value, text[first.start : first.end]) == ("a", 1, '"a" : 1')
    assert (second.name, second.value, text[second.comma], text[second.value_start : second.end]) == (
        "b",
        [2],
        ",",
        "[2]",
    )
    assert members_at("{ }", 0) == []
    for broken in ("[]", "", ", ", "7"):
        with pytest.raises(ValueError, match="no object"):
            members_at(broken, 0)


@pytest.mark.parametrize("wire", [Wire.CHAT, Wire.OLLAMA])
@pytest.mark.parametrize("size", [3, 10_000])
def test_the_work_is_linear(wire: Wire, size: int) -> None:
    chunk = put('{"choices":[{"delta":{"content":"hello"}L}],"message":{"content":"x"}L}', '{"content":[]}')
    raw = (b"data: " + chunk + b"\n\n") if wire is Wire.CHAT else chunk + b"\n"

    def make(times: int):
        return lambda: cut_in_pieces(wire, raw * times, size)

    def make_open(times: int):
        return lambda: cut_in_pieces(wire, b"data: " + b"x" * times * 100, size)

    assert not problem_of(make, 50, 400)
    assert not problem_of(make_open, 50, 400)
