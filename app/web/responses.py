"""/v1/responses: the Responses API over any backend, and what is kept of it."""

from __future__ import annotations

import dataclasses
import json
import logging
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

from flask import Blueprint, Response, jsonify
from flask import request as http

from app.conversations import Turn
from app.errors import NotFound, RequestError, RouterError, StreamInterrupted
from app.runtime import Runtime
from app.storage import StoreError, now_ms
from app.types import Buffered, ChatRequest, JsonObject, Reply, Sensitivity, StoredRequest, Target
from app.web import answers, errors, headers
from app.web.guards import owner_of
from app.wire import sse
from app.wire.json_body import read_object
from app.wire.responses.body import ResponsesBody
from app.wire.responses.reply import from_chat, item_ids
from app.wire.responses.request import ResponsesRequest, is_id, parse
from app.wire.responses.stored import input_list, kept_items
from app.wire.responses.stream import EventStream, response_in, translate

blueprint = Blueprint("responses", __name__)
log = logging.getLogger("llr.conversations")


@blueprint.post("/v1/responses")
def responses() -> Response:
    environ, rt = http.environ, answers.runtime()
    request, asked = read_request(rt, environ, headers.body(environ, rt.settings.max_body_bytes))
    return answers.answer(request, ResponsesSurface(rt, request, asked, owner_of(environ)), rt, environ)


@blueprint.get("/v1/responses/<name>")
def retrieve(name: str) -> Response:
    turn = _kept(name)
    if turn.native:
        return _at_backend(turn, "GET")
    return jsonify(turn.response)


@blueprint.delete("/v1/responses/<name>")
def delete(name: str) -> Response:
    turn = _kept(name)
    if turn.native:
        return _at_backend(turn, "DELETE", document=lambda _: _forget(turn))
    return Response(_forget(turn), mimetype="application/json")


@blueprint.get("/v1/responses/<name>/input_items")
def input_items(name: str) -> Response:
    turn = _kept(name)
    if turn.native:
        return _at_backend(turn, "GET", "/input_items")
    return jsonify(input_list(turn.input))


@blueprint.errorhandler(StoreError)
def _unreadable(error: StoreError) -> Response:
    text = f"Stored responses cannot be read now: {error}"
    return errors.render(RouterError(text, status=503, code="store_unavailable"))


def _kept(name: str) -> Turn:
    """Return a turn of the client that asks.  Raises NotFound, whether there is none or it is another's."""
    rt = answers.runtime()
    turn: Turn | None = rt.state_lane.run(rt.conversations.turn, name, owner_of(http.environ))
    if turn is None:
        raise NotFound(f"Response with id {name[:80]!r} not found.", code="response_not_found")
    return turn


def _forget(turn: Turn) -> bytes:
    """Delete a turn here, and return what is said of it."""
    rt = answers.runtime()
    rt.state_lane.run(rt.conversations.delete, turn.id, turn.owner)
    return json.dumps({"id": turn.id, "object": "response", "deleted": True}).encode()


def _at_backend(
    turn: Turn, method: str, below: str = "", document: Callable[[Buffered], bytes] = lambda reply: reply.body
) -> Response:
    """Ask the backend that keeps a response; `below` is a path behind that of the response."""
    rt, environ = answers.runtime(), http.environ
    config = rt.policy.backends.get(turn.backend)
    if config is None or config.responses != "native":
        raise NotFound(
            f"The backend that keeps this response, {turn.backend!r}, is no longer there to be asked.",
            code="response_not_found",
        )
    request = StoredRequest(
        request_id=headers.request_id(environ),
        method=method,
        path=f"/{quote(turn.id, safe='')}{below}",
        keeper=Target(turn.backend, turn.model, client_named=True),
        private=turn.private or headers.sensitivity(environ) == Sensitivity.HIGH,
    )
    return answers.buffered(request, document, rt, environ)


def read_request(rt: Runtime, environ: dict[str, Any], raw: bytes) -> tuple[ChatRequest, ResponsesRequest]:
    """The request as the pipeline runs it, and as it was asked.  Raises RequestError."""
    private = headers.sensitivity(environ)
    received = read_object(raw)
    time.sleep(0)  # the other requests' turn, here and below: with a large body each step takes its time
    asked = parse(received.document)
    past = _Past(rt, asked, owner_of(environ))
    asked = asked.after(past.history)
    time.sleep(0)
    request = ChatRequest(
        request_id=headers.request_id(environ),
        surface="responses",
        body=ResponsesBody(asked, past.history, past.stored, received, kept_elsewhere=past.keeper is not None),
        model=asked.model,
        stream=asked.stream,
        sensitivity=Sensitivity.HIGH if past.private else private,
        sensitivity_reason="conversation" if past.private and private != Sensitivity.HIGH else "header",
        continues=past.keeper,
    )
    return request, asked


class _Past:
    """What a request goes on from: the chain of turns, the items it refers to, and who keeps them."""

    def __init__(self, rt: Runtime, asked: ResponsesRequest, owner: str) -> None:
        self.history: list[dict[str, Any]] = []
        self.stored: dict[str, dict[str, Any]] = {}
        self.private = False
        turns: list[Turn] = []
        if asked.previous_response_id:
            turns = rt.state_lane.run(rt.conversations.chain, asked.previous_response_id, owner)
            self.history = [item for turn in turns for item in turn.items]
        elsewhere = turns[-1:] if turns and turns[-1].native else []
        if asked.references:
            found = rt.state_lane.run(rt.conversations.items, asked.references, owner)
            self.stored = {name: item for name, (item, _) in found.items() if item is not None}
            elsewhere += [turn for item, turn in found.values() if item is None]
            turns = [*turns, *(turn for _, turn in found.values())]
        self.keeper = _keeper(rt, elsewhere)
        self.private = any(turn.private for turn in turns)


