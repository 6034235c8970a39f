"""Ollama's own API: POST /api/chat.  Facts: api/types.go, openai/openai.go and server/routes.go of 0.33."""

from app.wire.form import WireForm
from app.wire.ollama.reply import facts_of, given_up, is_document, lack_of, tokens_of
from app.wire.ollama.stream import StreamWatch
from app.wire.ollama.translator import ChatToOllama

__all__ = ["FORM", "ChatToOllama"]

FORM = WireForm(
    tokens_of=tokens_of,
    facts_of=facts_of,
    lack_of=lack_of,
    given_up=given_up,
    watch=StreamWatch,
    is_document=is_document,
)
