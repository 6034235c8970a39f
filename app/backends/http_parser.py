"""Parse HTTP responses in C: with llhttp, through httptools.  No other module uses httptools."""

from __future__ import annotations

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser
from urllib3.exceptions import ProtocolError

_MAX_JOINED_CHARS = 1000  # of a header that is repeated
# http.client accepts these too: local servers are not always correct, and the operator trusts them.
_LENIENT = {"lenient_headers": True, "lenient_optional_cr_before_lf": True, "lenient_data_after_close": True}


class ResponseParser:
    """Parse one response in pieces.  Interim responses (1xx) are skipped; data after the end is ignored."""

    def __init__(self) -> None:
        self.status = 0  # 0 = the head is not complete
        self.headers: dict[str, str] = {}  # by lower-case name
        self.error: ProtocolError | None = None  # raised after the body before it was read
        self.is_complete = False
        self.keeps_alive = False  # the connection can be used for another response
        self._body: list[bytes] = []
        self._parser = HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(**_LENIENT)

    def feed(self, data: bytes) -> None:
        """Parse a piece; b"" is the end of the connection."""
        if not data:
            self._end()
            return
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self.keeps_alive = False
            if not self.is_complete:
                self.error = ProtocolError(f"the response breaks the rules of HTTP: {error}")

    def take(self) -> bytes:
        """Return the part of the body that was parsed since the last call, without chunk sizes."""
        body = self._body
        if not body:
            return b""
        self._body = []
        return body[0] if len(body) == 1 else b"".join(body)

    def close(self) -> None:
        """Break the reference cycle with the C object, so that the garbage collector need not find it."""
        del self._parser

    def _end(self) -> None:
        """Handle the end of the connection.  Without a length, it is the end of the body."""
        if "content-length" in self.headers or "chunked" in self.headers.get("transfer-encoding", "").lower():
            self.error = ProtocolError("the response breaks off")
        else:
            self.is_complete, self.keeps_alive = True, False

    # --- callbacks of httptools ---

    def on_message_begin(self) -> None:
        if self.is_complete:
            self.keeps_alive = False  # a second response without a request

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.status:  # otherwise it is a trailer
            key, text = name.decode("latin-1").lower(), value.decode("latin-1")
            first = self.headers.get(key)
            self.headers[key] = text if first is None else f"{first}, {text}"[:_MAX_JOINED_CHARS]

    def on_headers_complete(self) -> None:
        if self.is_complete:
            return
        status = self._parser.get_status_code()
        if status < 200:
            self.headers.clear()
        else:
            self.status = status

    def on_body(self, data: bytes) -> None:
        if not self.is_complete:
            self._body.append(data)

    def on_message_complete(self) -> None:
        if self.status and not self.is_complete:
            self.is_complete = True
            self.keeps_alive = self._parser.should_keep_alive()
