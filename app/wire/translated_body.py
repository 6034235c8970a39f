"""Hold a request body of another API that is translated to chat, for the dialect of the target that is tried."""

from __future__ import annotations

from abc import ABC, abstractmethod

from app.types import Dialect, JsonDict, JsonObject
from app.wire.json_body import json_bytes


class TranslatedBody(ABC):
    """Translate a body once for each dialect (the part of types.Body that such bodies share)."""

    def __init__(self) -> None:
        """Translate the body for the classifier.  Raise RequestError for content that cannot be translated."""
        self._dialect = Dialect()
        self._translated = self._in(self._dialect)  # for the latest target
        self._chat: JsonObject = self._translated  # for the classifier

    @property
    def chat(self) -> JsonObject:
        return self._chat

    def translate(self, dialect: Dialect) -> None:
        if dialect != self._dialect:
            self._dialect, self._translated = dialect, self._in(dialect)

    def encode(self, model: str, dialect: Dialect, *, stream: bool) -> bytes:
        self.translate(dialect)
        chat = {**self._translated, "model": model}
        if stream:
            chat |= {"stream": True, "stream_options": {"include_usage": True}}
        return json_bytes(chat)

    @abstractmethod
    def _in(self, dialect: Dialect) -> JsonDict:
        """Return the chat body in a dialect."""
