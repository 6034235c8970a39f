"""Anthropic's Messages API: POST /v1/messages.  Facts: https://docs.claude.com/en/api/messages and its streams."""

from app.wire.form import WireForm
from app.wire.messages.answer import MessageCollector, read_answer
from app.wire.messages.translator import ChatToMessages, MessagesToChat, MessagesToMessages
from app.wire.messages.watch import MessagesWatch, read_reply

__all__ = ["FORM", "ChatToMessages", "MessagesToChat", "MessagesToMessages"]

FORM = WireForm(
    read=read_reply,
    watch=MessagesWatch,
    answer=read_answer,
    collect=MessageCollector,
)
