"""Translate for chat clients and chat backends."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from app.errors import StreamInterrupted
from app.types import Body, Dialect, JsonObject
from app.wire import sse
from app.wire.chat.errors import error_event
from app.wire.chat.repair import repaired_document, repaired_stream, tool_names
from app.wire.chat.reply import as_chunk
from app.wire.translator import ReplyContext


class ChatToChat:
    """Pass bodies and replies through byte for byte, except for tool calls that a client could not read."""

    def request(self, body: Body, model: str, dialect: Dialect, *, stream: bool) -> bytes:
        return body.encode(model, dialect, stream=stream)

    def reply(self, body: bytes, document: JsonObject, context: ReplyContext) -> bytes:
        repaired = repaired_document(document, lambda: context.new_id("call"))
        return json.dumps(repaired, ensure_ascii=False).encode("utf-8", "backslashreplace") if repaired else body

    def stream(self, pieces: Iterable[bytes], context: ReplyContext) -> Iterator[bytes]:
        piece = b""
        try:
            for piece in repaired_stream(pieces, tool_names(context.body.chat), lambda: context.new_id("call")):
                yield piece
        except StreamInterrupted as error:
            if not error.error_visible:
                yield sse.missing_end(piece) + error_event(error)  # the stream may have broken within an event

    def reply_as_stream(self, document: JsonObject, context: ReplyContext) -> Iterator[bytes]:
        yield sse.event(as_chunk(repaired_document(document, lambda: context.new_id("call")) or document))
        yield sse.DONE
