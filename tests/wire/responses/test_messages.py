"""Responses items to chat messages: wire page section 2."""

from __future__ import annotations

from typing import Any

import pytest

from app.types import Dialect
from app.wire.reasoning import seal_reasoning, unseal_reasoning
from tests.wire.streams import messages

IMAGE = "data:image/png;base64,AAAA"

Items = list[dict[str, Any]]


def user(content: Any = "q") -> dict[str, Any]:
    return {"role": "user", "content": content}


def said(content: Any) -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "content": content}


def called(call_id: str, name: str = "w", arguments: str = "{}") -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}


def result(call_id: str, output: Any = "ok") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def thought(text: str) -> dict[str, Any]:
    return {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": text}]}


def tool_call(call_id: str, name: str = "w", arguments: str = "{}") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def assistant(content: str = "", *calls: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more, **({"tool_calls": list(calls)} if calls else {})}


def tool(call_id: str, content: str = "ok") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


USER = user()

ITEMS: list[tuple[str, Items, Items]] = [
    ("role without type is a message", [USER], [USER]),
    ("null type with a role is a message", [{"type": None, **USER}], [USER]),
    ("message type", [{"type": "message", **USER}], [USER]),
    ("system", [{"role": "system", "content": "s"}, USER], [{"role": "system", "content": "s"}, USER]),
    ("developer is system", [{"role": "developer", "content": "d"}, USER], [{"role": "system", "content": "d"}, USER]),
    (
        "developer in the middle stays there",
        [USER, {"role": "developer", "content": "d"}],
        [USER, {"role": "system", "content": "d"}],
    ),
    ("order is kept", [user("1"), said("2"), user("3")], [user("1"), assistant("2"), user("3")]),
    (
        "assistant members are dropped",
        [USER, {**said("a"), "id": "msg_1", "status": "completed", "phase": "commentary"}],
        [USER, assistant("a")],
    ),
    ("assistant with role and content only", [USER, {"role": "assistant", "content": "a"}], [USER, assistant("a")]),
    ("assistant with null content", [USER, {"role": "assistant", "content": None}], [USER, assistant("")]),
    ("assistant with no parts", [USER, said([])], [USER, assistant("")]),
    ("call and result", [USER, called("c"), result("c")], [USER, assistant("", tool_call("c")), tool("c")]),
    ("empty arguments", [USER, called("c", "w", ""), result("c")], [USER, assistant("", tool_call("c")), tool("c")]),
    ("blank arguments", [USER, called("c", "w", " "), result("c")], [USER, assistant("", tool_call("c")), tool("c")]),
    (
        "missing arguments",
        [USER, {"type": "function_call", "call_id": "c", "name": "w"}, result("c")],
        [USER, assistant("", tool_call("c")), tool("c")],
    ),
    (
        "object arguments",
        [USER, {"type": "function_call", "call_id": "c", "name": "w", "arguments": {"q": 1}}, result("c")],
        [USER, assistant("", tool_call("c", "w", '{"q": 1}')), tool("c")],
    ),
    (
        "valid arguments stay as they are",
        [USER, called("c", "w", '{ "q":1 }'), result("c")],
        [USER, assistant("", tool_call("c", "w", '{ "q":1 }')), tool("c")],
    ),
    (
        "cut arguments become JSON",
        [USER, called("c", "w", '{"q":'), result("c")],
        [USER, assistant("", tool_call("c", "w", '{"raw": "{\\"q\\":"}')), tool("c")],
    ),
    (
        "custom call",
        [
            USER,
            {"type": "custom_tool_call", "call_id": "c", "name": "p", "input": 'a"\nb'},
            {"type": "custom_tool_call_output", "call_id": "c", "output": "ok"},
        ],
        [USER, assistant("", tool_call("c", "p", '{"input": "a\\"\\nb"}')), tool("c")],
    ),
    ("empty result", [USER, called("c"), result("c", "")], [USER, assistant("", tool_call("c")), tool("c", "")]),
    ("null result", [USER, called("c"), result("c", None)], [USER, assistant("", tool_call("c")), tool("c", "")]),
    (
        "result of text parts is one string",
        [USER, called("c"), result("c", [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}])],
        [USER, assistant("", tool_call("c")), tool("c", "ab")],
    ),
    ("result without a call", [USER, result("c")], [USER, tool("c")]),
    (
        "reasoning is of the next assistant message",
        [USER, thought("hm"), said("a")],
        [USER, assistant("a", reasoning_content="hm")],
    ),
    ("reasoning alone", [USER, thought("hm"), user("2")], [USER, assistant("", reasoning_content="hm"), user("2")]),
    ("reasoning without text", [USER, thought(""), said("a")], [USER, assistant("a")]),
    ("reasoning without text makes no message", [USER, thought(""), user("2")], [USER, user("2")]),
    ("web_search_call", [USER, {"type": "web_search_call", "id": "ws_1", "status": "completed"}], [USER]),
    ("file_search_call", [USER, {"type": "file_search_call", "id": "fs_1"}], [USER]),
    ("compaction", [USER, {"type": "compaction", "encrypted_content": "x"}], [USER]),
    ("prefixed type", [USER, {"type": "acme:thing", "role": "user", "content": "x"}], [USER]),
    ("unknown type", [USER, {"type": "from_the_future"}], [USER]),
    (
        "a skipped item does not end the turn",
        [USER, said("a"), {"type": "web_search_call", "id": "ws_1"}, called("c"), result("c")],
        [USER, assistant("a", tool_call("c")), tool("c")],
    ),
]


