"""Replace parameters of OpenAI's chat API that some servers refuse or ignore."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection

from app.types import Dialect, JsonObject

_REASONING = ("reasoning_effort", "reasoning")  # Ollama reads both
OTHER_LIMIT = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}


def edit(document: JsonObject, raw: Callable[[str], str], dialect: Dialect, members: dict[str, str]) -> Collection[str]:
    """Put the changed members of a chat body into `members`, as JSON text, and return the names of members to
    remove.  `raw` returns the text of a member."""
    without: tuple[str, ...] = ()
    limit = dialect.max_tokens_field
    if dialect.max_tokens_only and document.get(other := OTHER_LIMIT[limit]) is not None:
        if other == "max_completion_tokens" or document.get(limit) is None:  # the newer name counts
            members[limit] = raw(other)
        without = (other,)
    if not dialect.loading.thinks:
        return (*without, *_REASONING)
    effort = document.get("reasoning_effort")
    if isinstance(effort, str) and effort in dialect.efforts:
        members["reasoning_effort"] = json.dumps(dialect.efforts[effort])
    return without
