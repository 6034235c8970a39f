"""OpenAI's Responses API: POST /v1/responses."""

from app.wire.form import WireForm
from app.wire.responses.reply import facts_of, usage_of
from app.wire.responses.stream import ResponsesWatch
from app.wire.responses.translator import ResponsesToChat, ResponsesToResponses

__all__ = ["FORM", "ResponsesToChat", "ResponsesToResponses"]

FORM = WireForm(
    tokens_of=usage_of,
    facts_of=facts_of,
    lack_of=lambda _: "",  # a Response may be empty
    given_up=lambda _: "",  # it says so by its status, which the client reads
    watch=ResponsesWatch,
)
