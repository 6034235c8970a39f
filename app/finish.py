"""The meaning of the finish reasons of chat servers: one table for all APIs.

Beside OpenAI's words these are the words of vLLM (abort), DeepSeek (insufficient_system_resource), OpenRouter (error),
Mistral (model_length), Anthropic, Gemini, Bedrock, Cohere and Zhipu, which gateways do not translate.
"""

from __future__ import annotations

# Reason in lower case -> why the reply is incomplete, in the words of the Responses API.
_CUTS = {
    **dict.fromkeys(
        (
            "length",
            "max_length",
            "max_tokens",
            "max_output_tokens",
            "max_completion_tokens",
            "max_new_tokens",
            "token_limit",
            "model_length",
            "context_length",
            "context_length_exceeded",
            "model_context_window_exceeded",
            "error_limit",
        ),
        "max_output_tokens",
    ),
    **dict.fromkeys(
        (
            "content_filter",
            "content_filtered",
            "contentfilter",
            "refusal",
            "safety",
            "image_safety",
            "recitation",
            "language",
            "blocklist",
            "prohibited_content",
            "spii",
            "guardrail_intervened",
            "sensitive",
            "error_toxic",
        ),
        "content_filter",
    ),
}
_FAILURES = frozenset(
    (
        "error",
        "abort",
        "aborted",
        "cancelled",
        "canceled",
        "user_cancel",
        "failed",
        "failure",
        "internal_error",
        "server_error",
        "network_error",
        "timeout",
        "insufficient_system_resource",
        "malformed_function_call",
    )
)


def reason_of(value: object) -> str:
    """Return a finish reason; "" when the value is no word: only a word ends a reply."""
    return value.strip() if isinstance(value, str) else ""


def cut_of(reason: str) -> str | None:
    """Return why a reply with this finish reason is incomplete; None when it is complete."""
    return _CUTS.get(_folded(reason))


def is_failure(reason: str) -> bool:
    """Return True when the finish reason means that the backend failed."""
    return _folded(reason) in _FAILURES


def _folded(reason: str) -> str:
    return reason.lower().replace("-", "_").replace(" ", "_")