def _keeper(rt: Runtime, turns: list[Turn]) -> Target | None:
    """The backend that keeps these turns: only it can go on with them."""
    if not turns:
        return None
    if len({turn.backend for turn in turns}) > 1:
        raise RequestError("input refers to items that different backends keep.", param="input", code="item_not_found")
    turn = max(turns, key=lambda turn: turn.ts_ms)
    config = rt.policy.backends.get(turn.backend)
    if config is None or config.responses != "native":
        raise RequestError(
            f"This conversation is kept by the backend {turn.backend!r}, which is no longer there to go on with it.",
            param="previous_response_id",
            code="previous_response_not_found",
        )
    return Target(turn.backend, turn.model)


class ResponsesSurface:
    """Chat answers as Response objects and events; those of a native backend as they come."""

    def __init__(self, rt: Runtime, request: ChatRequest, asked: ResponsesRequest, owner: str) -> None:
        """`owner` is whose responses are kept: the id of the client's key."""
        self._rt = rt
        self._owner = owner
        self._body = request.body
        self._asked = asked
        self._id = _new_id("resp")
        self._created_at = int(time.time())

    def document(self, reply: Buffered) -> bytes:
        if reply.native:
            self._keep_native(reply, reply.document)
            return reply.body
        self._heed_rules(reply)
        response = from_chat(
            reply.document,
            self._asked,
            response_id=self._id,
            created_at=self._created_at,
            completed_at=int(time.time()),
            model=reply.target.model,
            new_id=_new_id,
        )
        self._keep(reply, response)
        return json.dumps(response, ensure_ascii=False).encode("utf-8", "backslashreplace")

    def events(self, reply: Reply) -> Iterator[bytes]:
        if reply.native:
            yield from self._native_events(reply)
            return
        self._heed_rules(reply)
        stream = self._stream(reply.target.model, lambda response: self._keep(reply, response))
        if isinstance(reply, Buffered):  # a backend that ignored `stream: true`
            yield from (*stream.feed_document(reply.document), *stream.finish())
        else:
            yield from translate(reply.chunks, stream)

    def failure(self, error: RouterError) -> bytes:
        stream = self._stream(self._asked.model or "auto")
        return b"".join(stream.fail(error.message, error.type, error.code, error.param))

    def _native_events(self, reply: Reply) -> Iterator[bytes]:
        if isinstance(reply, Buffered):
            self._keep_native(reply, reply.document)
            kind = f"response.{reply.document.get('status', 'completed')}"
            yield sse.event({"type": kind, "sequence_number": 0, "response": reply.document}, kind)
            return
        splitter, known = sse.Splitter(), False
        try:
            for piece in reply.chunks:
                for event in splitter.feed(piece):
                    if response := response_in(event, ends_only=known):
                        known = True
                        self._keep_native(reply, response)  # whose it is at once, its items at the end
                yield piece
        except StreamInterrupted as error:
            if not error.told:
                yield splitter.end_mark + self.failure(error)

    def _heed_rules(self, reply: Reply) -> None:
        """What is not kept is not said to be: `store` is echoed as it is done."""
        rules = self._rt.policy.responses
        if self._asked.store and (not rules.store or (reply.private and not rules.store_private)):
            self._asked = dataclasses.replace(self._asked, store=False, echo={**self._asked.echo, "store": False})

    def _keep(self, reply: Reply, response: dict[str, Any]) -> None:
        """Keep the turn before the client hears of its end: it may go on at once, at another worker."""
        if self._asked.store:
            assert isinstance(self._body, ResponsesBody)
            items = tuple(kept_items(self._body.input, _new_id))
            response["store"] = self._keep_turn(reply, self._id, native=False, items=items, response=response)

    def _keep_native(self, reply: Reply, response: JsonObject) -> None:
        """Only whose it is: the turn itself is kept by its backend."""
        name = response.get("id")
        if self._asked.store and is_id(name):
            self._keep_turn(reply, str(name), native=True, their_items=item_ids(response))

    def _keep_turn(
        self,
        reply: Reply,
        name: str,
        *,
        native: bool,
        items: tuple[dict[str, Any], ...] = (),
        response: dict[str, Any] | None = None,
        their_items: tuple[str, ...] = (),
    ) -> bool:
        """Tell whether the turn is kept, or soon will be."""
        turn = Turn(
            owner=self._owner,
            id=name,
            ts_ms=now_ms(),
            previous_id=self._asked.previous_response_id,
            backend=reply.target.backend,
            model=reply.target.model,
            native=native,
            private=reply.private,
            input=items,
            response=response,
            their_items=their_items,
        )
        try:
            return self._rt.state_lane.run(self._rt.conversations.keep, turn)
        except Exception as error:  # whatever goes wrong here, the answer is there and is sent
            log.error("a response could not be stored: %s", type(error).__name__)
            return False

    def _stream(self, model: str, settle: Callable[[dict[str, Any]], None] | None = None) -> EventStream:
        return EventStream(
            self._asked,
            response_id=self._id,
            created_at=self._created_at,
            model=model,
            new_id=_new_id,
            clock=time.time,
            settle=settle,
        )


def _new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(20)}"
