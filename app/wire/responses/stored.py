"""Write the items of a request in the form in which they are stored, and in the form in which they are listed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from app.types import JsonDict, JsonObject
from app.wire.responses.request import is_id, item_type

_ID_PREFIXES = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
}


def kept_items(items: Sequence[JsonObject], new_id: Callable[[str], str]) -> list[JsonDict]:
    """Return input items in the form in which they are stored, each with a type and an id."""
    result = []
    for item in items:
        kind, name = item_type(item), item.get("id")
        result.append({**item, "type": kind, "id": name if is_id(name) else new_id(_ID_PREFIXES.get(kind, "item"))})
    return result


def input_list(items: Sequence[JsonObject]) -> JsonDict:
    """Return the document for GET /v1/responses/{id}/input_items: newest first."""
    data = [_listed(item) for item in reversed(items)]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": False,
    }


def _listed(item: JsonObject) -> JsonDict:
    """Return an item as in OpenAI's list: content as parts, and a status."""
    listed = dict(item)
    if item["type"] != "reasoning":
        listed["status"] = item.get("status") or "completed"
    if item["type"] == "message" and isinstance(item.get("content"), str):
        by_assistant = item["role"] == "assistant"
        part = {"type": "output_text", "annotations": []} if by_assistant else {"type": "input_text"}
        listed["content"] = [{**part, "text": item["content"]}]
    return listed
