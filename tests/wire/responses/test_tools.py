"""Tools, tool choice and custom tools: wire page section 3."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import RequestError
from app.wire.responses.custom import Unwrapper, unwrap, wrap
from app.wire.responses.tools import MOST_TOOLS, Toolbox, flat_name
from tests.wire.streams import answer, call, chat, messages, request, response_of, shape

LEGAL = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")


def function(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "function", "name": name, **more}


def namespace(name: str, *tools: dict[str, Any]) -> dict[str, Any]:
    return {"type": "namespace", "name": name, "description": "d", "tools": list(tools)}


def sent(**fields: Any) -> dict[str, Any]:
    """The members of the chat body that speak of tools."""
    body = chat(**fields)
    return {name: body[name] for name in ("tools", "tool_choice", "parallel_tool_calls") if name in body}


def names(**fields: Any) -> list[str]:
    return [tool["function"]["name"] for tool in sent(**fields).get("tools", [])]


def called(name: str, arguments: str, tools: list[Any], **more: Any) -> dict[str, Any]:
    """The item that a backend's call becomes."""
    chat_answer = answer("tool_calls", tool_calls=[call(None, "c1", name, arguments)])
    return dict(response_of(chat_answer, request(tools=tools, **more))["output"][0])


def test_function() -> None:
    schema = {"type": "object", "properties": {"q": {"type": "string"}}}
    tool = function("f", description="does f", parameters=schema, strict=True)
    expected = {"name": "f", "description": "does f", "parameters": schema, "strict": True}
    assert sent(tools=[tool]) == {"tools": [{"type": "function", "function": expected}]}
    item = called("f", "{}", [tool])
    assert (item["type"], item["name"], item["arguments"], "namespace" in item) == ("function_call", "f", "{}", False)


def test_null_members_of_a_function_are_left_out() -> None:
    tool = function("f", description=None, parameters=None, strict=None)
    assert sent(tools=[tool, function("g")]) == {
        "tools": [{"type": "function", "function": {"name": "f"}}, {"type": "function", "function": {"name": "g"}}]
    }


def test_function_in_chat_shape_is_understood_and_echoed_flat() -> None:
    tool = {"type": "function", "function": {"name": "f", "description": "d"}}
    assert names(tools=[tool]) == ["f"]
    echoed = response_of(answer(content="hi"), request(tools=[tool]))["tools"]
    assert echoed == [function("f", description="d", parameters=None, strict=None)]


def test_echo_is_flat_with_every_member() -> None:
    tools = [function("f"), {"type": "custom", "name": "p"}, {"type": "web_search"}, namespace("n", function("g"))]
    echoed = response_of(answer(content="hi"), request(tools=tools))["tools"]
    assert echoed == [
        function("f", description=None, parameters=None, strict=None),
        {"type": "custom", "name": "p"},
        {"type": "web_search"},
        namespace("n", function("g", description=None, parameters=None, strict=None)),
    ]


def test_hosted_tools_are_dropped() -> None:
    kinds = ("web_search", "file_search", "code_interpreter", "computer", "mcp", "image_generation", "tool_search")
    hosted = [{"type": kind} for kind in (*kinds, "local_shell", "acme:thing")]
    assert names(tools=[*hosted, function("f")]) == ["f"]
    assert sent(tools=hosted, tool_choice="required", parallel_tool_calls=False) == {}


def test_choice_and_parallel_need_tools() -> None:
    assert sent(tool_choice="auto", parallel_tool_calls=True) == {}
    assert sent(tools=[], tool_choice="required") == {}
    assert sent(tools=[function("f")]).keys() == {"tools"}
    both = sent(tools=[function("f")], tool_choice="auto", parallel_tool_calls=False)
    assert (both["tool_choice"], both["parallel_tool_calls"]) == ("auto", False)


F_CHOSEN = {"type": "function", "function": {"name": "f"}}

CHOICES: list[tuple[str, Any, Any, Any]] = [
    ("none", "none", "none", "none"),
    ("auto", "auto", "auto", "auto"),
    ("required", "required", "required", "required"),
    ("function", {"type": "function", "name": "f"}, F_CHOSEN, {"type": "function", "name": "f"}),
    (
        "custom",
        {"type": "custom", "name": "p"},
        {"type": "function", "function": {"name": "p"}},
        {"type": "custom", "name": "p"},
    ),
    ("chat shape", {"type": "function", "function": {"name": "f"}}, F_CHOSEN, {"type": "function", "name": "f"}),
    (
        "in a namespace",
        {"type": "function", "name": "inner", "namespace": "ns"},
        {"type": "function", "function": {"name": "ns__inner"}},
        {"type": "function", "name": "inner", "namespace": "ns"},
    ),
    ("hosted", {"type": "web_search"}, None, {"type": "web_search"}),
]


