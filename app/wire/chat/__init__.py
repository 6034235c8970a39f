"""OpenAI's chat completions API: POST /v1/chat/completions."""

from app.wire import logprobs
from app.wire.chat.answer import ChunkCollector, read_answer
from app.wire.chat.errors import other_body
from app.wire.chat.reply import read_reply
from app.wire.chat.stream import StreamWatch
from app.wire.chat.translator import ChatToChat
from app.wire.form import WireForm

__all__ = ["FORM", "ChatToChat"]

FORM = WireForm(
    read=read_reply,
    answer=read_answer,
    collect=ChunkCollector,
    watch=StreamWatch,
    other_body=other_body,
    logprobs=logprobs.CHAT,
)
