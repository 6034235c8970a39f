"""Make one HTTP call to one backend: write the request, heed the deadlines, wait for the first event.

Calls go through a pool of our own, not a requests.Session, so there is no cookie jar, no netrc, no proxy from the
environment, and no redirect is followed.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from math import inf
from typing import Any, ClassVar

from gevent.event import Event
from marshmallow import fields

from app.backends.connection import StaleConnection
from app.backends.failures import (
    AUTHORITIES,
    TRANSPORT_ERRORS,
    causes,
    error_in_reply,
    refusal,
    transport_error,
    unused_proxy,
)
from app.backends.logprobs import CutResponse, Logprobs, is_about_logprobs
from app.backends.pool import ConnectionPool
from app.backends.reply import StoredDocument, Stream, Whole, failed_finish, first_bytes, read_body
from app.backends.response import Response
from app.backends.unfit import unfit
from app.errors import BackendError, BackendProtocol, BackendRejected, BackendServerError, BackendUnavailable
from app.types import (
    BackendConfig,
    ChatRequest,
    Dialect,
    JsonDict,
    JsonObject,
    ModelFacts,
    Operation,
    Outgoing,
    Residency,
    StoredRequest,
    Target,
    Turnover,
    Wire,
)
from app.wire import WIRES, sse, translator
from app.wire.chat.request import MOST_MODEL_CHARS
from app.wire.error_document import error_of, error_of_stored

_NO_HEADERS: Mapping[str, str] = {}
_NO_FACTS: Mapping[str, ModelFacts] = {}
_NO_RESIDENCY: Mapping[str, Residency] = {}
_NO_TURNOVER: Mapping[str, Turnover] = {}
_MOST_MODELS = 10_000  # of one backend; each request looks up its name among them
_ERROR_BODY_S = 5.0  # wait for each piece of an error's body
V1_PATHS = {  # after an endpoint without /v1
    Wire.CHAT: "/v1/chat/completions",
    Wire.RESPONSES: "/v1/responses",
    Wire.MESSAGES: "/v1/messages",
}


class Backend:
    """Call a named server.  Subclasses set a few class attributes; see CONTRIBUTING.md."""

    type: ClassVar[str]
    hosted: ClassVar[bool] = True  # a hosted kind is remote unless the policy says `local: true`
    in_process: ClassVar[bool] = False  # it is a part of the router and makes no call
    default_endpoint: ClassVar[str | None] = None  # None: the policy must give one
    default_models: ClassVar[tuple[str, ...]] = ()
    default_key_env: ClassVar[str | None] = None
    paths: ClassVar[Mapping[Wire, str]] = {
        Wire.CHAT: "/chat/completions",
        Wire.RESPONSES: "/responses",
        Wire.MESSAGES: "/messages",
    }
    models_path: ClassVar[str] = "/models"
    hint: ClassVar[str] = ""  # what to do when it cannot be reached
    responses_at_default: ClassVar[bool] = False  # at its default endpoint it speaks the Responses API itself
    messages_only: ClassVar[bool] = False  # it speaks the Messages API and no other
    dialect: Dialect = Dialect()
    logprob_members: ClassVar[JsonObject] = {}  # of a request for log-probabilities; empty: the server gives none
    absent_logprobs: ClassVar[str] = ""  # `logprobs` in replies without them, as JSON; empty: there is no such member
    policy_fields: ClassVar[Mapping[str, fields.Field[Any]]] = {}  # policy keys of this type alone

    def __init__(self, config: BackendConfig, environ: Mapping[str, str]) -> None:
        self.config = config
        self._key = environ.get(config.api_key_env, "").strip() if config.api_key_env else ""
        self._logprobs = Logprobs(config.name, self.logprob_members, self.absent_logprobs)
        self._unused_proxy = unused_proxy(config.endpoint, environ)
        self._authorities = environ.get(AUTHORITIES, "").strip()
        self._connections = ConnectionPool(config.endpoint, config.timeouts, self._authorities)
        # Private requests use connections that check the address they have reached, unless the policy says so
        # with `local: true`.
        self._private_connections = (
            ConnectionPool(config.endpoint, config.timeouts, self._authorities, local_only=True)
            if config.local is None
            else self._connections
        )

    @property
    def missing_key(self) -> str:
        """Return the variable that should hold this backend's key and does not; "" when all is well."""
        return self.config.api_key_env or "" if not self._key else ""

    @property
    def wires(self) -> tuple[Wire, ...]:
        """Return the wire forms of the server.  For clients of another form, the last one is used."""
        return self.config.wires

    def dialect_for(self, model: str) -> Dialect:  # noqa: ARG002
        """Return the dialect in which the server wants requests for a model."""
        return self.dialect

    @classmethod
    def normal_endpoint(cls, endpoint: str) -> str:
        """Return the endpoint in the form that `paths` and `models_path` expect."""
        return endpoint.rstrip("/")

    def get_ready(self) -> None:
        """Learn what `prepare` must know of the server.  It is called before each request, and may ask the server."""

    def prepare(self, request: ChatRequest | StoredRequest, target: Target, *, stream: bool) -> Outgoing:
        """Return the request to send.  `stream` differs from the client's only for shadow calls and probes."""
        if isinstance(request, StoredRequest):
            path = self.paths[request.wire] + request.path
            return Outgoing(path, b"", request.wire, request.method, Operation.STORED)
        client_wire, wires, dialect = request.wire, self.wires, self.dialect_for(target.model)
        wire = client_wire if client_wire in wires else wires[-1]
        if wire is not client_wire and request.large:
            time.sleep(0)  # let other requests run: each of the two steps takes some time with a large body
            request.body.translate(dialect)
            time.sleep(0)
        asking = self._logprobs.body_for(request, wire, gives=self.gives_logprobs) if request.wants_logprobs else None
        sent = asking or request.body
        body = translator(client_wire, wire).request(sent, target.model, dialect, stream=stream)
        versions = request.versions if wire is client_wire else _NO_HEADERS
        return Outgoing(self.paths[wire], body, wire, headers=versions, logprobs=asking is not None)

    @property
    def gives_logprobs(self) -> bool:
        """Return True when the server gives log-probabilities, as far as is known."""
        return self._logprobs.has_any

    def url(self, outgoing: Outgoing) -> str | None:
        """Return the URL of the request; None when no request is sent, because the backend is a part of the router."""
        return self.config.endpoint + outgoing.path

    def open(self, outgoing: Outgoing, target: Target, *, stream: bool, private: bool) -> Whole | Stream:
        """Send a request, and return the whole reply, or a stream whose first event has arrived and is no error.
        When the server refuses a parameter, send the request once more without it.  Raise BackendError; it is
        CannotServe when the server says that another model may serve the request."""
        try:
            return self._open_adapted(outgoing, target, stream=stream, private=private)
        except BackendError as refusal:
            if not outgoing.logprobs or not is_about_logprobs(refusal):
                raise
        plain = dataclasses.replace(outgoing, body=self._logprobs.without(outgoing.body), logprobs=False)
        reply = self._open_adapted(plain, target, stream=stream, private=private)
        self._logprobs.refused()
        return reply

    def _open_adapted(self, outgoing: Outgoing, target: Target, *, stream: bool, private: bool) -> Whole | Stream:
        """Send a request, and once more without the parameter that the server refuses."""
        try:
            try:
                return self._open(outgoing, target, stream=stream, private=private)
            except BackendRejected as refusal:
                body = WIRES[outgoing.wire].other_body(refusal, outgoing.body)
                if body is None:
                    raise
            return self._open(dataclasses.replace(outgoing, body=body), target, stream=stream, private=private)
        except BackendRejected as refusal:
            raise unfit(refusal, target.model) from None

    def _open(self, outgoing: Outgoing, target: Target, *, stream: bool, private: bool) -> Whole | Stream:
        """Try `open` once."""
        via = self._private_connections if private else self._connections
        response = self._send(outgoing.method, outgoing.path, outgoing.body or None, via, outgoing.headers)
        form = WIRES[outgoing.wire]
        stream_reply = None
        try:
            if response.status >= 300:
                raise self._refusal(response, target)
            if outgoing.operation is Operation.STORED:
                return StoredDocument(*self._document(response, find_error=error_of_stored), outgoing.wire)
            first_pieces = first_bytes(response, response.first_byte_by, self.config) if stream else []
            if stream and not form.is_document(b"".join(first_pieces), response.headers.get("content-type", "")):
                arriving: Response | CutResponse = response
                if outgoing.logprobs:
                    arriving, first_pieces = self._logprobs.cut_stream(response, first_pieces, outgoing.wire)
                chunks = Stream(
                    arriving, self.config, self._key, wire=outgoing.wire, private=private, first_pieces=first_pieces
                )
                chunks.wait_for_first(response.first_byte_by, target.model)
                stream_reply = chunks
                return stream_reply
            body, document = self._document(response, first_pieces, model=target.model)
            whole = self._whole(body, document, outgoing)
            if whole.lack:
                raise BackendProtocol(f"answered 200 without {whole.lack}")
            if whole.finish_failure:
                raise BackendServerError(failed_finish(whole.finish_failure), kind="gave_up")
            return whole
        finally:
            if stream_reply is None:
                response.close()

    def _whole(self, body: bytes, document: JsonDict, outgoing: Outgoing) -> Whole:
        """Return a whole reply, without the log-probabilities that the client did not ask for."""
        if not outgoing.logprobs:
            return Whole(body, document, outgoing.wire)
        part = self._logprobs.cut(body, outgoing.wire)
        whole = Whole(part.raw, sse.json_of(part.raw) or document, outgoing.wire, part.logprobs)
        if whole.facts.chars and not whole.logprobs:
            self._logprobs.tell_none()
        return whole

    def discover(self) -> tuple[str, ...]:
        """Return the names of the models that the server holds, as far as a request can name them.  Raise
        BackendError."""
        document = self.ask(self.models_path)
        self.learn_list(document)
        names = self.model_names(document)
        return tuple(islice((name for name in names if len(name) <= MOST_MODEL_CHARS), _MOST_MODELS))

    def learn_list(self, document: JsonObject) -> None:
        """Read the facts in the document at `models_path`."""

    def ask_for_facts(self, models: Sequence[str] = ()) -> None:
        """Ask for the facts that the list of models lacks, about `models` first.  It is called after `discover`, now
        and then.  Raise BackendError."""

    @property
    def changes(self) -> Event | None:
        """Return the event that is set when the loaded models may have changed; None for a server that always has the
        same ones."""
        return None

    @property
    def tells_loaded(self) -> bool:
        """Return True when it is worth while to ask often which models are loaded."""
        return False

    def look(self) -> None:
        """Ask which models are loaded.  Raise BackendError."""

    def must_load(self, model: str) -> bool:  # noqa: ARG002
        """Return True when a call to a model should wait for `load` first."""
        return False

    def load(self, model: str, limit_s: float | None = None) -> None:
        """Return when a model is loaded.  It is loaded once for all requests that wait, and that goes on when they
        leave.  Raise BackendError, also after `limit_s`; None = the first-byte deadline."""

    @property
    def preload(self) -> tuple[str, ...]:
        """Return the models that stay loaded."""
        return ()

    def unused_s(self, model: str) -> float:  # noqa: ARG002
        """Return for how long a loaded model has not been used by any client, as far as this worker has seen."""
        return 0.0

    @property
    def facts(self) -> Mapping[str, ModelFacts]:
        """Return the facts that the server has told about its models, by locality.model_key.  It is the same object
        until a fact changes."""
        return _NO_FACTS

    @property
    def residency(self) -> Mapping[str, Residency]:
        """Return the loaded models, by their names, when the server was last asked."""
        return _NO_RESIDENCY

    @property
    def residency_at(self) -> float:
        """Return when the server last told which models are loaded, in Unix s; 0 = never."""
        return 0.0

    @property
    def turnover(self) -> Mapping[str, Turnover]:
        """Return the loads and evictions that this worker has seen since it started, by the names of the models."""
        return _NO_TURNOVER

    @property
    def version(self) -> str:
        """Return the version that the server has told; "" = it was not asked, or does not tell."""
        return ""

    @property
    def model_hosts(self) -> Mapping[str, str] | None:
        """Return the hosts that the server has named for its models, as in Observations; None for a server that runs
        all its models itself."""
        return None

    def host_of_model(self, model: str) -> str:  # noqa: ARG002
        """Return the host that runs a model, as the server said within the last second; "" = the server itself.
        Raises BackendError when the server does not say."""
        return ""

    def ask(
        self,
        path: str,
        question: JsonObject | None = None,
        *,
        private: bool = False,
        via: ConnectionPool | None = None,
    ) -> JsonObject:
        """Return a document about the server: a GET of a path, or the response to a POST. The first-byte deadline
        applies to the whole call.  `via` replaces the connections of requests.  Raise BackendError."""
        body = None if question is None else json.dumps(question).encode()
        via = via or (self._private_connections if private else self._connections)
        deadline = time.monotonic() + via.timeouts.first_byte_s
        response = self._send("GET" if body is None else "POST", path, body, via)
        try:
            if response.status != 200:
                raise self._refusal(response, Target(self.config.name, ""))
            _, document = self._document(response, deadline=deadline)
            return document
        finally:
            response.close()

    def model_names(self, document: JsonObject) -> tuple[str, ...]:
        """Return the names of models in the document at `models_path`."""
        return tuple(str(entry["id"]) for entry in entries_of(document, "data") if entry.get("id"))

    def close(self) -> None:
        self._connections.close()
        self._private_connections.close()

    def _send(
        self, method: str, path: str, body: bytes | None, via: ConnectionPool, more: Mapping[str, str] = _NO_HEADERS
    ) -> Response:
        headers = {**self._headers(body), **more}
        try:
            try:
                return via.call(method, path, body, headers)
            except TRANSPORT_ERRORS as error:
                if not any(isinstance(cause, StaleConnection) for cause in causes(error)):
                    raise
                via.forget()  # the idle connection was closed: try again with a new one
                return via.call(method, path, body, headers)
        except TRANSPORT_ERRORS as error:
            raise transport_error(error, self.config, self.hint, self._unused_proxy) from None

    def _headers(self, body: bytes | None) -> dict[str, str]:
        headers = {"Accept": "application/json, text/event-stream", "User-Agent": "local-llm-router"}
        if body is not None:
            headers |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
        if self.config.api_key_env:
            headers["Authorization"] = f"Bearer {self._usable_key(self.config.api_key_env)}"
        return headers

    def _usable_key(self, variable: str) -> str:
        if not self._key:
            raise BackendUnavailable(f"{variable} is not set", kind="no_key")
        if not self._key.isascii() or not self._key.isprintable():
            raise BackendUnavailable(f"{variable} holds characters that no key has", kind="no_key")
        return self._key

    def _document(
        self,
        response: Response,
        first_pieces: Sequence[bytes] = (),
        deadline: float = inf,
        find_error: Callable[[JsonObject], JsonObject | None] = error_of,
        model: str = "",
    ) -> tuple[bytes, JsonDict]:
        """Return the body, and the JSON object that it is.  Raise BackendError for an error document.
        `first_pieces` of the body were read already."""
        try:
            body = read_body(response, self.config.timeouts.idle_s, first_pieces, deadline)
        except TRANSPORT_ERRORS as error:
            raise transport_error(error, self.config) from None
        document = sse.json_of(body)
        if document is None:
            raise BackendProtocol("answered 200 with something that is not a JSON object")
        if find_error(document) is not None:
            raise error_in_reply(document, "answered 200 with an error", kind="error_body", key=self._key, model=model)
        return body, document

    def _refusal(self, response: Response, target: Target) -> BackendError:
        try:
            body = read_body(response, min(_ERROR_BODY_S, self.config.timeouts.idle_s))
        except (*TRANSPORT_ERRORS, BackendError):
            body = b""
        retry_after = response.headers.get("retry-after")
        return refusal(response.status, retry_after, body, target, self.config, self._key)


def entries_of(document: JsonObject, name: str) -> list[JsonObject]:
    """Return the objects in a list that a document should hold."""
    entries = document.get(name)
    return [entry for entry in entries if isinstance(entry, Mapping)] if isinstance(entries, list) else []
