"""Ollama's own API: POST /api/chat.  Facts: api/types.go, openai/openai.go and server/routes.go of 0.33."""

from app.wire import logprobs
from app.wire.form import WireForm
from app.wire.ollama.answer import LineCollector, read_answer
from app.wire.ollama.errors import other_body
from app.wire.ollama.reply import is_document, read_reply
from app.wire.ollama.stream import StreamWatch
from app.wire.ollama.translator import ChatToOllama

__all__ = ["FORM", "ChatToOllama"]

FORM = WireForm(
    read=read_reply,
    answer=read_answer,
    collect=LineCollector,
    watch=StreamWatch,
    is_document=is_document,
    other_body=other_body,
    logprobs=logprobs.OLLAMA,
)
