"""Chat answer to Response object: wire page sections 4, 5 and 6."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.responses import Response

from app.errors import BackendProtocol
from app.wire.reasoning import unseal_reasoning
from app.wire.responses.reply import from_chat
from tests.wire.grammar import RESPONSE_FIELDS
from tests.wire.streams import NOW, answer, call, ids, messages, request, response_of, shape

USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}


def function(name: str) -> dict[str, Any]:
    return {"type": "function", "name": name}


def test_every_field_is_present() -> None:
    """The object of the wire page, field by field."""
    response = response_of(
        answer(
            content="Hi",
            usage=USAGE
            | {"prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens_details": {"reasoning_tokens": 3}},
        )
    )
    assert set(response) == RESPONSE_FIELDS | {"output_text"}
    assert response == {
        "id": "resp_1",
        "object": "response",
        "created_at": NOW,
        "completed_at": NOW + 2,
        "status": "completed",
        "incomplete_details": None,
        "error": None,
        "model": "qwen3:8b",
        "previous_response_id": None,
        "instructions": None,
        "output": [
            {
                "type": "message",
                "id": "msg_1",
                "status": "completed",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "Hi", "annotations": [], "logprobs": []}],
            }
        ],
        "tools": [],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "max_tool_calls": None,
        "text": {"format": {"type": "text"}},
        "reasoning": {"effort": None, "summary": None},
        "temperature": 1.0,
        "top_p": 1.0,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "top_logprobs": 0,
        "max_output_tokens": None,
        "truncation": "disabled",
        "store": True,
        "background": False,
        "service_tier": "default",
        "metadata": {},
        "safety_identifier": None,
        "prompt_cache_key": None,
        "usage": {
            "input_tokens": 11,
            "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
            "output_tokens": 7,
            "output_tokens_details": {"reasoning_tokens": 3},
            "total_tokens": 18,
        },
        "output_text": "Hi",
    }


def test_ids_are_fresh_and_not_the_backend_s() -> None:
    chat_answer = answer("tool_calls", content="a", reasoning="r", tool_calls=[call(None, "c1", "f", "{}")])
    new_id = ids()
    times = {"response_id": "resp_1", "created_at": NOW, "completed_at": NOW, "model": "m", "new_id": new_id}
    first, second = (from_chat(chat_answer, request(), **times)["output"] for _ in range(2))
    assert [item["id"].split("_")[0] for item in first] == ["rs", "msg", "fc"]
    assert not {item["id"] for item in first} & {item["id"] for item in second}
    assert "chatcmpl-1" not in json.dumps([first, second])


# --- output items --------------------------------------------------------------------------------

CALLED = call(None, "c1", "f", '{"q":1}')

MESSAGES: list[tuple[str, dict[str, Any], list[Any]]] = [
    ("text", {"content": "Hi"}, [("text", "Hi")]),
    ("text as parts", {"content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]}, [("text", "Hi")]),
    ("refusal", {"content": None, "refusal": "No."}, [("refusal", "No.")]),
    ("text and refusal", {"content": "Well", "refusal": "no."}, [("text", "Well"), ("refusal", "no.")]),
    ("call", {"content": None, "tool_calls": [CALLED]}, [("call", "f", '{"q":1}')]),
    ("call beside empty text", {"content": "", "tool_calls": [CALLED]}, [("call", "f", '{"q":1}')]),
    ("text and call", {"content": "a", "tool_calls": [CALLED]}, [("text", "a"), ("call", "f", '{"q":1}')]),
    (
        "reasoning, text, calls",
        {"tool_calls": [CALLED], "content": "a", "reasoning_content": "r"},
        [("reasoning", "r"), ("text", "a"), ("call", "f", '{"q":1}')],
    ),
    ("reasoning", {"content": "a", "reasoning": "r"}, [("reasoning", "r"), ("text", "a")]),
    (
        "reasoning under both names",
        {"content": "a", "reasoning": "r", "reasoning_content": "r"},
        [("reasoning", "r"), ("text", "a")],
    ),
    (
        "null and empty reasoning",
        {"content": "a", "reasoning": None, "reasoning_content": ""},
        [("text", "a")],
    ),
    ("reasoning that is no text", {"content": "a", "reasoning": {"effort": "low"}}, [("text", "a")]),
    ("nothing", {"content": None}, []),
    ("empty", {"content": ""}, []),
    ("null calls", {"content": "a", "tool_calls": None}, [("text", "a")]),
    ("no calls", {"content": "a", "tool_calls": []}, [("text", "a")]),
    ("object arguments", {"tool_calls": [call(None, "c", "f", {"q": "é"})]}, [("call", "f", '{"q": "é"}')]),
    ("empty arguments", {"tool_calls": [call(None, "c", "f", "")]}, [("call", "f", "{}")]),
    ("no arguments", {"tool_calls": [call(None, "c", "f")]}, [("call", "f", "{}")]),
    (
        "null arguments",
        {"tool_calls": [{"id": "c", "function": {"name": "f", "arguments": None}}]},
        [("call", "f", "{}")],
    ),
    ("form before tools", {"function_call": {"name": "f", "arguments": "{}"}}, [("call", "f", "{}")]),
    (
        "two calls of one function, no index, no ids",
        {"tool_calls": [call(None, None, "f", "{}"), call(None, None, "f", "{}")]},
        [("call", "f", "{}"), ("call", "f", "{}")],
    ),
    (
        "two calls without arguments",
        {"tool_calls": [call(None, "", "f", ""), call(None, "", "f", "")]},
        [("call", "f", "{}"), ("call", "f", "{}")],
    ),
    (
        "all calls with index 0",
        {"tool_calls": [call(0, "c1", "f", "{}"), call(0, "c2", "g", "{}")]},
        [("call", "f", "{}"), ("call", "g", "{}")],
    ),
]


@pytest.mark.parametrize(("message", "expected"), [row[1:] for row in MESSAGES], ids=[row[0] for row in MESSAGES])
def test_output_items(message: dict[str, Any], expected: list[Any]) -> None:
    response = response_of(answer(**message))
    assert shape(response["output"]) == expected
    assert response["status"] == "completed"
    assert response["output_text"] == "".join(said[1] for said in expected if said[0] == "text")
    assert {item.get("status", "completed") for item in response["output"]} <= {"completed"}
    assert Response.model_validate(response).output_text == response["output_text"]  # the SDK's own reading


def test_function_call_item() -> None:
    [item] = response_of(answer("tool_calls", tool_calls=[call(None, "call_9", "w", "{}")]))["output"]
    assert item == {
        "type": "function_call",
        "id": "fc_1",
        "call_id": "call_9",
        "name": "w",
        "arguments": "{}",
        "status": "completed",
    }


def test_call_ids_are_unique_and_never_empty() -> None:
    fragments = [call(None, None, "f"), call(None, "", "f"), call(None, "x", "f"), call(None, "x", "f")]
    items = response_of(answer("tool_calls", tool_calls=fragments))["output"]
    call_ids = [item["call_id"] for item in items]
    assert call_ids[2] == "x"
    assert len(set(call_ids)) == 4
    assert all(call_ids)
    assert not {item["id"] for item in items} & set(call_ids)


def test_a_function_nobody_offered_is_still_a_call() -> None:
    assert shape(response_of(answer(tool_calls=[call(None, "c", "ghost", "{}")]))["output"]) == [
        ("call", "ghost", "{}")
    ]


def test_a_call_without_a_name_is_no_answer() -> None:
    with pytest.raises(BackendProtocol, match="without a name"):
        response_of(answer(tool_calls=[call(None, "c", None, "{}")]))


@pytest.mark.parametrize(
    "chat_answer", [{}, {"choices": []}, {"choices": None}, {"choices": [{}]}, {"choices": ["x"]}, {"choices": "x"}]
)
def test_an_answer_without_a_message_is_no_answer(chat_answer: dict[str, Any]) -> None:
    with pytest.raises(BackendProtocol):
        response_of(chat_answer)


def test_reasoning_item() -> None:
    plain = response_of(answer(content="a", reasoning="hm"))
    assert plain["output"][0] == {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [{"type": "summary_text", "text": "hm"}],
    }
    assert plain["output_text"] == "a"


def test_encrypted_reasoning_comes_back_alone() -> None:
    asked = request(include=["reasoning.encrypted_content"])
    item = response_of(answer(content="a", reasoning="hm"), asked)["output"][0]
    assert item["encrypted_content"]
    assert "hm" not in item["encrypted_content"]
    assert unseal_reasoning(item["encrypted_content"]) == "hm"
    replayed = {"type": "reasoning", "summary": [], "encrypted_content": item["encrypted_content"]}
    assert messages([replayed, {"role": "assistant", "content": "a"}])[0]["reasoning_content"] == "hm"


def test_output_replayed_is_one_assistant_message() -> None:
    """Agents send output items back as they came."""
    said = answer("tool_calls", content="a", reasoning="r", tool_calls=[call(None, "c1", "f", "{}")])
    items = response_of(said)["output"]
    assert messages([*items, {"type": "function_call_output", "call_id": "c1", "output": "ok"}]) == [
        {
            "role": "assistant",
            "content": "a",
            "reasoning_content": "r",
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "ok"},
    ]


TOKENS = [
    {
        "token": "Hi",
        "logprob": -0.1,
        "bytes": [72, 105],
        "top_logprobs": [{"token": "Hi", "logprob": -0.1, "bytes": [72]}],
    }
]


def test_logprobs_are_passed_on_when_included() -> None:
    chat_answer = answer(content="Hi", logprobs={"content": TOKENS})
    asked = request(include=["message.output_text.logprobs"])
    assert response_of(chat_answer, asked)["output"][0]["content"][0]["logprobs"] == TOKENS
    assert response_of(chat_answer)["output"][0]["content"][0]["logprobs"] == []
    assert response_of(answer(content="Hi", logprobs=None), asked)["output"][0]["content"][0]["logprobs"] == []


def test_infinite_logprobs_are_made_json() -> None:
    tokens = [{"token": "Hi", "logprob": float("-inf"), "bytes": [72], "top_logprobs": []}]
    asked = request(include=["message.output_text.logprobs"])
    response = response_of(answer(content="Hi", logprobs={"content": tokens}), asked)
    assert response["output"][0]["content"][0]["logprobs"][0]["logprob"] == -9999.0


# --- finish reasons and usage ---------------------------------------------------------------------


@pytest.mark.parametrize("finish", ["stop", "tool_calls", "function_call", None, "eos", ""])
@pytest.mark.parametrize("message", [{"content": "a"}, {"tool_calls": [CALLED]}])
def test_normal_ends_are_completed(finish: str | None, message: dict[str, Any]) -> None:
    """The presence of calls decides what the items are, not the reason."""
    response = response_of(answer(finish, **message))
    assert (response["status"], response["incomplete_details"]) == ("completed", None)
    assert response["output"][0]["status"] == "completed"
    assert response["output"][0]["type"] == ("function_call" if "tool_calls" in message else "message")


@pytest.mark.parametrize(("finish", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")])
@pytest.mark.parametrize("message", [{"content": "a"}, {"content": "", "tool_calls": [call(None, "c", "f", '{"q":')]}])
def test_cut_ends_are_incomplete(finish: str, reason: str, message: dict[str, Any]) -> None:
    response = response_of(answer(finish, **message))
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": reason})
    assert response["completed_at"] is None
    assert [item["status"] for item in response["output"]] == ["incomplete"]


def test_only_the_last_item_of_a_cut_answer_is_incomplete() -> None:
    said = answer("length", content="a", tool_calls=[call(None, "c1", "f", "{}"), call(None, "c2", "g", '{"q":')])
    response = response_of(said)
    assert [item["status"] for item in response["output"]] == ["completed", "completed", "incomplete"]
    assert response["output"][2]["arguments"] == '{"q":'


def test_cut_call_without_arguments_is_given_none() -> None:
    assert response_of(answer("length", tool_calls=[call(None, "c", "f", "")]))["output"][0]["arguments"] == ""


def test_cut_before_anything_was_said() -> None:
    response = response_of(answer("length", content="", reasoning="thinking and thinking"))
    assert (response["status"], shape(response["output"])) == ("incomplete", [("reasoning", "thinking and thinking")])


def usage(read: int, written: int, total: int, cached: int = 0, reasoning: int = 0) -> dict[str, Any]:
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": total,
    }


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (USAGE, usage(11, 7, 18)),
        ({"prompt_tokens": 11, "completion_tokens": 7}, usage(11, 7, 18)),
        (USAGE | {"prompt_tokens_details": None, "completion_tokens_details": None}, usage(11, 7, 18)),
        (USAGE | {"prompt_tokens_details": {"cached_tokens": 4}}, usage(11, 7, 18, cached=4)),
        (USAGE | {"completion_tokens_details": {"reasoning_tokens": 3}}, usage(11, 7, 18, reasoning=3)),
        ({"prompt_tokens": 11, "completion_tokens": None}, usage(11, 0, 11)),
        ({"prompt_tokens": 11.0, "completion_tokens": float("nan")}, usage(11, 0, 11)),
        ({"prompt_tokens": 11, "completion_tokens": 10**400}, usage(11, 0, 11)),
        ({"prompt_tokens": 11, "completion_tokens": -1, "total_tokens": float("inf")}, usage(11, 0, 11)),
        ({"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 9}, usage(1, 2, 9)),
        (None, None),
        ({}, None),
        ("x", None),
    ],
)
def test_usage(told: Any, expected: Any) -> None:
    assert response_of(answer(content="a", usage=told))["usage"] == expected