@pytest.mark.parametrize(("choice", "in_chat", "echoed"), [row[1:] for row in CHOICES], ids=[row[0] for row in CHOICES])
def test_tool_choice(choice: Any, in_chat: Any, echoed: Any) -> None:
    tools = [function("f"), {"type": "custom", "name": "p"}, namespace("ns", function("inner"))]
    assert sent(tools=tools, tool_choice=choice).get("tool_choice") == in_chat
    asked = request(tools=tools, tool_choice=choice)
    assert asked.echo["tool_choice"] == echoed


def test_choice_of_a_dropped_tool_is_no_error() -> None:
    assert sent(tools=[{"type": "web_search"}], tool_choice={"type": "function", "name": "f"}) == {}


def test_allowed_tools_limit_what_is_sent_not_what_is_echoed() -> None:
    tools = [function("f"), function("g"), {"type": "custom", "name": "p"}, namespace("n", function("h"))]
    choice = {"type": "allowed_tools", "mode": "required", "tools": [function("f"), {"type": "custom", "name": "p"}]}
    both = sent(tools=tools, tool_choice=choice)
    assert [tool["function"]["name"] for tool in both["tools"]] == ["f", "p"]
    assert both["tool_choice"] == "required"
    response = response_of(answer(content="hi"), request(tools=tools, tool_choice=choice))
    assert [tool["name"] for tool in response["tools"]] == ["f", "g", "p", "n"]
    assert response["tool_choice"] == choice


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([function("h")], ["n__h"]),
        ([{"type": "namespace", "name": "n"}], ["n__h"]),
        ([{"type": "web_search"}], []),
        ([], []),
    ],
)
def test_allowed_entries(entries: list[Any], expected: list[str]) -> None:
    choice = {"type": "allowed_tools", "tools": entries}
    tools = [function("f"), namespace("n", function("h"))]
    assert names(tools=tools, tool_choice=choice) == expected
    assert sent(tools=tools, tool_choice=choice).get("tool_choice") == ("auto" if expected else None)


# --- namespaces ----------------------------------------------------------------------------------


def test_an_entry_without_a_name_allows_nothing() -> None:
    tools = [function("None"), function("f")]
    choice = {"type": "allowed_tools", "tools": [{"type": "function"}, {"name": ["f"]}, {"name": None}]}
    assert names(tools=tools, tool_choice=choice) == []


@pytest.mark.parametrize("place", ["tools", "a namespace", "an item of the input"])
def test_the_number_of_tools_is_bounded(place: str) -> None:
    def asked(count: int) -> dict[str, Any]:
        tools = [function(f"f{number}") for number in range(count)]
        if place == "a namespace":
            return {"input": "x", "tools": [namespace("n", *tools[1:])]}
        if place == "tools":
            return {"input": "x", "tools": tools}
        item = {"type": "additional_tools", "tools": tools[1:]}
        return {"input": [{"role": "user", "content": "x"}, item], "tools": tools[:1]}

    request(**asked(MOST_TOOLS))
    with pytest.raises(RequestError, match="more than 5000 tools") as refused:
        request(**asked(MOST_TOOLS + 1))
    assert refused.value.param == "tools"


def test_namespace_is_flattened_and_comes_back() -> None:
    tools = [namespace("ns", function("inner", description="d"), {"type": "custom", "name": "raw"})]
    assert names(tools=tools) == ["ns__inner", "ns__raw"]
    item = called("ns__inner", "{}", tools)
    assert (item["type"], item["name"], item["namespace"]) == ("function_call", "inner", "ns")
    raw = called("ns__raw", '{"input": "x"}', tools)
    assert (raw["type"], raw["name"], raw["namespace"], raw["input"]) == ("custom_tool_call", "raw", "ns", "x")


def test_history_with_a_namespace_goes_back_under_the_same_name() -> None:
    long = "n" * 80
    tools = [namespace(long, function("inner")), namespace(long + "x", function("inner"))]
    offered = names(tools=tools)
    for space, wire_name in zip((long, long + "x"), offered, strict=True):
        item = {"type": "function_call", "call_id": "c", "name": "inner", "namespace": space, "arguments": "{}"}
        assert messages([item], tools=tools)[0]["tool_calls"][0]["function"]["name"] == wire_name
        assert called(wire_name, "{}", tools)["namespace"] == space


