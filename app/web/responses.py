"""POST /v1/responses: the Responses API over any backend, with stored conversations."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from app.conversations import Turn
from app.errors import RequestError, RouterError
from app.services import Services
from app.storage import now_ms
from app.types import ChatRequest, Environ, JsonDict, Reply, Sensitivity, Target, Wire
from app.web import headers
from app.web.access import owner_of
from app.web.identifiers import identifiers, program, session
from app.web.openai import OpenAI
from app.web.stored_responses import ask_store
from app.web.surface import Exchange
from app.wire.json_body import read_object
from app.wire.responses.body import ResponsesBody
from app.wire.responses.reply import item_ids
from app.wire.responses.request import ResponsesRequest, is_id, parse
from app.wire.responses.stored import kept_items
from app.wire.responses.translator import failed_stream
from app.wire.translator import ReplyContext

log = logging.getLogger("llr.conversations")


class ResponsesSurface(OpenAI):
    """Read Responses requests, with the turns that they continue."""

    name = "responses"
    wire = Wire.RESPONSES

    def read(self, environ: Environ, body: bytes, services: Services) -> ResponsesExchange:
        """Return the Responses request of an HTTP request.  Raise RequestError, and RouterError when the
        conversation that it continues cannot be read now."""
        sensitivity, lane, owner = headers.sensitivity(environ), headers.lane(environ), owner_of(environ)
        received = read_object(body)
        time.sleep(0)  # let other requests run, here and below: each step takes some time with a large body
        wanted = parse(received.document)
        past = _Past(services, wanted, owner)
        wanted, ids = wanted.after(past.history), identifiers(environ)
        time.sleep(0)
        request = ChatRequest(
            request_id=headers.request_id(environ),
            surface=self.name,
            body=ResponsesBody(wanted, past.history, past.stored, received, kept_elsewhere=past.keeper is not None),
            model=wanted.model,
            stream=wanted.stream,
            sensitivity=Sensitivity.HIGH if past.private else sensitivity,
            sensitivity_reason="conversation" if past.private and sensitivity != Sensitivity.HIGH else "header",
            lane=lane,
            session=session(ids, received.document.get("prompt_cache_key")),
            identifiers=ids,
            headers=program(environ),
            continues=past.keeper,
        )
        return ResponsesExchange(services, request, wanted, owner)


SURFACE = ResponsesSurface()


class _Past:
    """Hold the history of a request: the chain of turns, the items that it refers to, and the backend that stores
    them."""

    def __init__(self, services: Services, request: ResponsesRequest, owner: str) -> None:
        self.history: list[JsonDict] = []
        self.stored: dict[str, JsonDict] = {}
        turns: list[Turn] = []
        if request.previous_response_id:
            turns = ask_store(services, services.conversations.chain, request.previous_response_id, owner)
            self.history = [item for turn in turns for item in turn.items]
        elsewhere = turns[-1:] if turns and turns[-1].kept_by_backend else []
        if request.references:
            items = ask_store(services, services.conversations.items, request.references, owner)
            self.stored = {name: item for name, (item, _) in items.items() if item is not None}
            elsewhere += [turn for item, turn in items.values() if item is None]
            turns = [*turns, *(turn for _, turn in items.values())]
        self.keeper = _keeper(services, elsewhere)
        self.private = any(turn.private for turn in turns)


def _keeper(services: Services, turns: list[Turn]) -> Target | None:
    """Return the backend that stores these turns: no other can continue them."""
    if not turns:
        return None
    if len({turn.backend for turn in turns}) > 1:
        raise RequestError(
            "`input` refers to items that different backends store.", param="input", code="item_not_found"
        )
    turn = max(turns, key=lambda turn: turn.ts_ms)
    config = services.policy.backends.get(turn.backend)
    if config is None or Wire.RESPONSES not in config.wires:
        raise RequestError(
            f"The backend {turn.backend!r} keeps this conversation, and is no longer in the policy to continue it.",
            param="previous_response_id",
            code="previous_response_not_found",
        )
    return Target(turn.backend, turn.model)


class ResponsesExchange(Exchange):
    """Write replies for Responses clients, and store them."""

    def __init__(self, services: Services, request: ChatRequest, wanted: ResponsesRequest, owner: str) -> None:
        """`owner` is the id of the client's key, to which the responses belong."""
        super().__init__(request)
        self._services = services
        self._owner = owner
        self._wanted = wanted
        self._id = _new_id("resp")
        self._created_at = int(time.time())

    def failure(self, error: RouterError) -> bytes:
        return failed_stream(error, self._written_with(self._wanted.model or "auto"))

    def context(self, reply: Reply) -> ReplyContext:
        if reply.wire is Wire.RESPONSES:
            return self._written_with(reply.target.model, partial(self._keep_theirs, reply))
        rules = self._services.policy.responses
        if self._wanted.store and rules.store and (rules.store_private or not reply.decision.private):
            return self._written_with(reply.target.model, partial(self._keep, reply))
        return replace(self._written_with(reply.target.model), stored=False)

    def _written_with(self, model: str, keep: Callable[[JsonDict], None] = lambda _: None) -> ReplyContext:
        return ReplyContext(
            body=self.request.body,
            model=model,
            new_id=_new_id,
            clock=time.time,
            reply_id=self._id,
            created_at=self._created_at,
            keep=keep,
        )

    def _keep(self, reply: Reply, response: JsonDict) -> None:
        """Store the turn before the client gets the end of the reply, because the client may continue at once, with
        another worker."""
        assert isinstance(self.request.body, ResponsesBody)
        items = tuple(kept_items(self.request.body.input, _new_id))
        response["store"] = self._keep_turn(reply, self._id, kept_by_backend=False, items=items, response=response)

    def _keep_theirs(self, reply: Reply, response: JsonDict) -> None:
        """Store the owner of a response, whose backend stores the turn itself."""
        name = response.get("id")
        if self._wanted.store and is_id(name):
            self._keep_turn(reply, str(name), kept_by_backend=True, their_items=item_ids(response))

    def _keep_turn(
        self,
        reply: Reply,
        name: str,
        *,
        kept_by_backend: bool,
        items: tuple[JsonDict, ...] = (),
        response: JsonDict | None = None,
        their_items: tuple[str, ...] = (),
    ) -> bool:
        """Return True when the turn is stored, or will be soon."""
        turn = Turn(
            owner=self._owner,
            id=name,
            ts_ms=now_ms(),
            previous_id=self._wanted.previous_response_id,
            backend=reply.target.backend,
            model=reply.target.model,
            kept_by_backend=kept_by_backend,
            private=reply.decision.private,
            input=items,
            response=response,
            their_items=their_items,
        )
        try:
            return self._services.state_thread.run(self._services.conversations.keep, turn)
        except Exception as error:  # the client gets its reply in any case
            log.error("a response could not be stored: %s", type(error).__name__)
            return False


def _new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(20)}"
