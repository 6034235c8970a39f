"""Who sends a request, what for, and which of its texts are turns of the user."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from app.routing.classify import classify, judge
from app.routing.purpose import acts
from app.routing.reading import read
from app.routing.sender import CLIENTS, Sender, sender_of
from app.routing.signatures import SIGNATURES
from app.types import Dialect, Lane
from app.wire.responses.body import ResponsesBody
from app.wire.responses.request import parse as parse_responses
from tests.routing.test_classify import JSON, request

HERE = Path(__file__).parent
RECORDED = yaml.safe_load((HERE / "clients.yaml").read_text(encoding="utf-8"))
SHAPES = yaml.safe_load((HERE / "shapes.yaml").read_text(encoding="utf-8"))
CHATS = SHAPES["chats"]
PROJECT_ASKS: dict[str, list[str]] = yaml.safe_load((HERE / "asks.yaml").read_text(encoding="utf-8"))


def message(entry: Any) -> dict[str, Any]:
    """Return a message of clients.yaml."""
    if isinstance(entry, dict):
        return entry
    role, content = entry
    if isinstance(content, str):
        return {"role": role, "content": filled(content)}
    return {"role": role, "content": [{"type": "text", "text": filled(part)} for part in content]}


def filled(text: str) -> str:
    """Return a text with its placeholders filled: more than is read of one message, or a long ask."""
    return text.replace("{long}", "a line of it\n" * 1_000).replace("{words}", "word " * 1_000)


def declared(names: list[str]) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in names]


def in_lower_case(headers: dict[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


@pytest.mark.parametrize("case", RECORDED, ids=[case["name"] for case in RECORDED])
def test_a_client_is_known_and_its_ask_is_found(case: dict[str, Any]) -> None:
    chat = {"messages": [message(entry) for entry in case["chat"]], "tools": declared(case.get("tools", []))}
    sender = sender_of(chat, in_lower_case(case.get("headers", {})))
    wanted = case["is"]
    assert (sender.client, sender.purpose, sender.tools) == (wanted["client"], wanted["purpose"], wanted["tools"])
    turns = [turn.text for turn in read(chat, sender.signature).turns]
    if "turns" in wanted:
        assert turns == wanted["turns"]
    for turn, beginning in zip(turns, wanted.get("begins", []), strict=False):
        assert turn.startswith(beginning)


def bodies(case: dict[str, Any], number: int) -> list[dict[str, Any]]:
    """Return the bodies of a case of shapes.yaml, one for each conversation that it may hold."""
    text = case.get("text", "")
    if case.get("before"):
        text = "{chat}\n\n" + text
    texts = case.get("messages", [text])
    chats = [*CHATS[number % len(CHATS) :], *CHATS[: number % len(CHATS)]] if "{chat}" in str(case) + text else [""]

    def body(chat: str) -> dict[str, Any]:
        system = [{"role": "system", "content": case["system"]}] if "system" in case else []
        said = [
            {"role": ("user", "assistant")[at % 2], "content": text.replace("{chat}", chat)}
            for at, text in enumerate(texts)
        ]
        return {"messages": [*system, *said], "tools": declared(case.get("tools", []))}

    return [body(chat) for chat in chats]


PURPOSES = {
    "background": Lane.BACKGROUND,
    "people": Lane.INTERACTIVE,
    "gaps": Lane.BACKGROUND,
    "agents": Lane.AGENT,
    "plain": Lane.INTERACTIVE,
}


@pytest.mark.parametrize(
    ("kind", "number"), [(kind, number) for kind in PURPOSES for number in range(len(SHAPES[kind]))]
)
def test_the_purpose_of_unknown_programs(kind: str, number: int) -> None:
    for body in bodies(SHAPES[kind][number], number):
        assert sender_of(body, {}).purpose == PURPOSES[kind], body["messages"]


ASKS = (
    "why is CI red?", "Undo the change in config.py", "Die Suche findet keine Umlaute", "what rhymes with bread?",
    "go on", "Give the release a title", "summarise the module", "<user_query>sort the imports</user_query>",
    "Write tags for the image as JSON only", "corrige le lien", "Continue the text in README.md", "{\"a\": 1}",
)  # fmt: skip
AGENTS: dict[str, dict[str, Any]] = {
    "tools and a long prompt": {
        "system": "Act in the checkout.\n" + "* One change at a time.\n" * 60,
        "tools": ["exec"],
    },
    "tools and a short prompt": {"system": "Be brief.", "tools": ["view_file", "change_file"]},
    "tools alone": {"tools": ["mcp__fs__write_file", "weather"]},
    "a long prompt alone": {"system": "You are a coding agent. Run commands in the shell.\n" + "* Be careful.\n" * 80},
    "a short prompt alone": {"system": "Software agent. Edit the files of this repository with diffs."},
}


@pytest.mark.parametrize("shape", AGENTS)
@pytest.mark.parametrize("ask", ASKS)
def test_an_agent_is_one_whatever_it_is_asked(shape: str, ask: str) -> None:
    (body,) = bodies({**AGENTS[shape], "text": ask}, 0)
    assert sender_of(body, {}).purpose == Lane.AGENT


def share(kind: str, tasks: set[str]) -> float:
    """Return the share of the asks of a kind that an agent sends whose task is one of `tasks`."""
    shapes = [AGENTS["tools and a long prompt"], AGENTS["tools alone"], AGENTS["a short prompt alone"]]
    asks = [bodies({**shape, "text": ask}, 0)[0] for shape in shapes for ask in PROJECT_ASKS[kind]]
    return sum(classify(request(ask)).task in tasks for ask in asks) / len(asks)


def test_what_agents_are_asked_is_about_the_project() -> None:
    assert share("project", {"code"}) >= 0.95
    assert share("project", {"web_search"}) <= 0.01
    assert share("elsewhere", {"code"}) <= 0.45


@pytest.mark.parametrize(
    "code",
    [
        "<UserCard>\n  <userName>x</userName>\n</UserCard>\nwhy is it empty?",
        "<dependency>\n<groupId>a</groupId>\n</dependency>\nwhich version?",
        "<linearGradient id='a'></linearGradient> does not show",
    ],
)
def test_code_in_tags_is_the_users(code: str) -> None:
    chat = {"messages": [{"role": "user", "content": code}]}
    assert [turn.text for turn in read(chat).turns] == [code]


# --- what does not change ---------------------------------------------------------------------------


def conversations() -> list[tuple[str, dict[str, Any]]]:
    """Return the conversations of clients.yaml that are no prompts of programs."""
    return [(case["name"], case) for case in RECORDED if case["is"]["purpose"] != "background"]


@pytest.mark.parametrize(("name", "case"), conversations(), ids=[name for name, _ in conversations()])
def test_client_and_purpose_stay_while_a_conversation_grows(name: str, case: dict[str, Any]) -> None:
    headers, tools = in_lower_case(case.get("headers", {})), declared(case.get("tools", []))
    messages = [message(entry) for entry in case["chat"]]
    wanted = case["is"]["client"], case["is"]["purpose"]
    for more in (
        {"role": "user", "content": "Name the chat in five words, JSON only:\n\nUser: hi\nAssistant: hello"},
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "get_weather"}}]},
        {"role": "tool", "content": "<chat_history>\nUSER: hi\n</chat_history>"},
        {"role": "assistant", "content": "Here is a title: tags, JSON."},
        {"role": "user", "content": "my next question"},
    ):
        messages.append(more)
        sender = sender_of({"messages": messages, "tools": tools}, headers)
        assert (sender.client, sender.purpose) == wanted, name


def test_a_gap_in_a_program_is_code_and_background() -> None:
    for number, case in enumerate(SHAPES["gaps"]):
        for body in bodies(case, number):
            tags = classify(request(body))
            assert (tags.task, tags.purpose, tags.complexity) == ("code", Lane.BACKGROUND, "low")


def test_a_lower_lane_does_not_change_the_task() -> None:
    body = {"messages": [{"role": "user", "content": "write a python function that sorts a list"}]}
    tags = judge(replace(request(body), lane=Lane.BACKGROUND)).tags
    assert (tags.task, tags.purpose) == ("code", Lane.BACKGROUND)


def test_a_lane_makes_no_request_easy() -> None:
    hard = "Prove that the scheduler is linearizable, derive its complexity and give a rigorous counterexample."
    chat = request({"messages": [{"role": "user", "content": hard}]})
    lowered = judge(replace(chat, lane=Lane.BACKGROUND)).tags
    assert lowered.purpose == Lane.BACKGROUND
    assert (lowered.complexity, lowered.difficulty) == (judge(chat).tags.complexity, judge(chat).tags.difficulty)
    assert lowered.complexity == "high"


@pytest.mark.parametrize(
    "name", ["read_file", "fs.write", "mcp__git__commit", "runShell", "BASH", "edit-lines", "x_1_exec"]
)
def test_tools_that_act(name: str) -> None:
    assert acts(name)
    assert acts(f"get_weather\n{name}")


@pytest.mark.parametrize(
    "name", ["", "get_weather", "book_room", "search", "list_orders", "file_a_claim", "shellfish", "9"]
)
def test_tools_that_do_not(name: str) -> None:
    assert not acts(name)


@pytest.mark.parametrize(
    ("types", "purpose"),
    [
        (["web_search"], Lane.INTERACTIVE),
        (["file_search", "code_interpreter"], Lane.INTERACTIVE),
        (["image_generation", "mcp"], Lane.INTERACTIVE),
        (["local_shell"], Lane.AGENT),
        (["computer_use_preview"], Lane.AGENT),
        (["web_search", "apply_patch"], Lane.AGENT),
    ],
)
def test_tools_that_a_server_runs_are_declared_too(types: list[str], purpose: Lane) -> None:
    fields = {"input": "who won?", "tools": [{"type": kind} for kind in types]}
    body = ResponsesBody(parse_responses(fields))
    tags = classify(replace(request({"messages": [{"role": "user", "content": "hi"}]}), body=body))
    assert (tags.tools, tags.purpose) == (True, purpose)
    assert set(types).isdisjoint(json.loads(body.encode("m", Dialect(), stream=False)).get("tools", ()))
    assert b"hosted_tools" not in body.encode("m", Dialect(), stream=False)
    in_chat = sender_of({"messages": [{"role": "user", "content": "hi"}], "tools": fields["tools"]}, {})
    assert (in_chat.tools, in_chat.purpose) == (True, purpose)


# --- any shape --------------------------------------------------------------------------------------

NAMES = st.sampled_from(["role", "content", "type", "text", "tools", "function", "name", "tool_calls", "messages"])
ANYTHING = st.recursive(
    JSON, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=12
)
ROLES = st.sampled_from(["user", "system", "developer", "assistant", "tool"])
TEXTS = st.sampled_from([case["text"] for kind in ("background", "gaps") for case in SHAPES[kind] if "text" in case])
MESSAGES = st.fixed_dictionaries(
    {}, optional={"role": ROLES | ANYTHING, "content": TEXTS | ANYTHING, "tool_calls": ANYTHING}
)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(NAMES, ANYTHING, max_size=4)
    | st.fixed_dictionaries(
        {"messages": st.lists(MESSAGES, max_size=5)}, optional={"tools": ANYTHING, "functions": ANYTHING}
    ),
    st.dictionaries(st.sampled_from(["user-agent", "originator", "x-app", "x-title", "else"]), st.text(max_size=40)),
    st.sampled_from(SIGNATURES.clients),
)
def test_no_shape_of_a_body_is_an_error(body: dict[str, Any], headers: dict[str, str], signature: Any) -> None:
    sender = sender_of(body, headers)
    assert isinstance(sender, Sender)
    assert sender.client in CLIENTS and isinstance(sender.tools, bool) and sender.purpose in Lane
    for one in (sender.signature, signature):
        assert all(turn.text or turn.has_image for turn in read(body, one).turns)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"messages": None, "tools": "bash"},
        {"messages": "hi", "tools": {"name": "bash"}},
        {"messages": [1, 2.5, None, True, "user", ["user"], {"role": "user", "content": None}]},
        {
            "messages": [
                {"role": ["user"], "content": {"text": "hi"}},
                {"role": "user", "content": [None, 1, {"text": 3}]},
            ]
        },
        {"messages": [{"role": "assistant", "tool_calls": "bash"}], "functions": [1, {"name": 7}, {"function": "f"}]},
        {"messages": [{"role": "system", "content": [["nested"]]}], "tools": [None, {"type": ["function"]}]},
    ],
)
def test_wrong_types_count_as_absent(body: Any) -> None:
    sender = sender_of(body, {})
    assert (sender.client, sender.tools, sender.purpose) == ("other", False, Lane.INTERACTIVE)
    assert read(body, sender.signature).turns == ()