def test_history_of_a_tool_that_is_no_longer_offered() -> None:
    item = {"type": "function_call", "call_id": "c", "name": "inner", "namespace": "ns", "arguments": "{}"}
    assert messages([item])[0]["tool_calls"][0]["function"]["name"] == "ns__inner"


@pytest.mark.parametrize("carrier", ["additional_tools", "tool_search_output"])
def test_tools_that_come_as_an_item_are_offered(carrier: str) -> None:
    # Codex sends no `tools` for its newer models: all are in the first item.
    brought = [namespace("functions", {"type": "custom", "name": "exec"}, function("wait")), function("g")]
    item = {"type": carrier, "role": "developer", "id": "at_1", "tools": brought}
    asked = [item, {"role": "user", "content": "hello"}]
    assert names(input=asked, tools=[function("f")]) == ["f", "g", "functions__exec", "functions__wait"]
    assert messages(asked) == [{"role": "user", "content": "hello"}]
    raw = called("functions__exec", '{"input": "text(1)"}', [], input=asked)
    assert (raw["type"], raw["namespace"], raw["input"]) == ("custom_tool_call", "functions", "text(1)")
    assert response_of(answer(content="hi"), request(input=asked))["tools"] == []


def test_tools_of_items_in_the_history_are_offered_still_and_the_newer_one_wins() -> None:
    item = {"type": "additional_tools", "tools": [function("f", description="old"), namespace("n", function("g"))]}
    asked = request(tools=[function("f", description="new"), namespace("n", function("g", description="new"))])
    asked = asked.after([item])
    offered = asked.toolbox.members()["tools"]
    assert [(tool["function"]["name"], tool["function"]["description"]) for tool in offered] == [
        ("f", "new"),
        ("n__g", "new"),
    ]


@pytest.mark.parametrize("tools", [{}, [{}], [{"type": "function"}], [{"type": "namespace", "name": "n"}]])
def test_wrong_tools_in_an_item_are_refused_by_name(tools: Any) -> None:
    with pytest.raises(RequestError, match=r"input\[1\]\.tools") as refused:
        request(input=[{"role": "user", "content": "?"}, {"type": "additional_tools", "tools": tools}])
    assert refused.value.param == "input"


def test_flat_names_never_clash_with_plain_ones() -> None:
    tools = [namespace("a", function("b")), function("a__b")]
    assert sorted(names(tools=tools)) == ["a__b", "n2_a__b"]
    assert called("a__b", "{}", tools).get("namespace") is None
    assert called("n2_a__b", "{}", tools)["namespace"] == "a"


NAME = st.text(alphabet="ab_.é-", min_size=1, max_size=70)


@given(st.lists(st.tuples(NAME, st.lists(NAME, min_size=1, max_size=4)), max_size=4), st.lists(NAME, max_size=3))
def test_flat_names_are_unique_legal_and_lead_back(spaces: list[tuple[str, list[str]]], plain: list[str]) -> None:
    tools = [*(namespace(space, *map(function, inner)) for space, inner in spaces), *map(function, plain)]
    box = Toolbox(tools)
    offered = [tool["function"]["name"] for tool in box.members().get("tools", [])]
    assert len(offered) == len(set(offered))
    for space, inner in spaces:
        for name in inner:
            wire_name = box.wire_name(name, space)
            assert LEGAL.match(wire_name)
            tool = box.tool(wire_name)
            assert tool is not None
            assert (tool.namespace, tool.name) == (space, name)


@pytest.mark.parametrize(
    ("space", "name", "expected"),
    [
        ("ns", "inner", "ns__inner"),
        ("my server", "in.ner", "my_server__in_ner"),
        ("other." * 20, "inner", "er_" + "other_" * 9 + "__inner"),
        ("ns", "i" * 64, "i" * 64),
    ],
)
def test_flat_name(space: str, name: str, expected: str) -> None:
    assert flat_name(space, name) == expected
    assert LEGAL.match(flat_name(space, name))
    marked = [flat_name(space, name, mark) for mark in ("n2_", "n3_")]
    assert all(LEGAL.match(flat) and flat.endswith(expected[-5:]) for flat in marked)
    assert len({expected, *marked}) == 3


# --- custom tools --------------------------------------------------------------------------------

GRAMMAR = {"type": "grammar", "syntax": "lark", "definition": "start: WORD"}


def test_custom_tool_is_a_function_with_one_required_string() -> None:
    tool = {"type": "custom", "name": "patch", "description": "applies", "format": GRAMMAR}
    function_ = sent(tools=[tool])["tools"][0]["function"]
    assert function_["name"] == "patch"
    assert function_["description"].startswith("applies")
    assert "start: WORD" in function_["description"]
    assert "lark" in function_["description"]
    parameters = function_["parameters"]
    assert parameters["required"] == list(parameters["properties"]) == ["input"]
    assert parameters["properties"]["input"]["type"] == "string"


