"""Every member of a request, in every kind that JSON has: an answer, or a 400 that names the field.  Never a 500."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from app.backends import BACKEND_TYPES
from app.errors import RequestError
from app.types import BackendConfig, Timeouts
from app.wire.chat import request as chat
from app.wire.json_body import read_object
from app.wire.responses import request as responses
from app.wire.responses.body import ResponsesBody
from app.wire.responses.stored import input_list, kept_items
from tests.web.conftest import Client

IMAGE = "data:image/png;base64,aGk="
CHAT: dict[str, Any] = {
    "model": "auto",
    "messages": [
        {"role": "developer", "content": "be kind", "name": "d"},
        {"role": "system", "content": [{"type": "text", "text": "be brief"}]},
        {
            "role": "user",
            "name": "n",
            "content": [
                {"type": "text", "text": "hi"},
                {"type": "image_url", "image_url": {"url": IMAGE, "detail": "low"}},
                {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}},
                {"type": "file", "file": {"filename": "a.txt", "file_data": "data:text/plain;base64,aGk="}},
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "refusal": None,
            "reasoning_content": "hm",
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "c", "content": "done"},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "p", "schema": {"type": "object"}}},
    "max_tokens": 5,
    "max_completion_tokens": 5,
    "reasoning_effort": "low",
    "stop": ["x"],
    "stream": False,
    "stream_options": {"include_usage": True},
    "temperature": 1.0,
    "metadata": {"a": "b"},
    "n": 1,
    "logprobs": True,
    "seed": 1,
    "user": "u",
}
FUNCTION = {"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True}
CUSTOM = {"type": "custom", "name": "p", "description": "d", "format": {"syntax": "lark", "definition": "x"}}
RESPONSES: dict[str, Any] = {
    "model": "auto",
    "instructions": "be brief",
    "input": [
        {"role": "developer", "content": "a"},
        {
            "type": "message",
            "role": "user",
            "id": "msg_1",
            "status": "completed",
            "content": [
                {"type": "input_text", "text": "hi"},
                {"type": "input_image", "image_url": IMAGE, "detail": "low"},
                {"type": "input_image", "image_url": {"url": IMAGE, "detail": "low"}},
                {"type": "input_file", "filename": "a.txt", "file_data": "data:text/plain;base64,aGk="},
                {"type": "file", "file": {"filename": "a.txt", "file_data": "data:text/plain;base64,aGk="}},
                {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}},
                {"type": "refusal", "refusal": "no"},
            ],
        },
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "hm"}],
            "content": [{"type": "reasoning_text", "text": "hm"}],
            "encrypted_content": "llr1.Imhpbi4i",
        },
        {"type": "function_call", "id": "fc_1", "call_id": "c", "name": "f", "namespace": "ns", "arguments": "{}"},
        {"type": "function_call_output", "id": "o_1", "call_id": "c", "output": [{"type": "input_text", "text": "x"}]},
        {"type": "custom_tool_call", "id": "ctc_1", "call_id": "d", "name": "p", "input": "x"},
        {"type": "custom_tool_call_output", "call_id": "d", "output": "done"},
        {"type": "additional_tools", "role": "developer", "id": "at_1", "tools": [FUNCTION]},
        {"type": "tool_search_output", "call_id": "t", "tools": [CUSTOM]},
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "x"}},
    ],
    "tools": [
        FUNCTION,
        CUSTOM,
        {"type": "namespace", "name": "ns", "description": "d", "tools": [FUNCTION, CUSTOM]},
        {"type": "function", "function": {"name": "g", "parameters": {}}},
        {"type": "web_search", "filters": {"allowed_domains": ["a"]}},
    ],
    "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
    "parallel_tool_calls": True,
    "text": {
        "format": {
            "type": "json_schema",
            "name": "p",
            "description": "d",
            "schema": {"type": "object"},
            "strict": True,
        },
        "verbosity": "low",
    },
    "reasoning": {"effort": "low", "summary": "auto"},
    "include": ["reasoning.encrypted_content", "message.output_text.logprobs"],
    "max_output_tokens": 5,
    "max_tool_calls": 5,
    "temperature": 1.0,
    "top_p": 1.0,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "top_logprobs": 1,
    "truncation": "disabled",
    "store": True,
    "background": False,
    "service_tier": "default",
    "metadata": {"a": "b"},
    "safety_identifier": "u",
    "prompt_cache_key": "k",
    "stream": False,
    "stream_options": {"include_obfuscation": False},
    "user": "u",
}
CHOICES = (
    {"type": "function", "name": "f"},
    {"type": "custom", "name": "p"},
    {"type": "function", "function": {"name": "f"}},
)
REQUESTS: dict[str, dict[str, Any]] = {
    "chat": CHAT,
    "responses": RESPONSES,
    **{f"responses choice {at}": RESPONSES | {"tool_choice": choice} for at, choice in enumerate(CHOICES)},
}
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 10**30, "", " ", "x", "\ud800", [], {}, [None], [[]], [{}], ["x"], [1], {"": None},
    {"type": None}, {"type": []}, {"type": "function"}, {"a": {"b": [{}]}}, [{"type": {}}], [{"type": "x", "name": []}],
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    entries: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        yield (*path, key)
        yield from places(inner, (*path, key))


def changed(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The document with each of its members in every odd kind, and without it."""
    for path in places(document):
        for odd in ODD:
            made = copy.deepcopy(document)
            parent = made
            for key in path[:-1]:
                parent = parent[key]
            parent[path[-1]] = odd
            yield f"{path} = {odd!a}", made
        del parent[path[-1]]
        yield f"no {path}", made


