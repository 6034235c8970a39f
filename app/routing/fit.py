"""Drop the targets that cannot serve a request.  Pure."""

from __future__ import annotations

from app.errors import ContextTooLong
from app.routing.choice import Choice
from app.types import Reason


def fit(choice: Choice) -> None:
    """Drop the targets whose context window is too small.  Raise ContextTooLong when none is left."""
    needed = choice.tags.tokens + choice.output_tokens
    fitting, largest = [], 0
    for target in choice.targets:
        window = choice.config(target).context_window(target.model)
        if window is not None and needed > window:
            largest = max(largest, window)
            choice.drop("fit", target, f"about {needed} tokens, its window holds {window}")
        else:
            fitting.append(target)
    if fitting and fitting[0] != choice.targets[0]:
        choice.reason = Reason.FIT
    choice.targets = tuple(fitting)
    if not fitting:
        raise ContextTooLong(
            f"This request needs about {needed} tokens ({choice.tags.tokens} in and {choice.output_tokens} out); "
            f"the largest context window among its backends is {largest} tokens."
        )
