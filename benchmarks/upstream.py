"""Run a model server that needs almost no CPU: constant replies, one asyncio protocol, no parsing of bodies.

`/v1/chat/completions` answers with a completion, or, when the body says `"stream":true`, with ten chunks at once.
Under `/drip/COUNT/MS` a stream has COUNT chunks, one each MS milliseconds.  Every chunk says when it was sent
(`sent_ns`, CLOCK_MONOTONIC, which all processes of a machine share).  Prints its port, serves until it is ended.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

_MODELS = json.dumps({"models": [{"name": "m"}], "data": [{"id": "m"}]}).encode()
_ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Blue light is scattered most."},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 30, "completion_tokens": 7, "total_tokens": 37},
    }
).encode()
_CHUNK = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"m","choices":[{"index":0,'
    b'"delta":{"content":"word "},"finish_reason":null}],"sent_ns":%d}\n\n'
)
_LAST = b'data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


def _whole(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


_WHOLE_ANSWER, _WHOLE_MODELS = _whole(_ANSWER), _whole(_MODELS)
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def _piece(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


class Answerer(asyncio.Protocol):
    """Answer one connection.  Clients of benchmarks do not pipeline."""

    _transport: asyncio.Transport

    def __init__(self) -> None:
        self._data = b""

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, mark, body = self._data.partition(b"\r\n\r\n")
        if not mark or len(body) < _content_length(head):
            return
        self._data = b""
        if head.startswith(b"GET"):
            self._transport.write(_WHOLE_MODELS)
        elif b'"stream":true' not in body.replace(b" ", b""):
            self._transport.write(_WHOLE_ANSWER)
        else:
            self._transport.write(_STREAM_HEAD)
            path = head.split(b" ", 2)[1].split(b"/")
            count, wait_ms = (int(path[2]), int(path[3])) if path[1] == b"drip" else (10, 0)
            self._drip(count, wait_ms / 1000, asyncio.get_running_loop().time())

    def _drip(self, left: int, wait_s: float, due: float) -> None:
        loop = asyncio.get_running_loop()
        while left and due <= loop.time():
            if self._transport.is_closing():
                return
            self._transport.write(_piece(_CHUNK % time.monotonic_ns()))
            left, due = left - 1, due + wait_s
        if left:
            loop.call_at(due, self._drip, left, wait_s, due)
        else:
            self._transport.write(_piece(_LAST) + b"0\r\n\r\n")


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        if line[:15].lower() == b"content-length:":
            return int(line[15:])
    return 0


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Answerer, "127.0.0.1", 0, backlog=4096)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
