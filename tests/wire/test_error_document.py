"""The one test for errors, and the one table of finish reasons: the same for a first event, a later one and a whole
answer, for chat and for Responses."""

from __future__ import annotations

from typing import Any

import pytest

from app import finish
from app.types import JsonObject
from app.wire import sse
from app.wire.chat.reply import read_reply
from app.wire.chat.stream import StreamWatch
from app.wire.error_document import error_fields, error_in, error_of
from app.wire.responses.stream import ResponsesWatch
from tests.wire.streams import answer as whole
from tests.wire.streams import delta, events_of, final, kinds, response_of, text

# (name of the event, document, what the backend said)
ERRORS: dict[str, tuple[bytes, Any, str | None]] = {
    "object": (b"", {"error": {"message": "oom", "code": 500}}, "oom"),
    "object under event: error": (b"error", {"error": {"message": "oom"}}, "oom"),
    "string": (b"", {"error": "oom"}, "oom"),
    "beside empty choices": (b"", {"choices": [], "error": {"message": "oom"}}, "oom"),
    "beside a choice": (
        b"",
        {"choices": [{"delta": {}, "finish_reason": "error"}], "error": {"message": "oom"}},
        "oom",
    ),
    "object: error": (b"", {"object": "error", "message": "oom", "type": "InternalServerError", "code": 500}, "oom"),
    "type: error": (b"", {"type": "error", "code": "oom", "message": "oom", "param": None}, "oom"),
    "type: error, nested": (b"", {"type": "error", "error": {"type": "overloaded_error", "message": "oom"}}, "oom"),
    "code and details under event: error": (b"error", {"code": 13, "details": "oom"}, "oom"),
    "message under event: error": (b"error", {"message": "oom"}, "oom"),
    "no word under event: error": (b"error", {}, None),
    "code and message": (b"", {"code": "InvalidApiKey", "message": "oom", "request_id": "1"}, "oom"),
    "code and details": (b"", {"code": 13, "details": "oom"}, "oom"),
    "detail": (b"", {"detail": "oom"}, "oom"),
    "detail of a check": (b"", {"detail": [{"loc": ["body", "x"], "msg": "oom"}, 3]}, "body.x: oom"),
    "problem document": (b"", {"type": "about:blank", "title": "x", "status": 500, "detail": "oom"}, "oom"),
    "errors": (b"", {"success": False, "errors": [{"code": 1, "message": "oom"}]}, None),
}
ANSWERS: dict[str, Any] = {
    "a chunk": delta(content="x"),
    "error is null": delta(content="x") | {"error": None},
    "error is empty": delta(content="x") | {"error": {}},
    "error is false": delta(content="x") | {"error": False},
    "a choice with an error of null": {"choices": [{"delta": {"content": "x"}, "error": None}]},
    "detail beside choices": delta(content="x") | {"detail": "fast", "code": 7, "message": "fine"},
    "text about errors": delta(content='{"error": {"message": "x"}} "detail": 1'),
    "an argument called error": delta(tool_calls=[{"index": 0, "function": {"arguments": '{"error": true}'}}]),
    "usage": {"choices": [], "usage": {"prompt_tokens": 1}},
    "nothing": {},
    "an id": {"id": "x", "object": "chat.completion.chunk"},
    "code of success": {"code": 200, "message": "ok"},
    "code 0": {"code": 0, "message": "ok"},
    "a Response": {"object": "response", "error": None, "detail": "x", "status": "completed"},
    "a Responses event": {"type": "response.output_text.delta", "delta": "error", "detail": "x"},
    "a Responses event with code": {"type": "response.code_interpreter_call_code.done", "code": "1", "message": "x"},
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    event, document, said = ERRORS[name]
    assert error_of(document, event) == document
    assert error_fields(document)["message"] == said


@pytest.mark.parametrize("name", ANSWERS)
def test_parts_of_answers_are_no_errors(name: str) -> None:
    assert error_of(ANSWERS[name]) is None


def event_bytes(name: bytes, document: JsonObject) -> bytes:
    return sse.event(document, name.decode() or None)


@pytest.mark.parametrize("first", [True, False], ids=["first", "later"])
@pytest.mark.parametrize("name", ERRORS)
def test_streams_of_both_apis_see_them(name: str, first: bool) -> None:
    event, document, said = ERRORS[name]
    for watch, before in (
        (StreamWatch(), sse.event(delta(content="x"))),
        (ResponsesWatch(), sse.event({"type": "response.created", "response": {}}, "response.created")),
    ):
        watch.feed((b"" if first else before) + event_bytes(event, document))
        assert watch.error is not None and watch.has_event and not watch.ended_well
        assert error_fields(watch.error)["message"] == said


@pytest.mark.parametrize("name", ANSWERS)
def test_streams_take_nothing_else_for_one(name: str) -> None:
    for watch in (StreamWatch(), ResponsesWatch()):
        watch.feed(sse.event(ANSWERS[name]))
        assert watch.error is None


@pytest.mark.parametrize("first", [True, False], ids=["first", "later"])
@pytest.mark.parametrize("name", ERRORS)
def test_a_translated_stream_fails(name: str, first: bool) -> None:
    event, document, said = ERRORS[name]
    before = b"" if first else sse.event(delta(content="x"))
    events = events_of(before + event_bytes(event, document) + sse.event(delta("stop")) + sse.DONE)
    assert kinds(events)[-2:] == ["error", "failed"]
    assert events[-2]["message"] == (said or "The backend failed.")


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"event: error\ndata: overloaded", "overloaded"),
        (b"event:error\r\ndata:overloaded", "overloaded"),
        (b"data: overloaded\nevent: error", "overloaded"),
        (b"event: error", ""),
        (b'error: {"code":500,"message":"oom","type":"server_error"}', "oom"),
        (b'event: error\nid: 3\ndata: {"code":1,\ndata: "details":"oom"}', "oom"),
    ],
)
def test_the_name_of_an_event_is_read(raw: bytes, said: str) -> None:
    assert error_fields(error_in(*sse.read(raw)) or {"error": "none"})["message"] == (said or None)
    watch = StreamWatch()
    watch.feed(raw + b"\n\n")
    assert watch.error is not None and watch.has_event and not watch.error_visible


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (b"event: ping\ndata: {}", b"ping"),
        (b"data: {}", b""),
        (b": error\ndata: {}", b""),
        (b"data: event: error", b""),
    ],
)
def test_other_events_have_other_names(raw: bytes, name: bytes) -> None:
    assert sse.read(raw)[0] == name


