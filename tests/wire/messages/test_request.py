"""Messages requests are checked, and written as chat."""

from __future__ import annotations

import json

import pytest

from app.errors import RequestError
from app.types import Dialect, JsonDict, Loading
from app.wire.json_body import read_object
from app.wire.messages.body import MessagesBody
from app.wire.messages.request import parse
from app.wire.reasoning import seal_reasoning

ASK = [{"role": "user", "content": "Why is the sky blue?"}]
PNG = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}


def body_of(**members: object) -> MessagesBody:
    document = {"model": "auto", "max_tokens": 100, "messages": ASK, **members}
    received = read_object(json.dumps({name: value for name, value in document.items() if value is not None}).encode())
    return MessagesBody(parse(received.document), received)


def chat_of(dialect: Dialect = Dialect(), *, stream: bool = False, **members: object) -> JsonDict:  # noqa: B008
    return json.loads(body_of(**members).encode("m", dialect, stream=stream))


def messages_of(*turns: JsonDict, dialect: Dialect = Dialect(), **members: object) -> list[JsonDict]:  # noqa: B008
    return chat_of(dialect, messages=list(turns), **members)["messages"]


def user(*blocks: JsonDict | str) -> JsonDict:
    content = blocks[0] if isinstance(blocks[0], str) else list(blocks)
    return {"role": "user", "content": content}


def text(words: str, **more: object) -> JsonDict:
    return {"type": "text", "text": words, **more}


def test_the_smallest_request():
    assert chat_of() == {"model": "m", "messages": ASK, "max_tokens": 100}


def test_a_stream_asks_for_its_usage():
    assert chat_of(stream=True)["stream_options"] == {"include_usage": True}


def test_members_of_the_dialect():
    dialect = Dialect(max_tokens_field="max_completion_tokens", efforts={"max": "high"})
    chat = chat_of(dialect, output_config={"effort": "max"}, temperature=0.5, top_p=0.9, stop_sequences=["END"])
    assert chat["max_completion_tokens"] == 100 and "max_tokens" not in chat
    assert (chat["reasoning_effort"], chat["temperature"], chat["top_p"], chat["stop"]) == ("high", 0.5, 0.9, ["END"])


@pytest.mark.parametrize(
    ("members", "effort"),
    [
        ({}, None),
        ({"thinking": {"type": "adaptive"}}, None),
        ({"thinking": {"type": "disabled"}}, "none"),
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "high"}}, "none"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "low"),
        ({"thinking": {"type": "enabled", "budget_tokens": 10_000}}, "medium"),
        ({"thinking": {"type": "enabled", "budget_tokens": 60_000}}, "high"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}, "output_config": {"effort": "high"}}, "high"),
    ],
)
def test_effort(members, effort):
    assert chat_of(**members).get("reasoning_effort") == effort
    assert "reasoning_effort" not in chat_of(Dialect(loading=Loading(thinks=False)), **members)


SCHEMA = {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]}


def test_a_schema():
    form = {"format": {"type": "json_schema", "schema": SCHEMA}}
    wanted = {"type": "json_schema", "json_schema": {"name": "reply", "schema": SCHEMA, "strict": True}}
    assert chat_of(output_config=form)["response_format"] == wanted
    assert chat_of(Dialect(json_schema=False), output_config=form)["response_format"] == {
        "type": "json_object",
        "schema": SCHEMA,
    }


@pytest.mark.parametrize(
    "system",
    [
        "Be brief.",
        [text("Be brief.")],
        [text("Be brief.", cache_control={"type": "ephemeral"})],
        [text("x-anthropic-billing-header: cc_version=1; cc_entrypoint=cli;"), text("Be brief.")],
        "x-anthropic-billing-header: cc_version=1;\nBe brief.",
        [text("x-anthropic-billing-header: cc_version=2;\nBe brief.")],
    ],
)
def test_the_system_prompt_is_always_the_same_text(system):
    assert chat_of(system=system)["messages"][0] == {"role": "system", "content": "Be brief."}


def test_a_system_prompt_for_billing_alone_is_none():
    assert chat_of(system="x-anthropic-billing-header: cc_version=1;")["messages"] == ASK


def test_several_texts_become_one():
    assert messages_of(user(text("one"), text(""), text("two"))) == [{"role": "user", "content": "one\n\ntwo"}]


def test_images_and_documents():
    blocks = [
        text("Look."),
        {"type": "image", "source": PNG},
        {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "plain"}},
        {"type": "document", "title": "bill.pdf", "source": {**PNG, "media_type": "application/pdf"}},
        {"type": "document", "source": {"type": "content", "content": [text("within")]}},
        {"type": "search_result", "title": "T", "source": "S", "content": [text("found")]},
    ]
    (message,) = messages_of(user(*blocks))
    assert message["content"] == [
        text("Look."),
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
        text("plain"),
        {"type": "file", "file": {"filename": "bill.pdf", "file_data": "data:application/pdf;base64,iVBORw0KGgo="}},
        text("within"),
        text("T\nS\nfound"),
    ]


