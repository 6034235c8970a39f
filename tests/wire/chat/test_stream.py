"""What a stream says about itself, however its bytes were cut on the way."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.wire.chat.reply import as_chunk
from app.wire.chat.stream import StreamWatch

HELLO = b'data: {"choices":[{"index":0,"delta":{"content":"hel"},"finish_reason":null}]}'
STOP = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}'
DONE = b"data: [DONE]"
ERROR = b'data: {"error":{"message":"out of memory","type":"server_error","code":null}}'


def watch(*pieces: bytes) -> StreamWatch:
    made = StreamWatch()
    for piece in pieces:
        made.feed(piece)
    return made


def facts(made: StreamWatch) -> dict[str, Any]:
    return {
        "begun": made.has_event,
        "done": made.has_end,
        "finished": made.facts.finish is not None,
        "error": "" if made.error is None else made.error["error"],
        "tokens": (made.input_tokens, made.output_tokens),
        "ended_well": made.ended_well,
    }


NOTHING = {
    "begun": False, "done": False, "finished": False, "error": "", "tokens": (None, None), "ended_well": False,
}  # fmt: skip
OUT_OF_MEMORY = {"message": "out of memory", "type": "server_error", "code": None}

STREAMS = {
    "nothing yet": (b"", {}),
    "an unfinished event": (HELLO, {}),
    "comments and other fields": (b": hi\n\nid: 3\n\nevent: ping\n\nretry: 5\n\n", {}),
    "empty lines": (b"\n\n\r\n\r\n\n\n", {}),
    "a first event": (HELLO + b"\n\n", {"begun": True}),
    "a first event behind comments": (b": wait\n\n: wait\n\n" + HELLO + b"\n\n", {"begun": True}),
    "a comment in the event": (b": x\n" + HELLO + b"\n\n", {"begun": True}),
    "only [DONE]": (DONE + b"\n\n", {"done": True, "ended_well": True}),
    "a whole stream": (
        b"\n\n".join((HELLO, STOP, USAGE, DONE, b"")),
        {"begun": True, "done": True, "finished": True, "tokens": (7, 3), "ended_well": True},
    ),
    "a whole stream in CRLF": (
        b"\r\n\r\n".join((HELLO, STOP, USAGE, DONE, b"")),
        {"begun": True, "done": True, "finished": True, "tokens": (7, 3), "ended_well": True},
    ),
    "no space behind the colon": (
        b"\n\n".join((HELLO, STOP, USAGE, DONE, b"")).replace(b"data: ", b"data:"),
        {"begun": True, "done": True, "finished": True, "tokens": (7, 3), "ended_well": True},
    ),
    "without [DONE]": (
        b"\n\n".join((HELLO, STOP, b"")),
        {"begun": True, "finished": True, "ended_well": True},
    ),
    "a cut stream": (b"\n\n".join((HELLO, HELLO, b"")), {"begun": True}),
    "usage beside the last piece": (
        b'data: {"choices":[{"finish_reason":"length"}],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n',
        {"begun": True, "finished": True, "tokens": (1, 2), "ended_well": True},
    ),
    "usage in every piece: the last counts": (
        b'data: {"usage":{"prompt_tokens":7,"completion_tokens":1}}\n\n'
        b'data: {"usage":{"prompt_tokens":7,"completion_tokens":2}}\n\n'
        b'data: {"usage":null}\n\n',
        {"begun": True, "tokens": (7, 2)},
    ),
    "an error event": (ERROR + b"\n\n", {"begun": True, "error": OUT_OF_MEMORY}),
    "an error event behind an event line": (
        b"event: error\n" + ERROR + b"\n\n",
        {"begun": True, "error": OUT_OF_MEMORY},
    ),
    "an error in mid-stream": (
        b"\n\n".join((HELLO, ERROR, DONE, b"")),
        {"begun": True, "done": True, "error": OUT_OF_MEMORY},
    ),
    "an error that is none": (
        b'data: {"choices":[{"delta":{"content":"x"}}],"error":null}\n\n',
        {"begun": True},
    ),
    "text about errors, usage and ends": (
        b'data: {"delta":{"content":"\\"error\\": 1, \\"usage\\", \\"finish_reason\\":\\"stop\\" [DONE]"}}\n\n',
        {"begun": True},
    ),
    "an event in two data lines": (
        b'data: {"choices":[],\ndata: "usage":{"prompt_tokens":4,"completion_tokens":5}}\n\n',
        {"begun": True, "tokens": (4, 5)},
    ),
    "garbage in the data": (b'data: {"error" "usage"\n\n', {"begun": True}),
    "a list in the data": (b'data: ["error"]\n\n', {"begun": True}),
    "not UTF-8": (b'data: {"usage": "\xff"}\n\n', {"begun": True}),
}


@pytest.mark.parametrize("name", STREAMS)
def test_what_a_stream_says(name: str) -> None:
    body, said = STREAMS[name]
    assert facts(watch(body)) == {**NOTHING, **said}


@pytest.mark.parametrize("name", STREAMS)
def test_it_says_the_same_however_it_is_cut(name: str) -> None:
    body, said = STREAMS[name]
    for at in range(len(body) + 1):
        assert facts(watch(body[:at], body[at:])) == {**NOTHING, **said}
    assert facts(watch(*(body[at : at + 1] for at in range(len(body))))) == {**NOTHING, **said}


@given(st.data())
def test_it_says_the_same_under_any_cuts(data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from(sorted(STREAMS)), min_size=1, max_size=4))
    body = b"\n\n".join(STREAMS[name][0] for name in names)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=12)))
    pieces = [body[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    assert facts(watch(*pieces)) == facts(watch(body))


@pytest.mark.parametrize(
    "body, closing, done, finish",
    [
        (DONE, b"\n\n", True, None),
        (DONE + b"\n", b"\n", True, None),
        (DONE + b"\n\n", b"", True, None),
        (HELLO + b"\n\n" + STOP, b"\n\ndata: [DONE]\n\n", False, "stop"),
        (STOP, b"\n\ndata: [DONE]\n\n", False, "stop"),
        (STOP + b"\n\n", b"data: [DONE]\n\n", False, "stop"),
    ],
)
@pytest.mark.parametrize("times", [1, 2])
def test_a_body_is_given_the_end_that_it_lacks(
    body: bytes, closing: bytes, done: bool, finish: str | None, times: int
) -> None:
    made = watch(body)
    for _ in range(times):  # while the first event is waited for, and behind the last
        made.end()
    assert made.ended_well
    assert (made.closing, made.has_end, made.facts.finish) == (closing, done, finish)


@pytest.mark.parametrize("body", [HELLO, HELLO + b"\n\n", b": comment", b"", b"\n"])
def test_a_body_without_an_end_is_not_whole(body: bytes) -> None:
    made = watch(body)
    made.end()
    assert not made.ended_well


def test_an_error_at_the_very_end_is_seen() -> None:
    made = watch(HELLO + b"\n\n" + STOP + b"\n\n" + ERROR)
    assert made.ended_well
    made.end()
    assert not made.ended_well


def test_an_event_too_long_to_read_still_begins_the_answer() -> None:
    huge = b'data: {"choices":[{"delta":{"content":"' + b"x" * 1_100_000
    made = watch(*(huge[at : at + 65536] for at in range(0, len(huge), 65536)), b'"}}]}\n\n')
    assert made.has_event
    made.feed(USAGE + b"\n\n" + DONE + b"\n\n")
    assert (made.input_tokens, made.output_tokens, made.has_end) == (7, 3, True)


# --- a whole answer as a stream -----------------------------------------------------------------


@pytest.mark.parametrize(
    "document, chunk",
    [
        (
            {
                "id": "c1",
                "object": "chat.completion",
                "model": "m",
                "x_new": [1],
                "choices": [
                    {
                        "index": 0,
                        "message": {"role": "assistant", "content": "hi"},
                        "finish_reason": "stop",
                        "logprobs": 1,
                    }
                ],
                "usage": {"prompt_tokens": 1},
            },
            {
                "id": "c1",
                "object": "chat.completion.chunk",
                "model": "m",
                "x_new": [1],
                "choices": [
                    {
                        "index": 0,
                        "finish_reason": "stop",
                        "logprobs": 1,
                        "delta": {"role": "assistant", "content": "hi"},
                    }
                ],
                "usage": {"prompt_tokens": 1},
            },
        ),
        (
            {"choices": [{"message": {"tool_calls": [{"id": "a"}, {"id": "b", "index": 7}, "junk"]}}]},
            {
                "object": "chat.completion.chunk",
                "choices": [{"delta": {"tool_calls": [{"index": 0, "id": "a"}, {"index": 7, "id": "b"}]}}],
            },
        ),
        ({}, {"object": "chat.completion.chunk", "choices": []}),
        *(
            ({"choices": wrong}, {"object": "chat.completion.chunk", "choices": []})
            for wrong in (None, 3, True, "x", {})
        ),
        ({"choices": [3, {}]}, {"object": "chat.completion.chunk", "choices": [{"delta": {}}]}),
        ({"choices": [{"message": None}]}, {"object": "chat.completion.chunk", "choices": [{"delta": {}}]}),
    ],
)
def test_a_whole_answer_becomes_one_chunk(document: dict[str, Any], chunk: dict[str, Any]) -> None:
    before = json.dumps(document)
    assert as_chunk(document) == chunk
    assert json.dumps(document) == before