@pytest.mark.parametrize(("items", "expected"), [row[1:] for row in ITEMS], ids=[row[0] for row in ITEMS])
def test_item(items: Items, expected: Items) -> None:
    assert messages(items) == expected


PARTS: list[tuple[str, list[dict[str, Any]], Any]] = [
    ("input_text", [{"type": "input_text", "text": "a"}], "a"),
    ("output_text", [{"type": "output_text", "text": "a", "annotations": []}], "a"),
    ("text", [{"type": "text", "text": "a"}], "a"),
    ("texts are joined", [{"type": "input_text", "text": "a "}, {"type": "input_text", "text": "b"}], "a b"),
    ("refusal", [{"type": "refusal", "refusal": "no"}], "no"),
    ("no parts", [], ""),
    ("image", [{"type": "input_image", "image_url": IMAGE}], [{"type": "image_url", "image_url": {"url": IMAGE}}]),
    (
        "image with detail",
        [{"type": "input_image", "image_url": IMAGE, "detail": "low"}],
        [{"type": "image_url", "image_url": {"url": IMAGE, "detail": "low"}}],
    ),
    (
        "image with null detail",
        [{"type": "input_image", "image_url": IMAGE, "detail": None, "file_id": None}],
        [{"type": "image_url", "image_url": {"url": IMAGE}}],
    ),
    (
        "older image",
        [{"type": "input_image", "image_url": {"url": IMAGE, "detail": "high"}}],
        [{"type": "image_url", "image_url": {"url": IMAGE, "detail": "high"}}],
    ),
    (
        "text beside an image",
        [{"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": IMAGE}],
        [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": IMAGE}}],
    ),
    (
        "file",
        [{"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AA"}],
        [{"type": "file", "file": {"file_data": "data:application/pdf;base64,AA", "filename": "a.pdf"}}],
    ),
    ("file by id", [{"type": "input_file", "file_id": "f_1"}], [{"type": "file", "file": {"file_id": "f_1"}}]),
    (
        "audio",
        [{"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}}],
        [{"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}}],
    ),
]


@pytest.mark.parametrize(("parts", "expected"), [row[1:] for row in PARTS], ids=[row[0] for row in PARTS])
def test_content_part(parts: Items, expected: Any) -> None:
    assert messages([user(parts)]) == [user(expected)]


def test_image_in_a_tool_result_goes_behind_the_tool_messages() -> None:
    picture = [{"type": "input_text", "text": "seen"}, {"type": "input_image", "image_url": IMAGE}]
    items = [USER, called("c1"), called("c2"), result("c1", picture), result("c2"), said("a cat")]
    behind = [
        {"type": "text", "text": "From tool call c1:"},
        {"type": "image_url", "image_url": {"url": IMAGE}},
    ]
    assert messages(items) == [
        USER,
        assistant("", tool_call("c1"), tool_call("c2")),
        tool("c1", "seen"),
        tool("c2"),
        user(behind),
        assistant("a cat"),
    ]


def test_tool_result_of_an_image_alone_has_a_text() -> None:
    """Codex's view_image answers so."""
    items = [USER, called("c"), result("c", [{"type": "input_image", "image_url": IMAGE}])]
    sent = messages(items)
    assert isinstance(sent[2]["content"], str)
    assert sent[2]["content"]
    assert sent[3]["role"] == "user"
    assert sent[3]["content"][1] == {"type": "image_url", "image_url": {"url": IMAGE}}


# --- turns ---------------------------------------------------------------------------------------


def test_one_turn_is_one_assistant_message() -> None:
    """The example of the wire page, word for word."""
    items = [
        {"role": "user", "content": "both please"},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Need two lookups."}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Looking."}]},
        {"type": "function_call", "call_id": "c1", "name": "w", "arguments": '{"q":1}'},
        {"type": "function_call", "call_id": "c2", "name": "w", "arguments": ""},
        {"type": "function_call_output", "call_id": "c2", "output": "two"},
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "one"}]},
    ]
    assert messages(items) == [
        {"role": "user", "content": "both please"},
        {
            "role": "assistant",
            "content": "Looking.",
            "reasoning_content": "Need two lookups.",
            "tool_calls": [tool_call("c1", "w", '{"q":1}'), tool_call("c2")],
        },
        {"role": "tool", "tool_call_id": "c2", "content": "two"},
        {"role": "tool", "tool_call_id": "c1", "content": "one"},
    ]


