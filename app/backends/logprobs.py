"""Ask servers for log-probabilities by which the router judges an answer, and take them out of the replies: the client
did not ask for them."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Sequence

from app.backends.response import Response
from app.errors import BackendError
from app.types import ChatRequest, JsonObject, Wire
from app.wire import WIRES
from app.wire.chat.members import WithMembers, without_members
from app.wire.logprobs import Part, StreamCut

log = logging.getLogger("llr.backends")

_MEMBERS = ("logprobs", "top_logprobs")
_TOOLS = ("tools", "functions")  # llama.cpp refuses to stream log-probabilities beside them
_LEAST_PARTS = 3  # of a stream: among them is one with output
_NAMED = re.compile(r"log[ _-]?prob", re.IGNORECASE)


class Logprobs:
    """Ask one server for log-probabilities, and notice when it gives none."""

    def __init__(self, backend: str, members: JsonObject, absent: str) -> None:
        """Take the members of a request that asks for them (empty: the server gives none), and the value of `logprobs`
        in a reply without them, as JSON (empty: there is no such member)."""
        self.has_any = bool(members)  # False also after the server has refused to give them
        self._backend = backend
        self._members = members
        self._absent = absent
        self._has_told = False

    def body_for(self, request: ChatRequest, wire: Wire, *, gives: bool) -> WithMembers | None:
        """Return the body that asks for log-probabilities; None when the request should not ask.  `gives`: the server
        is known to give them."""
        chat = request.body.chat
        if WIRES[wire].logprobs is None or any(chat.get(name) for name in (*_MEMBERS, *_TOOLS)):
            return None
        if not gives:
            self.tell_none()
            return None
        return WithMembers(request.body, self._members)

    def without(self, body: bytes) -> bytes:
        """Return a body that does not ask for them."""
        return without_members(body, self._members)

    def refused(self) -> None:
        """Note that the server refuses requests that ask for them, and no others."""
        self.has_any = False
        self.tell_none()

    def tell_none(self) -> None:
        """Write the line in the log, once."""
        if not self._has_told:
            self._has_told = True
            log.warning("%s gives no log-probabilities: answers are judged without confidence", self._backend)

    def cut(self, body: bytes, wire: Wire) -> Part:
        """Return a whole reply without them."""
        form = WIRES[wire].logprobs
        return form.whole(body, self._absent) if form else Part(body)

    def cut_stream(
        self, response: Response, first_pieces: Sequence[bytes], wire: Wire
    ) -> tuple[Response | CutResponse, list[bytes]]:
        """Return a response without them, and the pieces that were read of it before."""
        form = WIRES[wire].logprobs
        if form is None:
            return response, [*first_pieces]
        cut = form.stream(self._absent)
        return CutResponse(response, cut, self.tell_none), [*map(cut.feed, first_pieces)]


class CutResponse:
    """Read a response while it arrives, as Response does, with its log-probabilities cut out."""

    def __init__(self, response: Response, cut: StreamCut, tell_none: Callable[[], None]) -> None:
        """`tell_none` is called at the end of a stream without log-probabilities."""
        self._response = response
        self._cut = cut
        self._tell_none = tell_none
        self._is_complete = False
        self._is_closed = False

    @property
    def logprobs(self) -> tuple[float, ...]:
        """Return the values that were cut out."""
        return tuple(self._cut.logprobs)

    def read(self, within_s: float) -> bytes:
        """Return the next piece; b"" at the end of the body.  Raise the errors of Response."""
        until = time.monotonic() + within_s
        while not self._is_complete:
            piece = self._response.read(until - time.monotonic())
            self._is_complete = not piece
            if rest := self._cut.feed(piece) if piece else self._cut.end():
                return rest
        return b""

    def close(self) -> None:
        if not self._is_closed and self._cut.parts >= _LEAST_PARTS and not self._cut.logprobs:
            self._tell_none()
        self._is_closed = True
        self._response.close()


def is_about_logprobs(refusal: BackendError) -> bool:
    """Return True when a server may have refused a request because it asks for log-probabilities."""
    return _NAMED.search(f"{refusal.backend_text or ''} {refusal.param or ''}") is not None
