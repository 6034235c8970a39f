"""Custom tools over chat: how one raw string rides in the JSON arguments of a function.

A Responses custom tool takes free text (a patch, a program).  Chat servers know functions only, so the model is
offered a function with one required string parameter, and its JSON is unwrapped again while it arrives.
"""

from __future__ import annotations

import json
import re
from typing import Any

from app.types import JsonObject

PARAMETER = "input"

_HEAD = f'{{"{PARAMETER}":"'  # how the arguments begin, white space aside
_SPACE = re.compile(r"\s+")
_HEAD_PATTERN = re.compile(rf'\s*\{{\s*"{PARAMETER}"\s*:\s*"')
# The inside of a JSON string as far as it is certain: a high surrogate waits for its second half.
_CERTAIN = re.compile(
    r"""(?: [^"\\]++
          | \\["\\/bfnrt]
          | \\u(?![dD][89abAB])[0-9a-fA-F]{4}
          | \\u[dD][89abAB][0-9a-fA-F]{2} \\u[dD][c-fC-F][0-9a-fA-F]{2}
          | \\u[dD][89abAB][0-9a-fA-F]{2} (?= [^\\] | \\[^u] | \\u[\s\S]{4} )
        )*+""",
    re.VERBOSE,
)
# An escape that the next piece may complete.
_OPEN = re.compile(
    r"(?: \\ | \\u[0-9a-fA-F]{0,3} | \\u[dD][89abAB][0-9a-fA-F]{2} (?: \\ (?: u[0-9a-fA-F]{0,3} )? )? )? \Z",
    re.VERBOSE,
)


def as_function(tool: JsonObject, wire_name: str) -> dict[str, Any]:
    """Chat's function object for a custom tool; its grammar can only be told, not enforced."""
    description = str(tool.get("description") or "")
    form = tool.get("format")
    if isinstance(form, dict) and form.get("definition"):
        grammar = f"The input must match this {form.get('syntax') or ''} grammar:\n{form['definition']}"
        description = f"{description}\n\n{grammar}".strip()
    parameters = {
        "type": "object",
        "properties": {PARAMETER: {"type": "string", "description": "The whole input, as plain text."}},
        "required": [PARAMETER],
        "additionalProperties": False,
    }
    return {"name": wire_name, **({"description": description} if description else {}), "parameters": parameters}


def wrap(text: str) -> str:
    """The arguments that stand for `text` in a chat history."""
    return json.dumps({PARAMETER: text}, ensure_ascii=False)


def unwrap(arguments: str) -> str:
    """The raw input in whole arguments.  A model that forgot the wrapper wrote the input itself."""
    try:
        document: Any = json.loads(arguments, strict=False)
    except (ValueError, RecursionError):
        return arguments
    if isinstance(document, dict):
        strings = [value for value in document.values() if isinstance(value, str)]
        document = document.get(PARAMETER, strings[0] if len(document) == 1 and strings else None)
    return document if isinstance(document, str) else arguments


class Unwrapper:
    """`unwrap` for arguments that arrive in pieces: gives out each part of the string once it is certain."""

    def __init__(self) -> None:
        self._state = "head"  # head | string | end | other: no wrapper that we know, decided at the end
        self._held = ""  # not given out yet

    def feed(self, piece: str) -> str:
        """The text that `piece` makes certain; often empty."""
        if self._state == "end":
            return ""
        self._held += piece
        if self._state == "head":
            self._read_head()
        return self._read_string() if self._state == "string" else ""

    def finish(self) -> str:
        """What is left at the end of the arguments.  In a string that was cut, half an escape is no text."""
        held, self._held = self._held, ""
        return unwrap(held) if self._state in ("head", "other") and held.strip() else ""

    def _read_head(self) -> None:
        if head := _HEAD_PATTERN.match(self._held):
            self._held = self._held[head.end() :]
            self._state = "string"
        elif not _HEAD.startswith(_SPACE.sub("", self._held)):
            self._state = "other"

    def _read_string(self) -> str:
        text = ""
        while True:
            certain = _CERTAIN.match(self._held)
            end = certain.end() if certain else 0
            text += str(json.loads(f'"{self._held[:end]}"', strict=False))
            self._held = self._held[end:]
            if self._held.startswith('"'):
                self._state = "end"
                return text
            if _OPEN.match(self._held):
                return text
            text += "\\"  # no escape of JSON's: the model meant the backslash
            self._held = self._held[1:]