CALL = {"type": "tool_use", "id": "t1", "name": "ls", "input": {"path": "ä"}}
OTHER = {"type": "tool_use", "id": "t2", "name": "cat", "input": {}}


def result(call_id: str, content: object = "ok", **more: object) -> JsonDict:
    return {"type": "tool_result", "tool_use_id": call_id, "content": content, **more}


def test_a_round_of_tools():
    messages = messages_of(
        user("list"),
        {"role": "assistant", "content": [text("I look."), CALL, OTHER]},
        user(text("and then"), result("t1", is_error=False), result("t2", [text("no such file")], is_error=True)),
    )
    assert messages == [
        {"role": "user", "content": "list"},
        {
            "role": "assistant",
            "content": "I look.",
            "tool_calls": [
                {"id": "t1", "type": "function", "function": {"name": "ls", "arguments": '{"path": "ä"}'}},
                {"id": "t2", "type": "function", "function": {"name": "cat", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "ok"},
        {"role": "tool", "tool_call_id": "t2", "content": "Error: no such file"},
        {"role": "user", "content": "and then"},
    ]


def test_images_in_results_follow_them():
    messages = messages_of(user(result("t1", [text("a picture"), {"type": "image", "source": PNG}]), text("What?")))
    assert messages[0] == {"role": "tool", "tool_call_id": "t1", "content": "a picture"}
    assert [part["type"] for part in messages[1]["content"]] == ["text", "image_url", "text"]
    assert messages_of(user(result("t1", [{"type": "image", "source": PNG}])))[0]["content"].startswith("(attached")


@pytest.mark.parametrize("content", [None, "", []])
def test_an_empty_result(content):
    assert messages_of(user(result("t1", content))) == [{"role": "tool", "tool_call_id": "t1", "content": ""}]


def test_a_system_turn_stays_in_its_place():
    turns = [user("one"), {"role": "system", "content": [text("Note.")]}, {"role": "assistant", "content": "two"}]
    assert [message["role"] for message in messages_of(*turns)] == ["user", "system", "assistant"]


def test_a_system_turn_becomes_a_part_of_the_users_turn_where_templates_want_system_messages_in_front():
    turns = [user("one"), {"role": "system", "content": "Note."}, {"role": "assistant", "content": "two"}]
    messages = messages_of(*turns, dialect=Dialect(system_first=True), system="S")
    assert messages == [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "one\n\nNote."},
        {"role": "assistant", "content": "two"},
    ]
    with_image = messages_of(user({"type": "image", "source": PNG}), turns[1], dialect=Dialect(system_first=True))
    assert [part["type"] for part in with_image[0]["content"]] == ["image_url", "text"]


def test_thinking_of_our_own_goes_back_and_that_of_others_does_not():
    ours = {"type": "thinking", "thinking": "", "signature": seal_reasoning("hm")}
    theirs = {"type": "thinking", "thinking": "secret", "signature": "EqQBCg=="}
    hidden = {"type": "redacted_thinking", "data": "EqQBCg=="}
    turn = {"role": "assistant", "content": [theirs, hidden, ours, text("Blue.")]}
    assert messages_of(turn) == [{"role": "assistant", "content": "Blue.", "reasoning_content": "hm"}]
    assert messages_of(turn, dialect=Dialect(reasoning_field="")) == [{"role": "assistant", "content": "Blue."}]


def test_two_turns_of_one_session_have_the_same_beginning():
    """As Claude Code sends them: arrays become strings, and cache_control moves."""
    mark = {"cache_control": {"type": "ephemeral"}}
    first = [user(text("ask", **mark)), {"role": "system", "content": [text("env")]}]
    later = [
        user(text("ask")),
        {"role": "system", "content": "env"},
        {"role": "assistant", "content": [text("done"), CALL]},
        user(result("t1", "ok", is_error=False, **mark)),
    ]
    one = body_of(messages=first, system=[text("x-anthropic-billing-header: a"), text("S", **mark)], stream=True)
    two = body_of(messages=later, system=[text("x-anthropic-billing-header: b"), text("S")], stream=True)
    for dialect in (Dialect(), Dialect(system_first=True)):
        beginning, whole = one.encode("m", dialect, stream=True), two.encode("m", dialect, stream=True)
        end = beginning.index(b'],"max_tokens"')
        assert whole[:end] == beginning[:end]


TOOL = {"name": "ls", "description": "Lists.", "input_schema": {"type": "object"}}


def test_tools():
    tools = [
        TOOL,
        {"type": "web_search_20250305", "name": "web_search", "max_uses": 5},
        {"type": "bash_20250124", "name": "bash"},
        {"type": "custom", "name": "cat", "input_schema": {"type": "object"}, "cache_control": {"type": "ephemeral"}},
    ]
    chat = chat_of(tools=tools)
    assert [tool["function"]["name"] for tool in chat["tools"]] == ["ls", "cat"]
    assert chat["tools"][0]["function"] == {"name": "ls", "parameters": {"type": "object"}, "description": "Lists."}
    assert "tool_choice" not in chat


@pytest.mark.parametrize(
    ("choice", "members"),
    [
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "any"}, {"tool_choice": "required"}),
        ({"type": "none"}, {"tool_choice": "none"}),
        ({"type": "tool", "name": "ls"}, {"tool_choice": {"type": "function", "function": {"name": "ls"}}}),
        (
            {"type": "auto", "disable_parallel_tool_use": True},
            {"tool_choice": "auto", "parallel_tool_calls": False},
        ),
    ],
)
def test_tool_choice(choice, members):
    chat = chat_of(tools=[TOOL], tool_choice=choice)
    assert {name: chat[name] for name in members} == members
    assert "tool_choice" not in chat_of(tool_choice=choice)


