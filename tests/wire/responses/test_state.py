"""What the store keeps and how a conversation is taken up again: wire page section 9, the pure part."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.responses import ResponseItemList

from app.errors import RequestError
from app.wire.json_body import read_object
from app.wire.responses.body import ResponsesBody
from app.wire.responses.request import parse
from app.wire.responses.stored import input_list, kept_items
from tests.wire.streams import answer, call, ids, request, response_of

FIRST: dict[str, Any] = {"input": "weather?", "instructions": "Be kind.", "tools": [{"type": "function", "name": "w"}]}


def test_all_that_may_be_sent_is_searched_for_private_text() -> None:
    """A backend that speaks the API itself gets members that we do not know, and values that were replaced."""
    raw = (
        b'{"input":"secret","input":[{"type":"item_reference","id":"msg_1"}],'
        b'"x_new":{"variables":{"a":"secret"}},"previous_response_id":"resp_1"}'
    )
    received = read_object(raw)
    history = [{"type": "message", "role": "user", "content": "before"}]
    referred = {"type": "message", "role": "user", "content": "long ago", "id": "msg_1"}
    body = ResponsesBody(parse(received.document), history, {"msg_1": referred}, received)
    sent, *rest = body.original
    variables = (("variables", (("a", "secret"),)),)
    reference = (("type", "item_reference"), ("id", "msg_1"))
    assert sent == (
        ("input", "secret"),
        ("input", [reference]),
        ("x_new", variables),
        ("previous_response_id", "resp_1"),
    )
    assert rest == [*history, referred]
    assert body.chat["messages"] == [{"role": "user", "content": "before"}, {"role": "user", "content": "long ago"}]


def turn(asked: Any, history: list[Any], **said: Any) -> list[Any]:
    """One turn of a stored conversation: the chain behind it."""
    body = ResponsesBody(asked, history)
    response = response_of(answer(**said), asked)
    return [*history, *kept_items(body.input, ids()), *response["output"]]


def test_continuation_is_stored_input_output_and_new_input() -> None:
    history = turn(request(**FIRST), [], reasoning="hm", tool_calls=[call(None, "c1", "w", "{}")])
    result = [{"type": "function_call_output", "call_id": "c1", "output": "sunny"}]
    asked = parse({"previous_response_id": "resp_1", "input": result})
    body = ResponsesBody(asked, history)
    assert body.chat["messages"] == [
        {"role": "user", "content": "weather?"},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "hm",
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "w", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    ]
    assert "tools" not in body.chat  # neither tools nor instructions are inherited
    assert asked.echo["previous_response_id"] == "resp_1"


def test_instructions_of_a_continuation_are_its_own() -> None:
    history = turn(request(**FIRST), [], content="sunny")
    asked = request(previous_response_id="resp_1", instructions="Be brief.", input="and tomorrow?")
    assert ResponsesBody(asked, history).chat["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": "sunny"},
        {"role": "user", "content": "and tomorrow?"},
    ]


def test_branches_do_not_see_each_other() -> None:
    history = turn(request(input="a"), [], content="b")
    before = repr(history)
    for said in ("left", "right"):
        branch = turn(request(previous_response_id="resp_1", input=said), history, content=f"{said}!")
        assert [item["role"] for item in branch] == ["user", "assistant", "user", "assistant"]
    assert repr(history) == before


def test_store_flag() -> None:
    assert (request().store, request(store=None).store, request(store=False).store) == (True, True, False)


def test_kept_items_have_type_and_id_and_content_as_it_came() -> None:
    items: list[dict[str, Any]] = [
        {"role": "user", "content": "q"},
        {"type": "message", "id": "msg_own", "role": "user", "content": "q"},
        {"type": "reasoning", "summary": []},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "x"},
        {"type": "custom_tool_call", "call_id": "d", "name": "p", "input": "x"},
        {"type": "custom_tool_call_output", "call_id": "d", "output": "x"},
        {"type": "web_search_call", "id": None},
    ]
    kept = kept_items(items, ids())
    assert [item["id"].split("_")[0] for item in kept] == ["msg", "msg", "rs", "fc", "fco", "ctc", "ctco", "item"]
    assert kept[1]["id"] == "msg_own"
    assert [item["type"] for item in kept][:2] == ["message", "message"]
    assert [{**item, "id": None, "type": None} for item in kept] == [
        {**item, "id": None, "type": None} for item in items
    ]


# --- references ------------------------------------------------------------------------------------------

STORED = {
    "msg_1": {"type": "message", "id": "msg_1", "role": "assistant", "content": [{"type": "output_text", "text": "a"}]},
    "rs_1": {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}]},
}


def test_references_are_resolved() -> None:
    """What the AI SDK sends in a tool loop: reasoning and text by id, the calls in full."""
    asked = request(
        input=[
            {"role": "user", "content": "q"},
            {"type": "item_reference", "id": "rs_1"},
            {"id": "msg_1"},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "x"},
        ]
    )
    assert asked.references == ("rs_1", "msg_1")
    body = ResponsesBody(asked, (), STORED)
    assert body.chat["messages"][1] == {
        "role": "assistant",
        "content": "a",
        "reasoning_content": "hm",
        "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    }
    assert body.input[1:3] == [STORED["rs_1"], STORED["msg_1"]]


def test_a_reference_into_the_chain_is_not_said_twice() -> None:
    asked = request(input=[{"type": "item_reference", "id": "msg_1"}, {"role": "user", "content": "q"}])
    body = ResponsesBody(asked, [STORED["msg_1"]])
    assert [message["role"] for message in body.chat["messages"]] == ["assistant", "user"]
    assert [item.get("id") for item in body.input] == [None]


def test_what_we_keep_is_written_out_for_a_backend_that_keeps_items_itself() -> None:
    """It knows neither our ids nor our reasoning; what the client wrote, and references to its own items, stay."""
    raw = b"""{"model": "auto", "n": 1.50, "input": [{"type": "item_reference", "id": "rs_1"},
        {"type": "item_reference", "id": "msg_1"}, {"type": "item_reference", "id": "msg_theirs"},
        {"role": "user", "content": "q", "id": "msg_1"}]}"""
    received = read_object(raw)
    asked = parse(received.document)
    body = ResponsesBody(asked, (), STORED, received, kept_elsewhere=True)
    sent = body.passed_on("big", stream=False)
    assert sent is not None and b'"n": 1.50' in sent
    assert json.loads(sent)["input"] == [
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a"}]},
        {"type": "item_reference", "id": "msg_theirs"},
        {"role": "user", "content": "q", "id": "msg_1"},
    ]
    assert [message["role"] for message in body.chat["messages"]] == ["assistant", "user"]


def test_a_request_of_references_only_may_go_to_the_backend_that_keeps_them() -> None:
    received = read_object(b'{"model": "auto", "input": [{"type": "item_reference", "id": "msg_theirs"}]}')
    body = ResponsesBody(parse(received.document), (), {}, received, kept_elsewhere=True)
    assert body.passed_on("auto", stream=False) == received.with_members({"model": '"auto"'})


THEIRS = '[{"type": "item_reference", "id": "msg_theirs"}]'


@pytest.mark.parametrize(
    ("members", "sent"),
    [
        ('"previous_response_id": "resp_x", "previous_response_id": null', {"previous_response_id": None}),
        ('"Previous_Response_Id": "resp_x"', {"previous_response_id": None}),
        ('"PREVIOUS_RESPONSE_ID": "resp_x", "previous_response_id": null', {"previous_response_id": None}),
        ('"Conversation": "conv_x"', {"conversation": None}),
        ('"conversation": "conv_x", "conversation": null', {"conversation": None}),
        ('"Prompt": {"id": "pmpt_x"}', {"prompt": None}),
        (f'"Input": {THEIRS}', {"input": "q"}),
        (f'"input": {THEIRS}, "input": "q"', {"input": "q"}),
    ],
)
def test_a_backend_reads_what_leads_to_stored_items_as_it_was_checked(members: str, sent: dict[str, Any]) -> None:
    """The first or the last of a name may count, and for servers in Go whatever its case."""
    first = '"input": "q", ' if '"input"' not in members else ""
    received = read_object(f'{{{first}"model": "auto", "Top_K": 1.50, {members}}}'.encode())
    body = ResponsesBody(parse(received.document), (), {}, received)
    raw = body.passed_on("big", stream=False)
    assert raw is not None and b'"Top_K": 1.50' in raw
    for pairs in (json.loads(raw, object_pairs_hook=list), reversed(json.loads(raw, object_pairs_hook=list))):
        read = {name.lower(): value for name, value in pairs}
        assert {name: read[name] for name in sent} == sent


def test_a_body_that_all_read_in_one_way_passes_as_it_came() -> None:
    raw = b'{ "input":"q","model":"big" ,"previous_response_id":null,"topK":1,"topk":2,"x":1,"x":2}'
    received = read_object(raw)
    assert ResponsesBody(parse(received.document), (), {}, received).passed_on("big", stream=False) == raw


@pytest.mark.parametrize("stored", [None, {}, STORED])
def test_an_unknown_reference_is_refused(stored: Any) -> None:
    asked = request(input=[{"type": "item_reference", "id": "msg_9"}])
    with pytest.raises(RequestError) as caught:
        ResponsesBody(asked, (), stored)
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, "input", "item_not_found")
    assert "msg_9" in caught.value.message


# --- input_items -----------------------------------------------------------------------------------------


def test_input_list_is_newest_first_with_content_as_parts() -> None:
    kept = kept_items(
        [
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "two"},
            {"role": "user", "content": [{"type": "input_text", "text": "three"}]},
            {"type": "function_call_output", "call_id": "c", "output": "x"},
        ],
        ids(),
    )
    listed = input_list(kept)
    ResponseItemList.model_validate(listed)
    assert {item["status"] for item in listed["data"]} == {"completed"}
    assert listed["object"] == "list"
    assert listed["has_more"] is False
    assert (listed["first_id"], listed["last_id"]) == ("fco_4", "msg_1")
    assert [item["id"] for item in listed["data"]] == ["fco_4", "msg_3", "msg_2", "msg_1"]
    assert listed["data"][1]["content"] == [{"type": "input_text", "text": "three"}]
    assert listed["data"][2]["content"] == [{"type": "output_text", "text": "two", "annotations": []}]
    assert listed["data"][3]["content"] == [{"type": "input_text", "text": "one"}]


def test_input_list_of_nothing() -> None:
    assert input_list([]) == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
