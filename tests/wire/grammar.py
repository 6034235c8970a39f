"""A checker of the Responses event stream: raw bytes in, what is wrong with them out.

It knows nothing of the translator; unit tests and end-to-end tests run it over every stream they see.
"""

from __future__ import annotations

import json
from typing import Any

TERMINAL = {
    "response.completed": "completed",
    "response.incomplete": "incomplete",
    "response.failed": "failed",
}
_FIELDS = """
    id object created_at completed_at status incomplete_details error model previous_response_id instructions output
    tools tool_choice parallel_tool_calls max_tool_calls text reasoning temperature top_p presence_penalty
    frequency_penalty top_logprobs max_output_tokens truncation store background service_tier metadata
    safety_identifier prompt_cache_key usage
"""
RESPONSE_FIELDS = frozenset(_FIELDS.split())
ID_PREFIX = {"message": "msg_", "function_call": "fc_", "custom_tool_call": "ctc_", "reasoning": "rs_"}
# delta event -> (member of the part, its kind)
PART_TEXT = {"output_text": "text", "refusal": "refusal"}
CALLS = {"function_call": "arguments", "custom_tool_call": "input"}

Event = dict[str, Any]


def check(raw: bytes) -> tuple[list[str], list[Event]]:
    """(violations, events) of a whole body."""
    checker = _Checker()
    checker.read(raw)
    return checker.violations, checker.events


def valid(raw: bytes) -> list[Event]:
    """The events of a body that must be right."""
    violations, events = check(raw)
    assert not violations, "\n".join(violations)
    return events


def check_response(response: dict[str, Any]) -> list[str]:
    """What is wrong with a Response object, streamed or not."""
    wrong = [f"response lacks {name}" for name in sorted(RESPONSE_FIELDS - set(response))]
    if wrong:
        return wrong
    if response["object"] != "response" or not response["id"].startswith("resp_"):
        wrong.append("response has a wrong object or id")
    if type(response["created_at"]) is not int:
        wrong.append("created_at is no integer")
    if (type(response["completed_at"]) is int) != (response["status"] == "completed"):
        wrong.append("completed_at must be an integer when completed, else null")
    if bool(response["incomplete_details"]) != (response["status"] == "incomplete"):
        wrong.append("incomplete_details does not go with the status")
    if bool(response["error"]) != (response["status"] == "failed"):
        wrong.append("error does not go with the status")
    ids = [item["id"] for item in response["output"]]
    if len(ids) != len(set(ids)):
        wrong.append("two items share an id")
    if (usage := response["usage"]) is not None:
        counts = [usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]]
        counts += [usage["input_tokens_details"]["cached_tokens"], usage["output_tokens_details"]["reasoning_tokens"]]
        if not all(type(count) is int for count in counts):
            wrong.append("a token count is no integer")
    return wrong


class _Open:
    """An item between added and done."""

    def __init__(self, item: Event) -> None:
        self.item = item
        self.kind = item["type"]
        self.parts: list[Event] = []  # closed
        self.part: Event | None = None
        self.text = ""  # of the open part, or of the call
        self.logprobs: list[Any] = []
        self.text_done: str | None = None