def dialect_of(kind: str) -> Any:
    config = BackendConfig(name="b", type=kind, endpoint="http://127.0.0.1:1", timeouts=Timeouts(1, 1, 1))
    return BACKEND_TYPES[kind](config, {}).dialect_for("gpt-5")


DIALECTS = [dialect_of(kind) for kind in sorted(BACKEND_TYPES)]


def write(raw: bytes, *, translated: bool) -> None:
    """Write a request for every backend, and keep it.  Raise RequestError when it is wrong."""
    if not translated:
        body = chat.parse(raw)
        for dialect in DIALECTS:
            json.loads(body.encode("m", dialect, stream=False))
        return
    received = read_object(raw)
    asked = responses.parse(received.document)
    made = ResponsesBody(asked, [], {}, received)
    for dialect in DIALECTS:
        json.loads(made.encode("m", dialect, stream=False))
    assert made.passed_on("m", stream=False) and made.original
    kept = kept_items(made.input, lambda prefix: f"{prefix}_1")
    input_list(kept)
    again = responses.parse({"input": "x", "previous_response_id": "resp_1"}).after(kept)
    ResponsesBody(again, kept).encode("m", DIALECTS[0], stream=True)


@pytest.mark.parametrize("name", REQUESTS)
def test_every_odd_kind_is_written_or_refused_with_the_fields_name(name: str) -> None:
    refused, written, broken = 0, 0, []
    for what, document in changed(REQUESTS[name]):
        try:
            write(json.dumps(document).encode(), translated=name != "chat")
            written += 1
        except RequestError as error:
            refused += 1
            assert error.param and error.status == 400 and error.message, what
        except Exception as error:
            broken.append(f"{what}: {error!r}")
    assert not broken
    assert refused > 100 and written > 1000


@pytest.mark.parametrize("name", ["chat", "responses"])
def test_no_odd_kind_is_a_500(client: Client, name: str) -> None:
    browser = client()
    path = "/v1/chat/completions" if name == "chat" else "/v1/responses"
    for number, (what, document) in enumerate(changed(REQUESTS[name])):
        if number % 4:  # a sample that meets every member: the rest differs in what was tested above
            continue
        answer = browser.post(path, data=json.dumps(document).encode(), content_type="application/json")
        assert answer.status_code in (200, 400), f"{what}: {answer.text[:300]}"
        assert answer.status_code == 200 or answer.json["error"]["param"], what
