"""Chat before Ollama's own API: what is sent, and what clients read."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from app.errors import CapabilityMissing, StreamInterrupted, Untranslatable
from app.types import Dialect, Loading, Wire
from app.wire import WIRES, sse, translator
from app.wire.chat.request import parse
from app.wire.ollama.errors import error_of
from app.wire.ollama.request import SAMPLING, dropped_members
from app.wire.responses.body import ResponsesBody
from app.wire.responses.request import parse as parse_responses
from app.wire.translator import ReplyContext

USER = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
END = {"done": True, "done_reason": "stop", "prompt_eval_count": 9, "eval_count": 2}
CHAT_TO_OLLAMA = translator(Wire.CHAT, Wire.OLLAMA)


def sent(loading: Loading | None = None, **chat: Any) -> dict[str, Any]:
    body = parse(json.dumps({"model": "auto", "messages": [USER], **chat}).encode())
    raw = CHAT_TO_OLLAMA.request(
        body, "m:latest", Dialect(loading=loading or Loading()), stream=bool(chat.get("stream"))
    )
    return json.loads(raw)


def context(**chat: Any) -> ReplyContext:
    numbers = itertools.count(1)
    return ReplyContext(
        body=parse(json.dumps({"messages": [USER], **chat}).encode()),
        model="m:latest",
        new_id=lambda prefix: f"{prefix}_{next(numbers)}",
        clock=lambda: 1_700_000_000.5,
    )


def line(done: dict[str, Any] | None = None, **message: Any) -> bytes:
    return (
        json.dumps({"model": "m", "message": {"role": "assistant", "content": "", **message}, **(done or {})}).encode()
        + b"\n"
    )


def chunks(raw: bytes) -> list[Any]:
    datas = [sse.data_of(event) for event in sse.Splitter().feed(raw)]
    return ["[DONE]" if data == b"[DONE]" else json.loads(data or b"") for data in datas]


def streamed(pieces: list[bytes], **chat: Any) -> list[Any]:
    return chunks(b"".join(CHAT_TO_OLLAMA.stream(pieces, context(**chat))))


def test_a_prompt_is_never_cut() -> None:
    assert sent() == {"model": "m:latest", "messages": [USER], "stream": False, "truncate": False}


@pytest.mark.parametrize(
    ("chat", "options"),
    [
        ({"max_tokens": 5}, {"num_predict": 5}),
        ({"max_completion_tokens": 6, "max_tokens": 5}, {"num_predict": 6}),
        ({"temperature": 0, "top_p": 0.5, "seed": 7}, {"temperature": 0, "top_p": 0.5, "seed": 7}),
        ({"presence_penalty": 1, "frequency_penalty": -1}, {"presence_penalty": 1, "frequency_penalty": -1}),
        ({"stop": "a"}, {"stop": ["a"]}),
        ({"stop": ["a", "b"]}, {"stop": ["a", "b"]}),
        ({"options": {"top_k": 3, "num_ctx": 99, "num_gpu": 1}}, {"top_k": 3}),
        ({"options": {"temperature": 1}, "temperature": 0.2}, {"temperature": 0.2}),
        ({"temperature": None}, None),
    ],
)
def test_sampling_goes_to_options_and_loading_is_the_operators(chat: dict[str, Any], options: Any) -> None:
    assert sent(**chat).get("options") == options


def test_the_policy_goes_before_the_client() -> None:
    loading = Loading(num_ctx=8192, keep_alive="10m", think=False)
    body = sent(loading, options={"num_ctx": 1}, keep_alive=0, reasoning_effort="high")
    assert (body["options"], body["keep_alive"], body["think"]) == ({"num_ctx": 8192}, "10m", False)


@pytest.mark.parametrize(
    ("effort", "think"),
    [
        ("none", False),
        ("minimal", "low"),
        ("low", "low"),
        ("High", "high"),
        ("xhigh", "high"),
        ("odd", None),
        (None, None),
    ],
)
def test_a_wish_for_reasoning(effort: str | None, think: object) -> None:
    assert sent(reasoning_effort=effort).get("think") == think
    assert "think" not in sent(Loading(thinks=False), reasoning_effort=effort)


@pytest.mark.parametrize(
    ("wanted", "form"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, "json"),
        ({"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}, {"type": "object"}),
    ],
)
def test_response_format(wanted: dict[str, Any], form: object) -> None:
    assert sent(response_format=wanted).get("format") == form


def test_a_tool_loop() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
    messages = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "hm"},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    ]
    body = sent(messages=messages, tools=[TOOL])
    assert body["tools"] == [TOOL]
    assert body["messages"][1:] == [
        {
            "role": "assistant",
            "content": "",
            "thinking": "hm",
            "tool_calls": [{"id": "c1", "function": {"index": 0, "name": "weather", "arguments": {"city": "Rome"}}}],
        },
        {"role": "tool", "content": "sunny", "tool_name": "weather", "tool_call_id": "c1"},
    ]
    assert "tools" not in sent(tools=[TOOL], tool_choice="none")


@pytest.mark.parametrize("arguments", ["", "not json", "[1]", '{"a": 1}'])
def test_arguments_are_always_an_object(arguments: str) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    messages = [
        USER,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "x"},
    ]
    assert isinstance(sent(messages=messages)["messages"][1]["tool_calls"][0]["function"]["arguments"], dict)


def test_parts_become_one_text_and_images() -> None:
    parts = [
        {"type": "text", "text": "what is"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "text", "text": "this?"},
    ]
    [message] = sent(messages=[{"role": "user", "content": parts}])["messages"]
    assert message == {"role": "user", "content": "what is\n\nthis?", "images": ["AAAA"]}


def test_system_messages_stand_in_front_as_one() -> None:
    messages = [{"role": "system", "content": "a"}, USER, {"role": "developer", "content": "b"}]
    assert sent(messages=messages)["messages"] == [{"role": "system", "content": "a\n\nb"}, USER]


def test_a_responses_body_goes_through_chat() -> None:
    body = ResponsesBody(parse_responses({"input": "hi", "instructions": "be brief", "max_output_tokens": 3}))
    raw = translator(Wire.RESPONSES, Wire.OLLAMA).request(body, "m", Dialect(), stream=True)
    document = json.loads(raw)
    assert document["messages"] == [{"role": "system", "content": "be brief"}, USER]
    assert (document["options"], document["stream"]) == ({"num_predict": 3}, True)


def test_dropped_members_are_named() -> None:
    chat = {"messages": [], "user": "u", "n": 2, "tool_choice": "required", "options": {"num_ctx": 1, "top_k": 2}}
    assert dropped_members(chat) == ("user", "n", "tool_choice", "options.num_ctx")


def test_a_whole_reply() -> None:
    document = json.loads(line(END, content="Hello", thinking="hm"))
    reply = json.loads(CHAT_TO_OLLAMA.reply(b"", document, context()))
    assert reply == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "m:latest",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello", "reasoning": "hm"},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11},
    }


def test_tool_calls_get_ids_and_the_reason() -> None:
    calls = [{"function": {"name": "a", "arguments": {"x": "é"}}}, {"id": "c9", "function": {"name": "b"}}]
    document = json.loads(line(END, tool_calls=calls))
    choice = json.loads(CHAT_TO_OLLAMA.reply(b"", document, context()))["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert [(call["index"], call["id"]) for call in choice["message"]["tool_calls"]] == [(0, "call_1"), (1, "c9")]
    assert [call["function"]["arguments"] for call in choice["message"]["tool_calls"]] == ['{"x": "é"}', "{}"]


LINES = [line(thinking="hm"), line(content="Hel"), line(content="lo"), line(tool_calls=[{"function": {"name": "f"}}])]
STREAM = b"".join([*LINES, line(tool_calls=[{"function": {"name": "g"}}]), line(END)])


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
def test_a_stream_under_any_cut(size: int) -> None:
    pieces = [STREAM[at : at + size] for at in range(0, len(STREAM), size)]
    events = streamed(pieces, stream_options={"include_usage": True})
    deltas = [event["choices"][0]["delta"] for event in events[:-3]]
    assert deltas[0] == {"role": "assistant", "reasoning": "hm"}
    assert [delta.get("content") for delta in deltas[1:3]] == ["Hel", "lo"]
    assert [delta["tool_calls"][0]["index"] for delta in deltas[3:]] == [0, 1]
    end, usage, done = events[-3:]
    assert end["choices"][0]["finish_reason"] == "tool_calls"
    assert (usage["choices"], usage["usage"]["total_tokens"], done) == ([], 11, "[DONE]")
    assert len({event["id"] for event in events[:-1]}) == 1


def test_usage_is_sent_only_to_clients_that_ask() -> None:
    assert not any("usage" in event for event in streamed([STREAM])[:-1])


@pytest.mark.parametrize("size", [1, 50, 10_000])
def test_the_watch_reads_what_passes(size: int) -> None:
    watch = WIRES[Wire.OLLAMA].watch()
    assert not watch.has_event
    for at in range(0, len(STREAM), size):
        watch.feed(STREAM[at : at + size])
    watch.end()
    assert (watch.has_event, watch.has_end, watch.ended_well, watch.error) == (True, True, True, None)
    assert (watch.input_tokens, watch.output_tokens) == (9, 2)
    assert (watch.facts.finish, watch.facts.chars) == ("tool_calls", len("Hello") + 2 * len("{}"))


def test_a_last_line_without_an_end_counts() -> None:
    watch = WIRES[Wire.OLLAMA].watch()
    watch.feed(STREAM.rstrip(b"\n"))
    assert not watch.has_end
    watch.end()
    assert watch.ended_well
    assert streamed([STREAM.rstrip(b"\n")])[-1] == "[DONE]"


@pytest.mark.parametrize("broken", [b'{"error": "llama runner process no longer running"}\n', b"<html>\n"])
def test_an_error_line_is_an_error(broken: bytes) -> None:
    watch = WIRES[Wire.OLLAMA].watch()
    watch.feed(LINES[1] + broken)
    assert watch.error is not None
    assert not watch.ended_well
    assert watch.before_failure(LINES[1] + broken) == LINES[1]


def test_a_stream_that_breaks_ends_with_an_error_event() -> None:
    def pieces() -> Any:
        yield LINES[1] + LINES[2][:9]
        raise StreamInterrupted("the backend's stream broke", kind="reset")

    *_, last = chunks(b"".join(CHAT_TO_OLLAMA.stream(pieces(), context())))
    assert "broke" in last["error"]["message"]


def test_a_whole_reply_as_a_stream() -> None:
    events = chunks(b"".join(CHAT_TO_OLLAMA.reply_as_stream(json.loads(line(END, content="Hi")), context())))
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": "Hi"}
    assert events[-1] == "[DONE]"


def test_a_responses_stream_goes_through_chat() -> None:
    body = ResponsesBody(parse_responses({"input": "hi", "stream": True}))
    base = context()
    made = ReplyContext(body=body, model="m", new_id=base.new_id, clock=base.clock, reply_id="resp_1", created_at=1)
    events = chunks(b"".join(translator(Wire.RESPONSES, Wire.OLLAMA).stream([*LINES[1:3], line(END)], made)))
    last = events[-2]["response"]
    assert (last["status"], last["usage"]["input_tokens"]) == ("completed", 9)
    assert last["output"][-1]["content"][0]["text"] == "Hello"


def test_an_error_that_quotes_the_inference_server() -> None:
    inner = {"code": 400, "message": "request (5000 tokens) exceeds", "n_prompt_tokens": 5000, "n_ctx": 4096}
    assert error_of({"error": json.dumps({"error": inner})})["n_ctx"] == 4096
    assert error_of({"error": "model 'm' not found"})["message"] == "model 'm' not found"


def test_what_is_no_stream() -> None:
    is_document = WIRES[Wire.OLLAMA].is_document
    assert not is_document(b'{"message": {}}', "application/x-ndjson")
    assert not is_document(b'{"message": {}}', "")
    assert is_document(b"<html>", "text/html")


def test_a_line_without_an_end_is_an_error_and_is_not_kept() -> None:
    watch = WIRES[Wire.OLLAMA].watch()
    watch.feed(LINES[0])
    for _ in range(17):
        watch.feed(b"x" * 1024 * 1024)
    assert watch.error == {"error": error_of({"error": "the server sent a line that is too long"})}


# --- odd requests: an error that names the reason, or a body that the server reads ---------------

ODD = {
    "a call without a function": {"messages": [USER, {"role": "assistant", "tool_calls": [{"id": "c"}]}]},
    "a call of another kind": {
        "messages": [USER, {"role": "assistant", "tool_calls": [{"id": 5, "type": "custom", "custom": {"name": "x"}}]}]
    },
    "a result for no call": {"messages": [USER, {"role": "tool", "content": "x"}]},
    "a result for an odd call": {
        "messages": [{"role": "assistant", "tool_calls": [{"function": None}]}, {"role": "tool", "tool_call_id": "c"}]
    },
    "arguments that are deep": {"messages": [{"role": "assistant", "tool_calls": [
        {"id": "c", "function": {"name": "f", "arguments": '{"a":' + "[" * 980 + "]" * 980 + "}"}}]}]},
    "arguments that are too deep to read": {"messages": [{"role": "assistant", "tool_calls": [
        {"id": "c", "function": {"name": "f", "arguments": "[" * 100_000}}]}]},
    "arguments of other types": {"messages": [{"role": "assistant", "tool_calls": [
        {"function": {"name": "f", "arguments": value}} for value in (None, "", "null", "3", "[1]", "x", 5, [], {})]}]},
    "other roles": {"messages": [{"role": role, "content": "x"} for role in ("System", "Tool", "function", "ipython")]},
    "no content": {"messages": [{"role": "assistant", "content": None}, {"role": "system"}, USER]},
    "no parts": {"messages": [{"role": "user", "content": []}]},
    "a refusal": {"messages": [{"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}, USER]},
    "a deep tool": {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"a": [[[[[{}]]]]]}}}]},
    "tools of other types": {"tools": [{}, {"type": "web_search"}, {"function": None}]},
    "a schema that is true": {"response_format": {"type": "json_schema", "json_schema": {"schema": True}}},
    "a schema that is null": {"response_format": {"type": "json_schema", "json_schema": {"schema": None}}},
    "a schema that is a string": {"response_format": {"type": "json_object", "schema": "{}"}},
    "formats of other types": {"response_format": ["json"]},
    "an unknown format": {"response_format": {"type": "grammar", "grammar": "x"}},
    "options of another type": {"options": [1]},
    "an option that is null": {"options": {"temperature": None, "stop": None}},
    "large numbers": {"seed": 2**62, "temperature": 3e38, "max_tokens": 2**31, "top_k": -1},
    "fractions": {"seed": 0.5, "max_tokens": 5.0},
    "words for efforts": {"reasoning_effort": "maximal"},
    "an effort of another type": {"reasoning_effort": 5, "reasoning": {"effort": [1]}},
    "half a character": {"messages": [{"role": "user", "content": "\ud800"}]},
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_an_odd_request_becomes_one_that_the_server_reads(name: str) -> None:
    """The types are those of api/types.go: another one is a 400, or with options and formats a 500."""
    body = sent(**ODD[name])
    for message in body["messages"]:
        assert type(message["role"]) is type(message["content"]) is str
        assert message["role"] == message["role"].lower()
        assert all(type(call["function"]["arguments"]) is dict for call in message.get("tool_calls", ()))
        assert type(message.get("tool_name", "")) is type(message.get("tool_call_id", "")) is str
    assert body.get("format", "json") == "json" or type(body["format"]) is dict
    assert body.get("think") in (None, False, "low", "medium", "high")
    for option, value in body.get("options", {}).items():
        assert type(value) in ((list,) if option == "stop" else (int, float))


NUMBERS = ("temperature", "top_p", "seed", "max_tokens", "max_completion_tokens", "presence_penalty", "top_k")


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", ["0.5", True, [], {}, 10**400, -(10**30) * 10**20], ids=str)
def test_a_value_that_is_no_number_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(Untranslatable) as caught:
        sent(**{name: value})
    assert (caught.value.status, caught.value.param) == (400, name)
    if name in SAMPLING:
        with pytest.raises(Untranslatable) as caught:
            sent(options={name: value})
        assert caught.value.param == f"options.{name}"


@pytest.mark.parametrize("stop", [5, [5], {"a": 1}, True])
def test_stop_words_of_another_type_are_refused(stop: Any) -> None:
    with pytest.raises(Untranslatable):
        sent(options={"stop": stop})


IMAGES = {
    "https://example.org/a.png": None,
    "http://127.0.0.1/a.png": None,
    "file:///etc/passwd": None,
    "AAAA": None,
    "": None,
    "data:image/svg+xml;utf8,<svg/>": None,
    "data:image/png;base64,AAAA": "AAAA",
    "data:;base64,AAAA": "AAAA",
    "DATA:image/png;BASE64,AAAA": "AAAA",
    "data:image/png;base64,AA,AA": "AA,AA",
}


@pytest.mark.parametrize("form", [str, lambda url: {"url": url}, lambda url: {"url": url, "detail": "low"}])
@pytest.mark.parametrize("url", IMAGES)
def test_images_are_sent_or_refused(url: str, form: Any) -> None:
    messages = [{"role": "user", "content": [{"type": "image_url", "image_url": form(url)}]}]
    data = IMAGES[url]
    if data is None:
        with pytest.raises(CapabilityMissing, match="does not support images by URL"):
            sent(messages=messages)
    else:
        assert sent(messages=messages)["messages"] == [{"role": "user", "content": "", "images": [data]}]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,AA"}},
        {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AA"}},
        {"type": "image_url"},
        {"type": "image_url", "image_url": {"url": 5}},
        {"type": "input_audio", "input_audio": {"format": "wav"}},
        {},
    ],
)
def test_content_that_only_other_servers_read_goes_to_them(part: Any) -> None:
    with pytest.raises(CapabilityMissing) as caught:
        sent(messages=[{"role": "user", "content": [{"type": "text", "text": "look"}, part]}])
    assert (caught.value.code, caught.value.next_target, caught.value.kind) == (
        "unsupported_by_models",
        True,
        "untranslatable",
    )


def test_sounds_are_sent_as_the_server_reads_them() -> None:
    sound = {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}
    assert sent(messages=[{"role": "user", "content": [sound]}])["messages"][0]["images"] == ["UklGRg=="]


def test_the_last_call_with_an_id_names_the_result() -> None:
    calls = [{"id": "c", "function": {"name": name}} for name in ("first", "second")]
    turns = [{"role": "assistant", "tool_calls": calls}, {"role": "tool", "tool_call_id": "c", "content": "x"}]
    assert sent(messages=turns)["messages"][-1]["tool_name"] == "second"


@pytest.mark.parametrize(
    ("first", "is_event"),
    [
        (b"{}\n", False),
        (b'{"model":"m"}\n', False),
        (b'{"object":"error","message":"oom"}\n', False),
        (b'{"message":{}}\n', True),
        (b'{"done":true}\n', True),
        (b"x\n", True),
    ],
)
def test_a_line_without_a_message_is_no_part_of_a_reply(first: bytes, is_event: bool) -> None:
    watch = WIRES[Wire.OLLAMA].watch()
    watch.feed(first)
    assert watch.has_event is is_event


def test_nothing_behind_an_error_is_passed_on() -> None:
    watch = WIRES[Wire.OLLAMA].watch()
    piece = line(content="one") + b'{"error": "oom"}\n' + line(END)
    watch.feed(piece)
    assert watch.before_failure(piece) == line(content="one")