TURNS: list[tuple[str, Items, Items]] = [
    (
        "a result ends the turn",
        [called("c1"), result("c1"), called("c2"), result("c2"), said("done")],
        [assistant("", tool_call("c1")), tool("c1"), assistant("", tool_call("c2")), tool("c2"), assistant("done")],
    ),
    (
        "reasoning between steps stays with its step",
        [thought("1"), called("c1"), result("c1"), thought("2"), called("c2"), result("c2"), thought("3"), said("a")],
        [
            assistant("", tool_call("c1"), reasoning_content="1"),
            tool("c1"),
            assistant("", tool_call("c2"), reasoning_content="2"),
            tool("c2"),
            assistant("a", reasoning_content="3"),
        ],
    ),
    (
        "text behind a call joins its turn",
        [said("a"), called("c"), said("b"), result("c")],
        [assistant("a\n\nb", tool_call("c")), tool("c")],
    ),
    (
        "two reasonings of one turn",
        [thought("1"), said("a"), thought("2"), called("c"), result("c")],
        [assistant("a", tool_call("c"), reasoning_content="1\n\n2"), tool("c")],
    ),
    (
        "a user message ends the turn",
        [said("a"), user("u"), said("b")],
        [assistant("a"), user("u"), assistant("b")],
    ),
    (
        "a call without a result gets one",
        [called("c1"), called("c2"), result("c2"), user("u")],
        [assistant("", tool_call("c1"), tool_call("c2")), tool("c2"), tool("c1", "(no result)"), user("u")],
    ),
    (
        "a late result goes to its call",
        [called("c1"), called("c2"), result("c1"), user("u"), result("c2"), said("a")],
        [assistant("", tool_call("c1"), tool_call("c2")), tool("c1"), tool("c2"), user("u"), assistant("a")],
    ),
    (
        "a late result does not end a later turn",
        [called("c1"), called("c2"), result("c1"), said("a"), result("c2"), said("b")],
        [assistant("", tool_call("c1"), tool_call("c2")), tool("c1"), tool("c2"), assistant("a\n\nb")],
    ),
    (
        "call ids that a server repeats",
        [called("c"), result("c", "1"), called("c"), result("c", "2")],
        [assistant("", tool_call("c")), tool("c", "1"), assistant("", tool_call("c")), tool("c", "2")],
    ),
    (
        "a repeated call id means the latest call",
        [called("c"), user("u"), called("c"), result("c")],
        [
            assistant("", tool_call("c")),
            tool("c", "(no result)"),
            user("u"),
            assistant("", tool_call("c")),
            tool("c"),
        ],
    ),
    (
        "results without calls, one with an image",
        [result("x", [{"type": "input_image", "image_url": IMAGE}]), result("y"), user("u")],
        [
            tool("x", "(attached to the next message)"),
            tool("y"),
            user([{"type": "text", "text": "From tool call x:"}, {"type": "image_url", "image_url": {"url": IMAGE}}]),
            user("u"),
        ],
    ),
]


@pytest.mark.parametrize(("items", "expected"), [row[1:] for row in TURNS], ids=[row[0] for row in TURNS])
def test_turn(items: Items, expected: Items) -> None:
    assert messages([USER, *items]) == [USER, *expected]


# --- system messages -----------------------------------------------------------------------------


def test_leading_system_messages_are_one() -> None:
    """What Codex sends: no instructions, two developer messages, then the user's."""
    items = [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "a"}]},
        {"role": "system", "content": "b"},
        USER,
        {"role": "developer", "content": "c"},
    ]
    assert messages(items, instructions="first") == [
        {"role": "system", "content": "first\n\na\n\nb"},
        USER,
        {"role": "system", "content": "c"},
    ]


