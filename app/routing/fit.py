"""Drop the targets whose context window is too small for the request.  Pure.

A window that the policy declares must hold the prompt and the reply.  A window that the server told must hold the
prompt: when the reply does not fit too, the server ends it early, which the client can see.  The window of a model that
is not loaded now may be another one at its next load, so it changes only the order.
"""

from __future__ import annotations

from dataclasses import dataclass

from app.errors import ContextTooLong
from app.routing.choice import Choice, Rank, target_name
from app.routing.model_facts import model_facts
from app.types import BackendConfig, Observations, Reason, Target

_ROUGH = 1.25  # the error of our estimate of tokens; a server that refuses long prompts counts them exactly


@dataclass(frozen=True, slots=True)
class TooLong:
    """Say why a request does not fit into a context window."""

    why: str
    window: int  # tokens
    in_force: bool  # False: the window that the model had when it was loaded last, or will probably get


def fit(choice: Choice) -> None:
    """Drop the targets whose window is too small, and move those back whose window is probably too small.  Raise
    ContextTooLong when no target is left."""
    problems = {target: problem for target in choice.targets if (problem := _problem(target, choice))}
    if not problems:
        return
    back = {}
    for target, problem in problems.items():
        if problem.in_force:
            choice.drop("fit", target, problem.why)
        else:
            back[target] = f"{target_name(target)}: {problem.why}, but it is not loaded now: tried after the others"
    choice.keep([target for target in choice.targets if target not in problems or target in back], Reason.FIT)
    if not choice.targets:
        raise ContextTooLong(_nowhere(choice, max(problem.window for problem in problems.values())))
    choice.move_back("fit", back, Rank.TOO_SMALL, Reason.FIT)


def _problem(target: Target, choice: Choice) -> TooLong | None:
    return too_long(target, choice.config(target), choice.observations, choice.tags.tokens, choice.output_tokens)


def _nowhere(choice: Choice, largest: int) -> str:
    prompt, reply = choice.tags.tokens, choice.output_tokens
    return (
        f"This request needs about {prompt + reply} tokens ({prompt} in and {reply} out); "
        f"the largest context window among its backends is {largest} tokens."
    )


def too_long(
    target: Target, config: BackendConfig, observations: Observations, prompt: int, reply: int
) -> TooLong | None:
    """Return why a request with so many tokens does not fit; None when it fits, or when no window is known."""
    declared = config.context_window(target.model)
    if declared is not None and prompt + reply > declared:
        return TooLong(f"about {prompt + reply} tokens, its declared window holds {declared}", declared, True)
    return too_long_for_server(target, observations, prompt)


def too_long_for_server(target: Target, observations: Observations, prompt: int) -> TooLong | None:
    """Return why a prompt does not fit into the window that the server told."""
    facts = model_facts(target, observations)
    if facts.window is None or prompt <= facts.window * (_ROUGH if facts.refuses else 1):
        return None
    why = f"about {prompt} tokens in, its learned window holds {facts.window}"
    return TooLong(why, facts.window, facts.loaded is not False)
