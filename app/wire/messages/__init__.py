"""Anthropic's Messages API: POST /v1/messages.  Facts: https://docs.claude.com/en/api/messages and its streams."""

from app.wire.messages.translator import MessagesToChat

__all__ = ["MessagesToChat"]