def test_developer_role_is_kept_where_it_is_known() -> None:
    items = [{"role": "developer", "content": "a"}, USER]
    assert messages(items, Dialect(developer_role=True), instructions="first") == [
        {"role": "system", "content": "first"},
        {"role": "developer", "content": "a"},
        USER,
    ]


def test_leading_system_messages_with_an_image() -> None:
    picture = [{"type": "input_image", "image_url": IMAGE}]
    assert messages([{"role": "system", "content": picture}, USER], instructions="look")[0] == {
        "role": "system",
        "content": [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": IMAGE}}],
    }


# --- reasoning -----------------------------------------------------------------------------------

SEALED = seal_reasoning("sealed")
SUMMARY = [{"type": "summary_text", "text": "summary"}]
RAW = [{"type": "reasoning_text", "text": "raw"}]

REASONING: list[tuple[str, dict[str, Any], str]] = [
    ("content first", {"content": RAW, "encrypted_content": SEALED, "summary": SUMMARY}, "raw"),
    ("then what we sealed", {"content": None, "encrypted_content": SEALED, "summary": SUMMARY}, "sealed"),
    ("sealed alone", {"encrypted_content": SEALED, "summary": []}, "sealed"),
    ("then the summary", {"content": [], "encrypted_content": "", "summary": SUMMARY}, "summary"),
    ("foreign seal", {"encrypted_content": "gAAAAABo", "summary": SUMMARY}, "summary"),
    ("foreign seal alone", {"encrypted_content": "gAAAAABo", "summary": []}, ""),
    ("broken seal", {"encrypted_content": SEALED[:-3], "summary": SUMMARY}, "summary"),
    ("our prefix, other content", {"encrypted_content": "llr1.eyJhIjoxfQ==", "summary": SUMMARY}, "summary"),
    ("null everywhere", {"content": None, "encrypted_content": None, "summary": None}, ""),
    ("nothing", {}, ""),
    ("empty texts", {"content": [{"type": "reasoning_text", "text": ""}], "summary": [{"text": None}]}, ""),
    ("two summaries", {"summary": [*SUMMARY, *SUMMARY]}, "summary\n\nsummary"),
]


@pytest.mark.parametrize(("members", "expected"), [row[1:] for row in REASONING], ids=[row[0] for row in REASONING])
def test_reasoning_text(members: dict[str, Any], expected: str) -> None:
    sent = messages([USER, {"type": "reasoning", "id": "rs_1", **members}, said("a")])
    assert sent[1] == (assistant("a", reasoning_content=expected) if expected else assistant("a"))


@pytest.mark.parametrize(("field", "members"), [("reasoning", {"reasoning": "hm"}), ("", {})])
def test_reasoning_field_of_the_dialect(field: str, members: dict[str, Any]) -> None:
    sent = messages([USER, thought("hm"), called("c"), result("c")], Dialect(reasoning_field=field))
    assert sent[1] == assistant("", tool_call("c"), **members)


def test_reasoning_is_never_visible_text() -> None:
    assert all("hm" not in str(sent["content"]) for sent in messages([USER, thought("hm"), said("a"), user("b")]))


@pytest.mark.parametrize("text", ["hm", "a\nb", "né \U0001f600", "\ud83d", "x" * 100_000])
def test_sealed_reasoning_comes_back(text: str) -> None:
    sealed = seal_reasoning(text)
    assert sealed
    assert text[:50] not in sealed
    assert unseal_reasoning(sealed) == text


@pytest.mark.parametrize(
    "sealed", [None, 5, "", "llr1.", "llr1.%%%", "llr1.QQ==", "llr1.bnVsbA==", "llr1.é", "llr2.ImEi"]
)
def test_foreign_seals_hold_nothing(sealed: Any) -> None:
    assert unseal_reasoning(sealed) == ""


def test_no_responses_part_type_survives() -> None:
    parts = [
        {"type": "input_text", "text": "a"},
        {"type": "input_image", "image_url": IMAGE},
        {"type": "input_file", "file_data": "data:x"},
    ]
    items = [
        user(parts),
        said([{"type": "output_text", "text": "b"}, {"type": "refusal", "refusal": "c"}]),
        called("c1"),
        result("c1", parts),
    ]
    text = str(messages(items))
    assert "input_" not in text
    assert "output_text" not in text
    assert "refusal" not in text
