"""One HTTP call to one backend: what is sent, deadlines, and the wait for the first event.

Calls go through a bare HTTPAdapter, not a Session: so there is no cookie jar, no netrc, no proxy from the
environment and no redirect to be followed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, ClassVar

import gevent
import requests
from marshmallow import fields
from requests.structures import CaseInsensitiveDict

from app.backends.answers import Stream, Whole, read_body
from app.backends.connection import StaleConnection, adapter
from app.backends.failures import TRANSPORT_ERRORS, causes, refusal, said, transport_error
from app.errors import BackendError, BackendProtocol, BackendServerError, BackendTimeout, BackendUnavailable
from app.types import BackendConfig, ChatRequest, Dialect, Outgoing, Target
from app.wire import sse

_ERROR_BODY_S = 5.0  # wait for each piece of an error's body


class Backend:
    """A named upstream that speaks the OpenAI chat API.  Subclasses set a few class attributes; see CONTRIBUTING.md."""

    type: ClassVar[str]
    hosted: ClassVar[bool] = True  # a hosted kind is remote unless the policy says `local: true`
    default_endpoint: ClassVar[str | None] = None  # None: the policy must give one
    default_models: ClassVar[tuple[str, ...]] = ()
    default_key_env: ClassVar[str | None] = None
    chat_path: ClassVar[str] = "/chat/completions"
    responses_path: ClassVar[str] = "/responses"
    models_path: ClassVar[str] = "/models"
    hint: ClassVar[str] = ""  # what to do when it cannot be reached
    native_at_default: ClassVar[bool] = False  # at its default endpoint it speaks the Responses API itself
    dialect: Dialect = Dialect()
    policy_fields: ClassVar[Mapping[str, fields.Field[Any]]] = {}  # policy keys of this type alone

    def __init__(self, config: BackendConfig, environ: Mapping[str, str]) -> None:
        self.config = config
        self._key = environ.get(config.api_key_env, "").strip() if config.api_key_env else ""
        self._adapter = adapter()
        # Private requests use connections that check where they really ended up, unless the operator vouched.
        self._private_adapter = adapter(inside_only=True) if config.local is None else self._adapter

    @classmethod
    def normal_endpoint(cls, endpoint: str) -> str:
        """The endpoint as `chat_path` and `models_path` expect it."""
        return endpoint.rstrip("/")

    def prepare(self, request: ChatRequest, target: Target, *, stream: bool) -> Outgoing:
        """What is sent for a request.  `stream` differs from the client's own only for shadow calls."""
        if self.config.responses == "native":
            body = request.body.native(target.model, stream=stream)
            if body is not None:
                return Outgoing(self.responses_path, body, native=True)
        return Outgoing(self.chat_path, request.body.encode(target.model, self.dialect, stream=stream))

    def open(self, outgoing: Outgoing, target: Target, *, stream: bool, private: bool) -> Whole | Stream:
        """Sends it.  Returns the whole answer, or a stream whose first event has come and is no error.
        Raises BackendError."""
        deadline = time.monotonic() + self.config.timeouts.first_byte_s
        response = self._send("POST", outgoing.path, outgoing.body, private)
        answer = None
        try:
            if response.status_code >= 300:
                raise self._refusal(response, target)
            if stream and not _is_document(response):
                chunks = Stream(response, self.config, self._key, native=outgoing.native)
                chunks.wait_for_first(deadline)
                answer = chunks
                return answer
            whole = self._whole(response, outgoing.native)
            if not outgoing.native and not whole.document.get("choices"):
                raise BackendProtocol("answered 200 without a choice")
            return whole
        finally:
            if answer is None:
                response.raw.close()

    def discover(self) -> tuple[str, ...]:
        """Names of the models it holds.  Raises BackendError."""
        response = self._send("GET", self.models_path, None, private=False)
        try:
            if response.status_code != 200:
                raise self._refusal(response, Target(self.config.name, ""))
            return self.model_names(self._whole(response).document)
        finally:
            response.raw.close()

    def stored(self, method: str, path: str) -> Whole:
        """GET or DELETE of a response that this (native) backend keeps; `path` begins behind `responses_path`.
        Raises BackendError; a refusal passes through as BackendRejected."""
        response = self._send(method, self.responses_path + path, None, private=False)
        try:
            if response.status_code >= 300:
                raise self._refusal(response, Target(self.config.name, "", client_named=True))
            return self._whole(response, native=True)
        finally:
            response.raw.close()

    def model_names(self, document: Mapping[str, Any]) -> tuple[str, ...]:
        """Model names in the answer at `models_path`."""
        entries = document.get("data")
        return tuple(str(entry["id"]) for entry in entries if "id" in entry) if isinstance(entries, list) else ()

    def close(self) -> None:
        self._adapter.close()
        self._private_adapter.close()

    def _send(self, method: str, path: str, body: bytes | None, private: bool) -> requests.Response:
        via = self._private_adapter if private else self._adapter
        prepared = self._prepare(method, path, body)
        timeout = (self.config.timeouts.connect_s, self.config.timeouts.first_byte_s)
        try:
            # The two bound each wait; the sum of them bounds a head that trickles in.
            with gevent.Timeout(sum(timeout), BackendTimeout("did not answer in time")):
                try:
                    return via.send(prepared, stream=True, timeout=timeout)
                except requests.ConnectionError as error:
                    if not any(isinstance(cause, StaleConnection) for cause in causes(error)):
                        raise
                    via.poolmanager.clear()  # a kept connection had died: once more, on a fresh one
                    return via.send(prepared, stream=True, timeout=timeout)
        except TRANSPORT_ERRORS as error:
            raise transport_error(error, self.config, self.hint) from None

    def _prepare(self, method: str, path: str, body: bytes | None) -> requests.PreparedRequest:
        headers = {"Accept": "application/json, text/event-stream", "User-Agent": "local-llm-router"}
        if body is not None:
            headers |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
        if self.config.api_key_env:
            headers["Authorization"] = f"Bearer {self._usable_key(self.config.api_key_env)}"
        prepared = requests.PreparedRequest()
        prepared.method, prepared.url, prepared.body = method, self.config.endpoint + path, body
        prepared.headers = CaseInsensitiveDict(headers)
        return prepared

    def _usable_key(self, variable: str) -> str:
        if not self._key:
            raise BackendUnavailable(f"{variable} is not set", kind="no_key")
        if not self._key.isascii() or not self._key.isprintable():
            raise BackendUnavailable(f"{variable} holds characters that no key has", kind="no_key")
        return self._key

    def _whole(self, response: requests.Response, native: bool = False) -> Whole:
        """The body as one JSON object that is no error."""
        try:
            body = read_body(response, self.config.timeouts.idle_s)
        except TRANSPORT_ERRORS as error:
            raise transport_error(error, self.config) from None
        document = sse.json_of(body)
        if document is None:
            raise BackendProtocol("answered 200 with something that is not a JSON object")
        if document.get("error"):
            raise BackendServerError("answered 200 with an error", kind="error_body", said=said(document, self._key))
        return Whole(body, document, native=native)

    def _refusal(self, response: requests.Response, target: Target) -> BackendError:
        try:
            body = read_body(response, min(_ERROR_BODY_S, self.config.timeouts.idle_s))
        except (*TRANSPORT_ERRORS, BackendError):
            body = b""
        retry_after = response.headers.get("Retry-After")
        return refusal(response.status_code, retry_after, body, target, self.config, self._key)


def _is_document(response: requests.Response) -> bool:
    """A JSON or HTML page in answer to `stream: true`; anything else, also unnamed, is read as events."""
    kind = response.headers.get("Content-Type", "").lower()
    return "json" in kind or "html" in kind