def test_what_no_chat_server_knows_is_left_out():
    chat = chat_of(
        metadata={"user_id": "canary"},
        context_management={"edits": []},
        service_tier="auto",
        mcp_servers=[],
        container="c",
        top_k=5,
        thinking={"type": "adaptive", "display": "omitted"},
        betas=["x"],
        brand_new={"a": 1},
    )
    assert set(chat) == {"model", "messages", "max_tokens"}


INNER = "messages[0].content[0].source"


def holding(block):
    """A document with one block."""
    return {"type": "document", "source": {"type": "content", "content": [block]}}


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": ["hello"]}, "messages[0]"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "developer", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content"),
        ({"messages": [user({"type": "text"})]}, "messages[0].content[0].text"),
        ({"messages": [user({"type": "text", "text": None})]}, "messages[0].content[0].text"),
        ({"messages": [user({"type": "image"})]}, "messages[0].content[0].source"),
        ({"messages": [user({"type": "image", "source": {"type": "file", "file_id": "f"}})]}, "messages"),
        ({"messages": [user({"type": "tool_result", "content": "x"})]}, "messages[0].content[0].tool_use_id"),
        ({"messages": [user(result("t", 5))]}, "messages[0].content[0].content"),
        ({"messages": [user(result("t", [text(5)]))]}, "messages[0].content[0].content[0].text"),
        (
            {"messages": [user(result("t", [{"type": "image", "source": "x"}]))]},
            "messages[0].content[0].content[0].source",
        ),
        ({"messages": [user(holding({"type": "image"}))]}, "messages[0].content[0].source.content[0].source"),
        ({"messages": [user(holding(holding(text(None))))]}, f"messages[0].content[0]{2 * '.source.content[0]'}.text"),
        ({"messages": [user({"type": "document", "source": {"type": "content", "content": 5}})]}, f"{INNER}.content"),
        (
            {"messages": [user({"type": "search_result", "content": [text([])]})]},
            "messages[0].content[0].content[0].text",
        ),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "x"}]}]},
            "messages[0].content[0].name",
        ),
        ({"model": 5}, "model"),
        ({"system": 5}, "system"),
        ({"system": ["x"]}, "system"),
        ({"stream": "yes"}, "stream"),
        ({"temperature": "hot"}, "temperature"),
        ({"stop_sequences": "END"}, "stop_sequences"),
        ({"stop_sequences": [5]}, "stop_sequences"),
        ({"tools": {}}, "tools"),
        ({"tools": ["ls"]}, "tools[0]"),
        ({"tools": [{"description": "x"}]}, "tools[0].name"),
        ({"tools": [{"name": "ls", "input_schema": "x"}]}, "tools[0].input_schema"),
        ({"tools": [{**TOOL, "description": 5}]}, "tools[0].description"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice"),
        ({"tool_choice": {"type": ["auto"]}}, "tool_choice"),
        ({"tool_choice": {"type": {"auto": 1}}}, "tool_choice"),
        ({"thinking": "yes"}, "thinking"),
        ({"output_config": "high"}, "output_config"),
        ({"metadata": "me"}, "metadata"),
    ],
)
def test_mistakes_are_named(members, param):
    with pytest.raises(RequestError) as caught:
        body_of(**members)
    assert caught.value.param == param and param.split("[")[0] in caught.value.message
    assert caught.value.status == 400
