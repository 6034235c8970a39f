"""OpenAI's Responses API: POST /v1/responses."""

from app.wire.form import WireForm
from app.wire.responses.answer import ResponseCollector, read_answer
from app.wire.responses.reply import read_reply
from app.wire.responses.stream import ResponsesWatch
from app.wire.responses.translator import ResponsesToChat, ResponsesToResponses

__all__ = ["FORM", "ResponsesToChat", "ResponsesToResponses"]

FORM = WireForm(
    read=read_reply,
    answer=read_answer,
    collect=ResponseCollector,
    watch=ResponsesWatch,
)