def test_clients_see_the_errors_that_their_sdk_sees() -> None:
    """The SDKs raise on a true `error` in an event's data and on nothing else."""
    for event, document, _ in ERRORS.values():
        watch = StreamWatch()
        watch.feed(event_bytes(event, document))
        assert watch.error_visible == bool(document.get("error"))


# --- finish reasons ------------------------------------------------------------------------------

WHOLE = ("stop", "tool_calls", "function_call", "eos", "end_turn", "COMPLETE", "STOP", "something new")
TOO_LONG = ("length", "max_tokens", "MAX_TOKENS", "model_length", "max_output_tokens", "max-tokens")
FILTERED = ("content_filter", "SAFETY", "RECITATION", "refusal", "guardrail_intervened", "sensitive")
GIVEN_UP = ("error", "ERROR", "abort", "aborted", "insufficient_system_resource", "network_error", "cancelled")
NONE = ("", " ", None, 0, False, [], {})


@pytest.mark.parametrize("reason", WHOLE + TOO_LONG + FILTERED)
def test_reasons_that_end_an_answer(reason: str) -> None:
    cut = "max_output_tokens" if reason in TOO_LONG else "content_filter" if reason in FILTERED else None
    assert (finish.cut_of(reason), finish.is_failure(reason)) == (cut, False)
    response = final(events_of([*text("a"), delta(reason)], done=False))
    for found in (response, response_of(whole(reason, content="a"))):
        assert found["status"] == ("incomplete" if cut else "completed")
        assert found["incomplete_details"] == ({"reason": cut} if cut else None)
    watch = StreamWatch()
    watch.feed(sse.event(delta(reason)))
    assert watch.ended_well


@pytest.mark.parametrize("done", [True, False])
@pytest.mark.parametrize("reason", GIVEN_UP)
def test_reasons_of_an_answer_that_was_given_up(reason: str, done: bool) -> None:
    events = events_of([*text("a"), delta(reason)], done=done)
    assert kinds(events)[-2:] == ["error", "failed"]
    assert reason in events[-2]["message"]
    watch = StreamWatch()
    watch.feed(sse.event(delta(reason)) + (sse.DONE if done else b""))
    assert (watch.failure, watch.ended_well) == (reason, False)


@pytest.mark.parametrize("reason", NONE)
def test_only_a_word_ends_an_answer(reason: Any) -> None:
    chunk = {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": reason}]}
    watch = StreamWatch()
    watch.feed(sse.event(chunk))
    assert watch.facts.finish is None and not watch.ended_well
    assert kinds(events_of([chunk, chunk], done=False))[-1] == "failed"
    assert kinds(events_of([chunk, chunk], done=True))[-1] == "completed"


def test_a_word_of_the_answer_is_no_finish_reason() -> None:
    arguments = {"finish_reason": "error"}
    watch = StreamWatch()
    watch.feed(sse.event(delta(tool_calls=[{"index": 0, "function": {"name": "f", "arguments": arguments}}])))
    assert not watch.failure
    assert not read_reply({"choices": [{"message": {"content": "error"}, "finish_reason": "stop"}, 3]}).failure
    assert not read_reply({"choices": "error"}).failure and not read_reply({}).failure


# --- what is missing behind an event --------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "missing"),
    [
        (b"", b""),
        (b"\n", b""),
        (b"data: x", b"\n\n"),
        (b"data: x\n", b"\n"),
        (b"data: x\r\n", b"\n"),
        (b"data: x\n\n", b""),
        (b"data: x\r\n\r\n", b""),
        (b"data: x\n\r\n", b""),
    ],
)
def test_no_empty_line_too_many(sent: bytes, missing: bytes) -> None:
    assert sse.missing_end(sent) == missing
    splitter = sse.Splitter()
    events = splitter.feed(sent + missing + b"data: y\n\n")
    assert events == ([sent.strip()] if sent.strip() else []) + [b"data: y"]
