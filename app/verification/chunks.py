"""Send the streams of answers that were held, and read others while they pass."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from app.backends.reply import Stream
from app.call import Call, RecordedStream
from app.errors import StreamInterrupted
from app.types import Verdict
from app.wire.answer import Answer

Conclude = Callable[[Answer | None], Verdict]
"""A function that gets the answer of a stream before its last piece is sent, and returns the verdict for the record;
None: the answer is not complete, or too long."""


class HeldChunks:
    """Yield the pieces of a stream that was read to its end."""

    def __init__(self, pieces: Iterable[bytes], broken: StreamInterrupted | None = None) -> None:
        """`broken` is raised after the last piece: the stream ended with it."""
        self.failure: str | None = None
        self._pieces = deque(pieces)
        self._broken = broken

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._pieces:
            return self._pieces.popleft()
        if self._broken is not None:
            error, self._broken = self._broken, None
            self.failure = error.kind
            raise error
        raise StopIteration

    def close(self) -> None:
        self._pieces.clear()


class ReadStream(RecordedStream):
    """Send a stream as it comes, after the pieces that were held, and read its answer."""

    def __init__(self, stream: Stream, call: Call, conclude: Conclude, held: Iterable[bytes] = ()) -> None:
        """Take a stream that collects its answer."""
        super().__init__(stream, call)
        self._conclude = conclude
        self._held = deque(held)
        self._conclusion: Verdict | None = None

    def __next__(self) -> bytes:
        if self._held:
            return self._held.popleft()
        piece = super().__next__()
        if self._stream.has_end:
            self._verdict()
        return piece

    def _verdict(self, *, is_complete: bool = True) -> Verdict:
        if self._conclusion is None:
            self._conclusion = self._conclude(self._stream.answer if is_complete else None)
        return self._conclusion
