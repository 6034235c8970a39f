"""Put the tool calls of a chat reply into the form of OpenAI's API.

There a call begins with one fragment that has its index, its id and its whole name, and continues with fragments
that have its index and a piece of its arguments.  Servers also omit indexes or ids, give all calls index 0, repeat
ids and names, split names, send arguments as an object, and begin them with a placeholder `{}`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from app.types import JsonDict, JsonObject

_PLACEHOLDER = re.compile(r"\s*\{\s*\}\s*")
_PLACEHOLDER_IN_FRONT = re.compile(r"\s*\{\s*\}\s*(?=\{)")
_MOST_LOOKS = 50


@dataclass(slots=True, eq=False)
class Fragment:
    """Hold one fragment in the form of OpenAI's API.  While it is undecided, the next fragments may change it."""

    index: int  # of its call, counted from 0 in the order of the calls
    id: str = ""  # the id of the call, in its first fragment
    name: str = ""  # the name of the function, in the first fragment
    arguments: str = ""
    head_open: bool = False  # its id or the rest of its name may follow
    placeholder: bool = False  # its arguments are `{}`, and the real ones may follow

    @property
    def undecided(self) -> bool:
        return self.head_open or self.placeholder


class _Call:
    def __init__(self, first: Fragment) -> None:
        self.first = first
        self.their_id = ""  # the backend's id; servers repeat ids
        self.name = ""
        self.arguments: list[str | bytes] = []  # bytes: a JSON text that was not decoded yet
        self.has_arguments = False  # a fragment had the member, perhaps empty
        self.has_text = False  # the arguments are more than white space
        self.placeholder: Fragment | None = None
        self._looks = 0

    @property
    def complete(self) -> bool:
        if (
            not next((piece for piece in map(_read, reversed(self.arguments)) if piece.strip()), "")
            .rstrip()
            .endswith("}")
        ):
            return False  # so the parser is seldom needed
        self._looks += 1
        if self._looks > _MOST_LOOKS:
            return False  # so long arguments are not parsed again and again
        try:
            json.loads("".join(map(_read, self.arguments)), strict=False)
        except (ValueError, RecursionError):
            return False
        return True


class ToolCalls:
    """Read the calls of one message, fragment by fragment."""

    def __init__(self, new_id: Callable[[], str], names: Collection[str] = ()) -> None:
        """Take `new_id`, which creates an id for a call, and the names of the tools in the request."""
        self._new_id = new_id
        self._names = names
        self._calls: list[_Call] = []
        self._at: dict[int, _Call] = {}  # the latest call with a backend's index
        self._by_id: dict[str, _Call] = {}  # the latest call with a backend's id
        self._ids: set[str] = set()  # the ids that clients got
        self._open_heads: dict[int, _Call] = {}  # by their index
        self._named_heads: list[_Call] = []  # the open heads with a name
        self._placeholders: set[_Call] = set()
        self._sends_placeholders = False  # the backend has sent one

    def read(self, raw: JsonObject) -> Fragment | None:
        """Return a fragment in OpenAI's form; None when it is empty."""
        function = raw.get("function")
        function = function if isinstance(function, Mapping) else {}
        their_id, name = _id_of(raw.get("id")), _string(function.get("name"))
        arguments = arguments_of(function.get("arguments"))
        if not (their_id or name or arguments):
            return None
        index = raw.get("index")
        index = index if type(index) is int else None
        call = self._find(index, their_id, name, arguments)
        fragment = Fragment(call.first.index) if call else Fragment(len(self._calls), head_open=True)
        if call is None:
            call = self._begin(fragment)
        if index is not None:
            self._at[index] = call
        if their_id and not call.their_id:
            call.their_id = their_id
        if their_id:
            self._by_id[their_id] = call
        call.has_arguments = call.has_arguments or function.get("arguments") is not None
        if call.first.head_open:
            self._read_head(call, name, arguments)
        self._read_arguments(call, fragment, arguments)
        return fragment

    def goes_on(self, index: int, text: bytes) -> bool:
        """Read a fragment that has only an index and arguments, as JSON text.  Return False, and read nothing, when
        it may need a repair."""
        call = self._at.get(index)
        if call is None or call.first.index != index or not call.has_text or call.first.head_open or self._placeholders:
            return False
        call.arguments.append(text)
        return True

    @property
    def undecided(self) -> bool:
        """Return True when a fragment waits for the next ones."""
        return bool(self._open_heads or self._placeholders)

    def settle(self, *, cut: bool = False) -> None:
        """Decide every fragment, because no more follow.  With `cut`, the reply is not complete; then a call without
        arguments gets no id, so that clients do not take it for complete."""
        for call in list(self._open_heads.values()):
            self._close_head(call, with_id=call.has_arguments or not cut)
        self._keep_placeholders()

    # --- which call ---

    def _begin(self, first: Fragment) -> _Call:
        for call in self._named_heads:
            self._close_head(call)
        self._named_heads.clear()
        call = _Call(first)
        self._calls.append(call)
        self._open_heads[first.index] = call
        return call

    def _find(self, index: int | None, their_id: str, name: str, arguments: str) -> _Call | None:
        """Return the call that a fragment continues, or None when it begins one."""
        last = self._calls[-1] if self._calls else None
        here = last if index is None else self._at.get(index)
        same_id = self._by_id.get(their_id) if their_id else None
        if not name:  # the first fragment of a call has its name, so this is a later one
            return same_id or here or (None if their_id and index is not None else last)
        if here is not None and not here.name and (not here.their_id or their_id in ("", here.their_id)):
            return here
        call = same_id if their_id else here
        return call if call is not None and self._continues(call, index, their_id, name, arguments) else None

    def _continues(self, call: _Call, index: int | None, their_id: str, name: str, arguments: str) -> bool:
        """Return True when a fragment with a name belongs to `call`: some servers repeat the name in every fragment,
        others send it in pieces."""
        if not call.has_text:
            return name == call.name or their_id == call.their_id != "" or self._is_piece(call, name)
        if name != call.name:
            return False
        if call.placeholder is not None and arguments.strip():
            return their_id == call.their_id != "" and (index is None or self._at.get(index) is call)
        return not (arguments.strip() and call.complete)

    def _is_piece(self, call: _Call, name: str) -> bool:
        """Return True when `name` is a further piece of the call's name, although the fragment has no id."""
        if any(whole.startswith(call.name + name) for whole in self._names):
            return True
        if name in self._names:
            return call.name not in self._names and name.startswith(call.name)
        return call.their_id != ""

    # --- what it says ---

    def _read_head(self, call: _Call, name: str, arguments: str) -> None:
        first = call.first
        if not first.id and call.their_id and call.their_id not in self._ids:
            first.id = call.their_id
            self._ids.add(first.id)
        if name:
            if not call.name:
                self._named_heads.append(call)
            call.name = first.name = self._joined(call.name, name)
        if call.name and (arguments.strip() or (self._is_whole(call.name) and (first.id or call.has_arguments))):
            self._close_head(call)

    def _joined(self, start: str, name: str) -> str:
        """Return a name with a further text, which is either its next piece or the whole name again."""
        if name.startswith(start) and (name in self._names or start + name not in self._names):
            return name
        return start + name

    def _is_whole(self, name: str) -> bool:
        return name in self._names and not any(other.startswith(name) for other in self._names if other != name)

    def _close_head(self, call: _Call, *, with_id: bool = True) -> None:
        """Decide id and name."""
        first = call.first
        if first.head_open and call.name and not first.id and with_id:
            first.id = self._new_id()
            self._ids.add(first.id)
        first.head_open = False
        self._open_heads.pop(first.index, None)

    def _read_arguments(self, call: _Call, fragment: Fragment, text: str) -> None:
        if text.strip():
            if call.placeholder is not None:
                call.placeholder.arguments, call.placeholder.placeholder = "", False
                call.placeholder, call.has_text = None, False
                self._placeholders.discard(call)
                call.arguments.clear()
                self._sends_placeholders = True
            if not call.has_text and _PLACEHOLDER_IN_FRONT.match(text):
                text = _PLACEHOLDER_IN_FRONT.sub("", text, count=1)
            if not call.has_text and _PLACEHOLDER.fullmatch(text):
                call.placeholder, fragment.placeholder = fragment, True
                self._placeholders.add(call)
            elif not self._sends_placeholders:
                self._keep_placeholders()
            call.has_text = True
        call.arguments.append(text)
        fragment.arguments = text

    def _keep_placeholders(self) -> None:
        """Keep the arguments that looked like placeholders, because no other arguments follow."""
        for call in self._placeholders:
            if call.placeholder is not None:
                call.placeholder.placeholder = False
                call.placeholder = None
        self._placeholders.clear()