class _Checker:
    def __init__(self) -> None:
        self.violations: list[str] = []
        self.events: list[Event] = []
        self.response_id: str | None = None
        self.added = 0
        self.open: dict[int, _Open] = {}
        self.done: list[Event] = []
        self.done_indexes: list[int] = []
        self.ids: set[str] = set()
        self.errors = 0
        self.terminal: Event | None = None

    def wrong(self, what: str) -> None:
        self.violations.append(f"event {len(self.events) - 1}: {what}")

    def need(self, holds: bool, what: str) -> bool:
        if not holds:
            self.wrong(what)
        return holds

    # --- framing ---

    def read(self, raw: bytes) -> None:
        text = raw.decode("utf-8")
        self.need(text.endswith("\n\n"), "the body does not end with an empty line")
        finished = False
        for block in text.split("\n\n"):
            lines = [line for line in block.split("\n") if line and not line.startswith(":")]
            if not lines:
                continue
            if self.need(not finished, f"something follows [DONE]: {block[:80]!r}") and lines == ["data: [DONE]"]:
                finished = True
                self.need(self.terminal is not None, "[DONE] without a terminal event")
                continue
            self.block(lines)
        self.need(finished, "the body does not end with [DONE]")
        self.need(self.terminal is not None, "no terminal event")

    def block(self, lines: list[str]) -> None:
        if not self.need(
            len(lines) == 2 and lines[0].startswith("event: ") and lines[1].startswith("data: "),
            f"an event must be an event line and a data line: {lines}",
        ):
            return
        event = json.loads(lines[1][6:], parse_constant=lambda name: self.wrong(f"{name} is not JSON"))
        self.events.append(event)
        kind = event.get("type")
        self.need(lines[0][7:] == kind, f"event line {lines[0]!r} does not match type {kind!r}")
        self.need(event.get("sequence_number") == len(self.events) - 1, "sequence_number has a gap")
        self.need(self.terminal is None, f"{kind} follows the terminal event")
        self.need(kind != "error" or self.errors == 0, "a second error event")
        if len(self.events) <= 2:
            self.begin(event, ("response.created", "response.in_progress")[len(self.events) - 1])
        elif kind in TERMINAL:
            self.end(event)
        elif kind == "error":
            self.error(event)
        else:
            self.need(self.errors == 0, f"{kind} follows the error event")
            self.body(event)

    # --- beginning and end ---

    def begin(self, event: Event, kind: str) -> None:
        if not self.need(event["type"] == kind, f"expected {kind}, got {event['type']}"):
            return
        response = event["response"]
        self.same_id(response)
        self.need(
            (response.get("status"), response.get("output"), response.get("usage")) == ("in_progress", [], None),
            f"{kind} must be in_progress, without output and usage",
        )
        for wrong in check_response(response):
            self.wrong(wrong)

    def same_id(self, response: Event) -> None:
        self.response_id = self.response_id or response.get("id")
        self.need(bool(response.get("id")) and response["id"] == self.response_id, "the response id changed")

    def end(self, event: Event) -> None:
        self.terminal = event
        response = event["response"]
        self.same_id(response)
        self.need(response.get("status") == TERMINAL[event["type"]], "the terminal status does not match its event")
        cut = [item for item in self.open.values() if item.kind == "custom_tool_call" and item.text_done is None]
        cut = [] if event["type"] == "response.completed" else cut  # half a custom call is never done
        self.need(len(cut) == len(self.open), f"items {sorted(self.open)} are still open at the end")
        self.need(response.get("output") == self.done, "the terminal output is not the list of done items")
        self.need((event["type"] == "response.failed") == (self.errors == 1), "error and response.failed go together")
        for wrong in check_response(response):
            self.wrong(wrong)
        statuses = [item["status"] for item in self.done if "status" in item]
        if event["type"] == "response.completed":
            self.need(set(statuses) <= {"completed"}, "a completed response holds an item that is not")
        if event["type"] == "response.incomplete" and not cut and self.done and "status" in self.done[-1]:
            self.need(self.done[-1]["status"] == "incomplete", "the last item of an incomplete response is not")

    def error(self, event: Event) -> None:
        self.errors += 1
        nested = event.get("error")
        if not self.need(isinstance(nested, dict), "an error event needs a nested error"):
            return
        self.need(set(nested) == {"type", "code", "message", "param"}, "nested error: wrong members")
        for holder in (event, nested):
            self.need("param" in holder, "an error needs param")
            for name in ("code", "message"):
                self.need(isinstance(holder.get(name), str) and bool(holder[name]), f"an error needs a {name}")

    # --- items ---

    def body(self, event: Event) -> None:
        kind = event["type"]
        if kind == "response.output_item.added":
            self.item_added(event)
            return
        index = event.get("output_index")
        item = self.open.get(index) if isinstance(index, int) else None
        if item is None:
            self.wrong(f"{kind} for item {index}, which is not open")
            return
        if kind == "response.output_item.done":
            self.item_done(index, item, event["item"])
            return
        self.need(event.get("item_id") == item.item["id"], f"{kind}: item_id does not match")
        handler = {
            "message": self.in_message,
            "reasoning": self.in_reasoning,
            "function_call": self.in_call,
            "custom_tool_call": self.in_call,
        }[item.kind]
        handler(item, event)

    def item_added(self, event: Event) -> None:
        item = event["item"]
        self.need(event["output_index"] == self.added, f"output_index {event['output_index']}, expected {self.added}")
        self.added += 1
        texts = [open_.kind for open_ in self.open.values() if open_.kind in ("message", "reasoning")]
        self.need(not texts, f"an item is added while a {texts} is open")
        if not self.need(item.get("type") in ID_PREFIX, f"unknown item type {item.get('type')!r}"):
            return
        self.need(item["id"].startswith(ID_PREFIX[item["type"]]), f"item id {item['id']!r} has a wrong prefix")
        self.need(item["id"] not in self.ids, "an item id was used before")
        self.ids.add(item["id"])
        if item["type"] == "reasoning":
            self.need(item.get("summary") == [], "a reasoning item starts with an empty summary")
        else:
            self.need(item.get("status") == "in_progress", "an item starts in_progress")
        if item["type"] == "message":
            self.need((item.get("role"), item.get("content")) == ("assistant", []), "a message starts empty")
        if member := CALLS.get(item["type"]):
            self.need(item.get(member) == "", f"a call starts with empty {member}")
            self.need(bool(item.get("name")) and bool(item.get("call_id")), "a call needs a name and a call_id")
            self.need(item.get("call_id") not in self.ids, "a call_id was used before")
            self.ids.add(item.get("call_id", ""))
        self.open[event["output_index"]] = _Open(item)

    def item_done(self, index: int, open_: _Open, item: Event) -> None:
        del self.open[index]
        self.need(open_.part is None, "an item is done while its part is open")
        self.need(all(index > other for other in self.done_indexes), "items are done out of order")
        self.done_indexes.append(index)
        self.done.append(item)
        for name in ("id", "type", "call_id", "name", "namespace", "role"):
            self.need(item.get(name) == open_.item.get(name), f"{name} changed within the item")
        if open_.kind == "reasoning":
            self.need(item.get("summary") == open_.parts, "the summary is not the list of done parts")
            self.need(item.get("encrypted_content", "x") not in (None, ""), "encrypted_content is empty")
            return
        self.need(item.get("status") in ("completed", "incomplete"), "a done item has a final status")
        if open_.kind == "message":
            self.need(item.get("content") == open_.parts, "the content is not the list of done parts")
        else:
            member = CALLS[open_.kind]
            self.need(open_.text_done is not None, f"{member} was never done")
            self.need(item.get(member) == open_.text, f"{member} is not the joined deltas")

    def in_message(self, item: _Open, event: Event) -> None:
        kind = event["type"]
        self.need(event.get("content_index") == len(item.parts), f"{kind}: wrong content_index")
        if kind == "response.content_part.added":
            empty = (
                {"type": "output_text", "text": "", "annotations": [], "logprobs": []},
                {"type": "refusal", "refusal": ""},
            )
            self.part_added(item, event, event["part"] in empty)
            return
        if not self.need(item.part is not None, f"{kind} without an open part"):
            return
        part_kind = item.part["type"]
        member = PART_TEXT[part_kind]
        if kind == f"response.{part_kind}.delta":
            self.delta(item, event)
            item.logprobs += event.get("logprobs", [])
            self.need(part_kind == "refusal" or isinstance(event.get("logprobs"), list), "a text delta has logprobs")
        elif kind == f"response.{part_kind}.done":
            self.text_done(item, event.get(member))
            self.need(part_kind == "refusal" or event.get("logprobs") == item.logprobs, "logprobs differ from deltas")
        elif self.need(kind == "response.content_part.done", f"{kind} in a message"):
            rest = {"annotations": [], "logprobs": item.logprobs} if part_kind == "output_text" else {}
            self.part_done(item, event, {"type": part_kind, member: item.text, **rest})

    def in_reasoning(self, item: _Open, event: Event) -> None:
        kind = event["type"]
        self.need(event.get("summary_index") == len(item.parts), f"{kind}: wrong summary_index")
        if kind == "response.reasoning_summary_part.added":
            self.part_added(item, event, event["part"] == {"type": "summary_text", "text": ""})
        elif not self.need(item.part is not None, f"{kind} without an open part"):
            return
        elif kind == "response.reasoning_summary_text.delta":
            self.delta(item, event)
        elif kind == "response.reasoning_summary_text.done":
            self.text_done(item, event.get("text"))
        elif self.need(kind == "response.reasoning_summary_part.done", f"{kind} in a reasoning item"):
            self.part_done(item, event, {"type": "summary_text", "text": item.text})

    def in_call(self, item: _Open, event: Event) -> None:
        kind, member = event["type"], CALLS[item.kind]
        name = "function_call_arguments" if member == "arguments" else "custom_tool_call_input"
        if kind == f"response.{name}.delta":
            self.delta(item, event)
        elif self.need(kind == f"response.{name}.done", f"{kind} in a {item.kind}"):
            self.text_done(item, event.get(member))
            if member == "arguments":
                self.need(event.get("name") == item.item["name"], "arguments.done has another name")

    # --- parts and text ---

    def part_added(self, item: _Open, event: Event, empty: bool) -> None:
        self.need(empty, "a part starts empty")
        self.need(item.part is None, "a part is added while another is open")
        item.part, item.text, item.logprobs, item.text_done = event["part"], "", [], None

    def part_done(self, item: _Open, event: Event, expected: Event) -> None:
        self.need(item.text_done is not None, "a part is done before its text")
        self.need(event.get("part") == expected, "the done part is not the joined deltas")
        item.parts.append(event["part"])
        item.part = None

    def delta(self, item: _Open, event: Event) -> None:
        self.need(item.text_done is None, f"{event['type']} after done")
        if self.need(isinstance(event.get("delta"), str) and event["delta"] != "", "an empty delta"):
            item.text += event["delta"]

    def text_done(self, item: _Open, text: Any) -> None:
        self.need(item.text_done is None, "text is done twice")
        self.need(text == item.text, f"done text {text!r} is not the joined deltas {item.text!r}")
        item.text_done = text
