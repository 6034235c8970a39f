"""Requests and answers with anything anywhere, for hypothesis: nearly right ones, so that they get far."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

_NAMES = """
model messages role content type text name tools function parameters arguments tool_calls tool_call_id id stream
stream_options include_usage max_tokens max_completion_tokens max_output_tokens input instructions output call_id
previous_response_id reasoning effort summary encrypted_content store include metadata format schema strict json_schema
response_format tool_choice parallel_tool_calls image_url url detail input_text input_image file_data status user
temperature top_p top_logprobs logprobs verbosity truncation background service_tier prompt_cache_key seed stop n
choices message delta finish_reason index usage prompt_tokens completion_tokens total_tokens error code object created
reasoning_content refusal annotations token bytes
"""
NAMES = _NAMES.split()
WORDS = (
    *NAMES,
    *(
        "user",
        "assistant",
        "system",
        "developer",
        "tool",
        "auto",
        "none",
        "required",
        "function_call",
        "item_reference",
    ),
    *(
        "function_call_output",
        "custom_tool_call",
        "custom_tool_call_output",
        "message",
        "reasoning",
        "custom",
        "grammar",
    ),
    *(
        "web_search",
        "json_object",
        "length",
        "stop",
        "content_filter",
        "tool_calls",
        "high",
        "data:image/png;base64,AAAA",
    ),
    *(
        "4111 1111 1111 1111",
        "me@corp.example",
        "<context>",
        "```",
        "{}",
        '{"a": 1}',
        "parrot",
        "cloud",
        "parrot/x",
        "\0",
    ),
    *("\ud800", "\u2028", "é", "", " ", "x" * 3000, "What is 2+2?", "def f():\n    return 1"),
)
_NUMBERS = (0, 1, -1, 2**31, 2**63, 10**40, 1e308, -0.0, 1.5)

scalars = st.one_of(
    st.none(), st.booleans(), st.sampled_from(_NUMBERS), st.sampled_from(WORDS), st.text(max_size=20), st.integers()
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.sampled_from(NAMES), st.text(max_size=6)), inner, max_size=5),
    ),
    max_leaves=12,
)
documents = st.dictionaries(st.sampled_from(NAMES), values, max_size=8)

_CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
_TOOL = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}
CHAT: dict[str, Any] = {
    "model": "auto",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": "u"}}]},
        {"role": "assistant", "content": None, "tool_calls": [_CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "r"},
        {"role": "user", "content": "What now?"},
    ],
    "tools": [{"type": "function", "function": _TOOL}],
    "stream": False,
    "stream_options": {"include_usage": True},
    "max_tokens": 5,
}
RESPONSES: dict[str, Any] = {
    "model": "auto",
    "instructions": "Be brief.",
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "x"}, {"type": "input_image", "image_url": "u"}]},
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "hm"}],
            "encrypted_content": "e",
        },
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "r"}]},
        {"type": "custom_tool_call", "call_id": "c2", "name": "g", "input": "i"},
        {"type": "custom_tool_call_output", "call_id": "c2", "output": "o"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "y", "annotations": []}]},
    ],
    "tools": [{"type": "function", **_TOOL}, {"type": "custom", "name": "g", "format": {"type": "text"}}],
    "text": {"format": {"type": "json_schema", "name": "n", "schema": {}}, "verbosity": "low"},
    "reasoning": {"effort": "low", "summary": "auto"},
    "include": ["reasoning.encrypted_content", "message.output_text.logprobs"],
    "stream": False,
    "store": True,
    "max_output_tokens": 5,
    "tool_choice": {"type": "function", "name": "f"},
}
COMPLETION: dict[str, Any] = {
    "id": "x",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "logprobs": {"content": [{"token": "a", "logprob": -1, "bytes": [97], "top_logprobs": []}]},
            "message": {
                "role": "assistant",
                "content": "hi",
                "reasoning_content": "hm",
                "refusal": None,
                "tool_calls": [_CALL, {"id": "c2", "type": "custom", "custom": {"name": "g", "input": "i"}}],
            },
        }
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
}
CHUNK: dict[str, Any] = {
    "id": "x",
    "object": "chat.completion.chunk",
    "choices": [
        {
            "index": 0,
            "delta": {
                "role": "assistant",
                "content": "hi",
                "reasoning_content": "hm",
                "tool_calls": [{"index": 0, **_CALL}],
            },
            "finish_reason": None,
        }
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 2},
}


def paths(document: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where every value of a document stands."""
    found = [at] if at else []
    pairs = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for name, value in pairs:
        found += paths(value, (*at, name))
    return found


def put(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy with `value` at `path`; "remove" of a member is a value of `...`."""
    changed = copy.deepcopy(document)
    inner = changed
    try:
        for name in path[:-1]:
            inner = inner[name]
        if value is ...:
            del inner[path[-1]]
        else:
            inner[path[-1]] = value
    except (KeyError, IndexError, TypeError):
        pass  # an earlier change took the place away
    return changed


@st.composite
def spoiled(draw: Any, good: dict[str, Any], stream: bool | None = None) -> dict[str, Any]:
    """`good` with anything at one to four places."""
    document = good
    for _ in range(draw(st.integers(1, 4))):
        document = put(document, draw(st.sampled_from(paths(good))), draw(st.one_of(values, st.just(...))))
    if stream is not None and draw(st.booleans()):
        document = {**document, "stream": stream}
    return document


@st.composite
def raw(draw: Any, of: st.SearchStrategy[Any]) -> bytes:
    """A document as bytes, sometimes with a few of them changed."""
    text = json.dumps(draw(of), ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 5)) == 0:
        place, cut = draw(st.integers(0, len(text))), draw(st.integers(0, 8))
        text = text[:place] + draw(st.binary(max_size=8)) + text[place + cut :]
    return text