def test_custom_tool_without_description_or_grammar() -> None:
    tools = [{"type": "custom", "name": "a"}, {"type": "custom", "name": "b", "format": {"type": "text"}}]
    for tool in sent(tools=tools)["tools"]:
        assert "description" not in tool["function"]


def test_custom_call_holds_the_raw_string() -> None:
    item = called("p", wrap('*** Begin\n"x"\n'), [{"type": "custom", "name": "p"}])
    assert shape([item]) == [("custom", "p", '*** Begin\n"x"\n')]
    assert item["id"].startswith("ctc_")
    assert item["call_id"] == "c1"


def test_only_custom_tools_are_unwrapped() -> None:
    assert shape([called("f", '{"input": "x"}', [function("f")])]) == [("call", "f", '{"input": "x"}')]


UNWRAPPED: list[tuple[str, str]] = [
    ('{"input": "x"}', "x"),
    ('  {\n "input" :\t"x" }  ', "x"),
    ('{"input": ""}', ""),
    ('{"input": "a\\n\\"b\\"\\t\\/\\\\ \\u00e9"}', 'a\n"b"\t/\\ é'),
    ('{"input": "\\ud83d\\ude00"}', "\U0001f600"),
    ('{"input": "a\nb"}', "a\nb"),  # raw line ends, which some models write
    ('{"input": "x", "extra": 1}', "x"),
    ('{"patch": "x"}', "x"),
    ('{"note": "n", "input": "x"}', "x"),
    ("*** Begin Patch\n", "*** Begin Patch\n"),  # no wrapper at all
    ('"just a string"', "just a string"),
    ('{"input": {"a": 1}}', '{"input": {"a": 1}}'),
    ('{"a": 1, "b": 2}', '{"a": 1, "b": 2}'),
    ('{"other"', '{"other"'),
    ("", ""),
]


@pytest.mark.parametrize(("arguments", "expected"), UNWRAPPED)
def test_unwrap(arguments: str, expected: str) -> None:
    assert unwrap(arguments) == expected
    for size in (1, 2, 3, 1000):
        assert unwrapped(arguments, size) == expected


def unwrapped(arguments: str, size: int) -> str:
    unwrapper = Unwrapper()
    pieces = [unwrapper.feed(arguments[at : at + size]) for at in range(0, len(arguments), size)]
    return "".join(pieces) + unwrapper.finish()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"input": "C:\\dir\\x"}', "C:\\dir\\x"),  # escapes that JSON does not know stay as they are
        ('{"input": "\\ud83d"}', "\ud83d"),
        ('{"input": "\\ud83dx\\n"}', "\ud83dx\n"),
        ('{"input": "\\ud83d\\u0041"}', "\ud83dA"),
        ('{"input": "\\u12"}', "\\u12"),
        ('{"input": "cut', "cut"),
        ('{"input": "cut\\', "cut"),
        ('{"input": "cut\\u00', "cut"),
        ('{"input": "cut\\ud83d\\ud', "cut"),
    ],
)
def test_unwrapper_with_broken_strings(arguments: str, expected: str) -> None:
    for size in (1, 2, 3, 5, 1000):
        assert unwrapped(arguments, size) == expected


ANY_TEXT = st.text(st.characters(exclude_categories=[]), max_size=40)


@given(ANY_TEXT, st.booleans(), st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_unwrapper_gives_the_string_back_however_it_is_cut(text: str, ascii_only: bool, sizes: list[int]) -> None:
    arguments = json.dumps({"input": text}, ensure_ascii=ascii_only)
    unwrapper, given_out, at, turn = Unwrapper(), "", 0, 0
    while at < len(arguments):
        size = sizes[turn % len(sizes)]
        given_out += unwrapper.feed(arguments[at : at + size])
        assert text.startswith(given_out) or not ascii_only
        at, turn = at + size, turn + 1
    assert given_out + unwrapper.finish() == json.loads(arguments)["input"]


@given(ANY_TEXT)
def test_unwrapper_takes_anything(text: str) -> None:
    assert unwrapped(text, 3) == unwrapped(text, 1)
    assert unwrapped('{"input": "' + text, 3) == unwrapped('{"input": "' + text, 1)


def test_unwrapper_gives_out_at_once() -> None:
    unwrapper = Unwrapper()
    assert [unwrapper.feed(piece) for piece in ('{"in', 'put": "a', "b", "\\", 'n"', "}")] == [
        "",
        "a",
        "b",
        "",
        "\n",
        "",
    ]
