"""OpenAI's chat completions API: POST /v1/chat/completions."""

from app.wire.chat.errors import other_body
from app.wire.chat.reply import facts_of, lack_of, usage_of
from app.wire.chat.stream import StreamWatch
from app.wire.chat.translator import ChatToChat
from app.wire.finish import failure_in
from app.wire.form import WireForm

__all__ = ["FORM", "ChatToChat"]

FORM = WireForm(
    tokens_of=usage_of,
    facts_of=facts_of,
    lack_of=lack_of,
    given_up=failure_in,
    watch=StreamWatch,
    other_body=other_body,
)
