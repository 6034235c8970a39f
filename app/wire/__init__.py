"""The wire forms, and the translators between those of clients and those of backends.

Chat is the hub: a form that is translated to and from chat can be combined with every other form.
"""

from __future__ import annotations

from collections.abc import Mapping

from app.types import Wire
from app.wire import chat, messages, ollama, responses
from app.wire.form import WireForm
from app.wire.translator import ThroughChat, Translator

WIRES: Mapping[Wire, WireForm] = {
    Wire.CHAT: chat.FORM,
    Wire.RESPONSES: responses.FORM,
    Wire.MESSAGES: messages.FORM,
    Wire.OLLAMA: ollama.FORM,
}

TRANSLATORS: Mapping[tuple[Wire, Wire], Translator] = {  # (the client's, the backend's)
    (Wire.CHAT, Wire.CHAT): chat.ChatToChat(),
    (Wire.RESPONSES, Wire.CHAT): responses.ResponsesToChat(),
    (Wire.CHAT, Wire.OLLAMA): ollama.ChatToOllama(),
    (Wire.RESPONSES, Wire.RESPONSES): responses.ResponsesToResponses(),
    (Wire.MESSAGES, Wire.CHAT): messages.MessagesToChat(),
    (Wire.CHAT, Wire.MESSAGES): messages.ChatToMessages(),
    (Wire.MESSAGES, Wire.MESSAGES): messages.MessagesToMessages(),
}


def translator(client: Wire, backend: Wire) -> Translator:
    """Return the translator for a client and a backend."""
    direct = TRANSLATORS.get((client, backend))
    return direct or ThroughChat(TRANSLATORS[client, Wire.CHAT], TRANSLATORS[Wire.CHAT, backend])
