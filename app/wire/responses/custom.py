"""Offer custom tools over chat: one raw string in the JSON arguments of a function.

A Responses custom tool takes free text (a patch, a program).  Chat servers support functions only.  So the model
gets a function with one required string parameter, and its JSON is unwrapped while it arrives.
"""

from __future__ import annotations

import json
import re

from app.types import JsonDict, JsonObject

PARAMETER = "input"

_HEAD = f'{{"{PARAMETER}":"'  # the beginning of the arguments, without white space
_SPACE = re.compile(r"\s+")
_HEAD_PATTERN = re.compile(rf'\s*\{{\s*"{PARAMETER}"\s*:\s*"')
# The content of a JSON string that is certain: a high surrogate waits for its second half.
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


def as_function(tool: JsonObject, wire_name: str) -> JsonDict:
    """Return chat's function object for a custom tool; its grammar can only be described, not enforced."""
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
    """Return the arguments for `text` in a chat history."""
    return json.dumps({PARAMETER: text}, ensure_ascii=False)


def unwrap(arguments: str) -> str:
    """Return the raw input in whole arguments.  A model that omitted the wrapper wrote the input itself."""
    try:
        document: object = json.loads(arguments, strict=False)
    except (ValueError, RecursionError):
        return arguments
    if isinstance(document, dict):
        strings = [value for value in document.values() if isinstance(value, str)]
        document = document.get(PARAMETER, strings[0] if len(document) == 1 and strings else None)
    return document if isinstance(document, str) else arguments


class Unwrapper:
    """Unwrap arguments that arrive in pieces: return each part of the string as soon as it is certain.  The work is
    linear in the text."""

    def __init__(self) -> None:
        self._state = "head"  # head | string | end | other (an unknown wrapper, decided at the end)
        self._pieces: list[str] = []  # all pieces until the head is known
        self._head = ""  # the same with single spaces
        self._open = ""  # the end of the string so far, which the next piece may complete

    def feed(self, piece: str) -> str:
        """Return the text that `piece` makes certain; often empty."""
        if self._state == "string":
            return self._read_string(piece)
        if self._state == "end":
            return ""
        self._pieces.append(piece)
        return self._read_head(piece) if self._state == "head" else ""

    def finish(self) -> str:
        """Return the rest of the text at the end of the arguments.  In an incomplete string, half an escape is no
        text."""
        rest = "".join(self._pieces)
        self._pieces.clear()
        return unwrap(rest) if rest.strip() else ""

    def _read_head(self, piece: str) -> str:
        text = self._head + piece
        if head := _HEAD_PATTERN.match(text):
            self._state = "string"
            self._pieces.clear()
            return self._read_string(text[head.end() :])
        self._head = _SPACE.sub(" ", text)
        if not _HEAD.startswith(self._head.replace(" ", "")):
            self._state = "other"
        return ""

    def _read_string(self, piece: str) -> str:
        text, at = self._open + piece, 0
        parts: list[str] = []
        while True:
            certain = _CERTAIN.match(text, at)
            end = certain.end() if certain else at
            parts.append(str(json.loads(f'"{text[at:end]}"', strict=False)))
            at = end
            if text.startswith('"', at):
                self._state = "end"
                break
            if _OPEN.match(text, at):
                break
            parts.append("\\")  # no escape of JSON's: the model meant the backslash
            at += 1
        self._open = text[at:]
        return "".join(parts)