# --- fragments and calls as JSON -----------------------------------------------------------------


def fragments_in(message: JsonObject) -> list[object]:
    """Return the calls in a message or a delta, or the fragments of them; some servers send one without a list."""
    calls = message.get("tool_calls")
    return calls if isinstance(calls, list) else [calls] if isinstance(calls, Mapping) else []


def is_sound(raw: JsonObject, fragment: Fragment) -> bool:
    """Return True when a fragment has OpenAI's form."""
    function = raw.get("function")
    if not isinstance(function, (dict, type(None))):
        return False
    function = function or {}
    arguments = function.get("arguments")
    return (
        type(raw.get("index")) is int
        and raw["index"] == fragment.index
        and (raw.get("id") or "") == fragment.id
        and (function.get("name") or "") == fragment.name
        and isinstance(arguments, (str, type(None)))
        and (arguments or "") == fragment.arguments
    )


def repaired(raw: JsonObject, fragment: Fragment) -> JsonDict:
    """Return a fragment in OpenAI's form, with its other members."""
    function = raw.get("function")
    function = {**function} if isinstance(function, dict) else {}
    members = {**raw, "index": fragment.index}
    if fragment.id:
        members |= {"id": fragment.id, "type": raw.get("type") or "function"}
    else:
        members.pop("id", None)
    if fragment.name:
        function["name"] = fragment.name
    else:
        function.pop("name", None)
    return {**members, "function": {**function, "arguments": fragment.arguments}}


def numbered(message: JsonObject) -> list[JsonDict]:
    """Return the calls of a whole message as fragments of separate calls."""
    calls: list[JsonDict] = []
    ids: set[str] = set()
    for call in fragments_in(message):
        if isinstance(call, Mapping):
            call_id = _id_of(call.get("id"))
            calls.append({**call, "id": None if call_id in ids else call_id or None, "index": len(calls)})
            ids.add(call_id)
    return calls


def arguments_of(value: object) -> str:
    """Return arguments as a string, whether the backend sent a string or an object."""
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)


def _read(piece: str | bytes) -> str:
    """Return a piece of arguments; "" for a JSON text that has none."""
    if isinstance(piece, str):
        return piece
    try:
        return _string(json.loads(piece, strict=False))
    except ValueError:
        return ""


def _id_of(value: object) -> str:
    return str(value) if type(value) is int else _string(value)


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""
