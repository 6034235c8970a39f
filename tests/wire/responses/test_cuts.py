"""Whatever a backend's bytes are cut into and whichever of the legal forms it writes, the client sees one answer."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.wire import sse
from app.wire.responses.reply import from_chat
from app.wire.responses.stream import translate
from tests.wire.grammar import check, valid
from tests.wire.streams import NOW, answer, delta, final, ids, request, sdk_valid, shape, stream

TOOLS = [
    {"type": "function", "name": "f"},
    {"type": "function", "name": "g"},
    {"type": "custom", "name": "p"},
    {"type": "namespace", "name": "n", "description": "d", "tools": [{"type": "function", "name": "h"}]},
]
ASKED = request(tools=TOOLS, include=["reasoning.encrypted_content", "message.output_text.logprobs"])
NOT_SLOW = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ARGUMENTS = st.dictionaries(st.sampled_from("ab"), TEXT | st.integers() | st.none(), max_size=2)
CALL = st.one_of(
    st.tuples(st.sampled_from(["f", "g", "n__h"]), ARGUMENTS.map(json.dumps)),
    st.tuples(st.just("p"), TEXT.map(lambda text: json.dumps({"input": text}))),
)
USAGE = {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11}


def pieces(draw: st.DrawFn, text: str) -> list[str]:
    """`text` in at least one piece; some may be empty."""
    marks = sorted(draw(st.lists(st.integers(0, len(text)), max_size=3)))
    return [text[begin:end] for begin, end in zip([0, *marks], [*marks, len(text)], strict=True)]


def fragments(draw: st.DrawFn, called: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """Deltas for the calls, the way one of many servers would write them."""
    style = draw(st.sampled_from(["usual", "repeated", "ids only", "index 0", "neither", "whole"]))
    rows: list[list[dict[str, Any]]] = []
    for at, (name, arguments) in enumerate(called):
        split = [arguments] if style == "whole" else pieces(draw, arguments)
        if style == "neither":  # without any arguments a repeated name may be the same call
            split = [piece for piece in split if piece]
        row = []
        for turn, piece in enumerate(split):
            first = turn == 0
            fragment: dict[str, Any] = {"type": "function", "function": {"arguments": piece}}
            if first or style == "repeated":
                fragment["function"]["name"] = name
            if style in ("usual", "repeated", "whole"):
                fragment["index"] = at
            if style == "index 0":
                fragment["index"] = 0
            if style == "ids only" or (style in ("usual", "index 0", "whole") and first) or style == "repeated":
                fragment["id"] = f"call_{at}"
            row.append(fragment)
        rows.append(row)
    if style in ("usual", "repeated", "ids only"):  # these say which call a fragment belongs to
        return interleaved(draw, rows)
    return [fragment for row in rows for fragment in row]


def interleaved(draw: st.DrawFn, rows: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The rows mixed, each in its own order, their first fragments in the order of the rows."""
    mixed: list[dict[str, Any]] = []
    waiting = [list(row) for row in rows]
    begun = 0
    while any(waiting):
        choices = [at for at, row in enumerate(waiting) if row and at <= begun]
        at = draw(st.sampled_from(choices))
        mixed.append(waiting[at].pop(0))
        begun = max(begun, at + 1)
    return mixed


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, dict[str, Any]]:
    """(bytes of a backend's stream, the same answer whole)."""
    reasoning, said = draw(TEXT), draw(TEXT)
    called = draw(st.lists(CALL, max_size=3))
    name = draw(st.sampled_from(["reasoning", "reasoning_content"]))
    deltas: list[dict[str, Any]] = [{name: piece} for piece in pieces(draw, reasoning)]
    deltas += [{"content": piece} for piece in pieces(draw, said)]
    deltas += [{"tool_calls": [fragment]} for fragment in fragments(draw, called)]
    chunks = [delta(**members) for members in merged(draw, deltas)]
    finish = draw(st.sampled_from(["stop", "tool_calls"]))
    if draw(st.booleans()) and chunks:
        chunks[-1]["choices"][0]["finish_reason"] = finish
    else:
        chunks.append(delta(finish))
    usage = draw(st.sampled_from(["own chunk", "last chunk", "never"]))
    if usage == "own chunk":
        chunks.append({"choices": [], "usage": USAGE})
    elif usage == "last chunk":
        chunks[-1]["usage"] = USAGE
    whole = answer(
        finish,
        usage=USAGE if usage != "never" else None,
        reasoning=reasoning,
        content=said,
        tool_calls=[
            {"id": f"call_{at}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for at, (name, arguments) in enumerate(called)
        ],
    )
    return framed(draw, chunks), whole


def merged(draw: st.DrawFn, deltas: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Some neighbours of different kinds put into one delta, and empty deltas strewn in."""
    result: list[dict[str, Any]] = [{"role": "assistant", "content": ""}] if draw(st.booleans()) else []
    for members in deltas:
        if result and draw(st.booleans()) and not set(result[-1]) & set(members) and "tool_calls" not in result[-1]:
            if "content" in result[-1] and not set(members) <= {"tool_calls"}:
                result.append(members)
            else:
                result[-1] = dict(sorted((result[-1] | members).items(), reverse=draw(st.booleans())))
        else:
            result.append(members)
        if draw(st.integers(0, 5)) == 0:
            result.append(draw(st.sampled_from([{"content": ""}, {"content": None, "role": "assistant"}, {}])))
    return result


def framed(draw: st.DrawFn, chunks: list[dict[str, Any]]) -> bytes:
    """Chunks as bytes in one of the framings that servers use."""
    raw = b""
    ascii_only = draw(st.booleans())
    for chunk in chunks:
        if draw(st.integers(0, 5)) == 0:
            raw += b": ping\n\n"
        data = json.dumps(chunk, ensure_ascii=ascii_only).encode()
        raw += (b"data: " if draw(st.booleans()) else b"data:") + data + b"\n\n"
    if draw(st.booleans()):
        raw += sse.DONE
    return raw.replace(b"\n", b"\r\n") if draw(st.booleans()) else raw


def cut(raw: bytes, sizes: list[int]) -> list[bytes]:
    cuts, at, turn = [], 0, 0
    while at < len(raw):
        size = sizes[turn % len(sizes)]
        cuts.append(raw[at : at + size])
        at, turn = at + size, turn + 1
    return cuts


def without_ids(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in item.items() if name not in ("id", "call_id")} for item in items]


@NOT_SLOW
@given(streams(), st.lists(st.integers(1, 60), min_size=1, max_size=6))
def test_any_form_and_any_cut_give_the_same_answer(made: tuple[bytes, dict[str, Any]], sizes: list[int]) -> None:
    raw, whole = made
    expected = from_chat(
        whole, ASKED, response_id="resp_1", created_at=NOW, completed_at=NOW + 2, model="qwen3:8b", new_id=ids()
    )
    response = final(sdk_valid(valid(b"".join(translate(cut(raw, sizes), stream(ASKED))))))
    assert shape(response["output"]) == shape(expected["output"])
    assert without_ids(response["output"]) == without_ids(expected["output"])
    rest = set(expected) - {"output", "output_text"}
    assert {name: response[name] for name in rest} == {name: expected[name] for name in rest}


@NOT_SLOW
@given(streams())
def test_cuts_change_no_byte(made: tuple[bytes, dict[str, Any]]) -> None:
    raw, _ = made
    at_once = b"".join(translate([raw], stream(ASKED)))
    assert b"".join(translate(cut(raw, [1]), stream(ASKED))) == at_once


@NOT_SLOW
@given(streams(), st.data())
def test_a_body_that_ends_anywhere_is_completed_only_when_whole(made: tuple[bytes, Any], data: st.DataObject) -> None:
    raw, _ = made
    part = raw[: data.draw(st.integers(0, len(raw)))]
    events = valid(b"".join(translate([part], stream(ASKED))))
    whole = any(mark in part for mark in (b'"stop"', b'"tool_calls",', b'"finish_reason": "tool_calls"'))
    if events[-1]["type"] == "response.completed":
        assert whole


# --- nonsense ------------------------------------------------------------------------------------------

SCALAR = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats()
    | st.sampled_from(["", "x", "f", "{}", '{"a":', "stop"])
)
JSON = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abt"), inner), max_leaves=5
)
FRAGMENT = st.fixed_dictionaries(
    {},
    optional={
        "index": st.integers(0, 2) | JSON,
        "id": st.sampled_from(["", "c", "d"]) | JSON,
        "function": st.fixed_dictionaries(
            {},
            optional={
                "name": st.sampled_from(["", "f", "g", "p"]) | JSON,
                "arguments": st.sampled_from(["", "{}", '{"a"', ":1}"]) | JSON,
            },
        )
        | JSON,
    },
)
MEMBERS = st.fixed_dictionaries(
    {},
    optional={
        "content": JSON,
        "reasoning": JSON,
        "reasoning_content": JSON,
        "refusal": JSON,
        "tool_calls": st.lists(FRAGMENT | JSON, max_size=3) | JSON,
        "function_call": JSON,
    },
)
CHOICE = st.fixed_dictionaries(
    {},
    optional={
        "index": st.just(0) | JSON,
        "delta": MEMBERS | JSON,
        "message": MEMBERS,
        "finish_reason": JSON,
        "logprobs": JSON,
    },
)
CHUNK = st.fixed_dictionaries(
    {}, optional={"choices": st.lists(CHOICE | JSON, max_size=2) | JSON, "usage": JSON, "error": JSON}
)


@NOT_SLOW
@given(st.lists(CHUNK, max_size=8), st.booleans())
def test_nonsense_still_makes_a_legal_stream(chunks: list[dict[str, Any]], done: bool) -> None:
    opened = stream(ASKED)
    sent = [*opened.begin()]
    for chunk in chunks:
        sent += opened.feed(chunk)
    if done:
        opened.done()
    sent += opened.finish()
    violations, _ = check(b"".join(sent))
    assert not violations


@NOT_SLOW
@given(CHUNK)
def test_nonsense_documents_still_make_a_legal_stream(document: dict[str, Any]) -> None:
    opened = stream(ASKED)
    violations, _ = check(b"".join([*opened.feed_document(document), *opened.finish()]))
    assert not violations
