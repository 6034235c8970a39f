"""The refusals that send a request on to another model, in the words of many servers."""

from __future__ import annotations

from typing import Any

import pytest

from app.backends.failures import error_in_reply, refusal
from app.backends.unfit import unfit
from app.errors import BackendRejected, BackendServerError, CapabilityMissing, PromptTooLong
from app.types import BackendConfig, Target, Timeouts
from app.wire.chat.errors import error_document
from app.wire.json_body import json_bytes

CONFIG = BackendConfig(name="b", type="llamacpp", endpoint="http://b", timeouts=Timeouts(2, 2, 2))
MODEL = "qwen3:4b"
WINDOW_IS = "This model's maximum context length is 4096 tokens"
COUNTS = {"n_prompt_tokens": 5024, "n_ctx": 4096}
LLAMACPP = {
    "code": 400,
    "message": "request (5024 tokens) exceeds the available context size (4096 tokens), try increasing it",
    "type": "exceed_context_size_error",
    **COUNTS,
}

TOO_LONG: dict[str, Any] = {
    "openai": {
        "message": f"{WINDOW_IS}. However, your messages resulted in 5024 tokens.",
        "type": "invalid_request_error",
        "param": "messages",
        "code": "context_length_exceeded",
    },
    "llama.cpp": LLAMACPP,
    "llama-cpp-python": {"message": "Requested tokens (5024) exceed context window of 4096", "code": None},
    "ollama": json_bytes({"error": LLAMACPP}).decode(),
    "ollama 0.12 to 0.29": "the input length exceeds the context length",
    "ollama, without shift": "the prompt is longer than the context length currently available to the model",
    "ollama's cloud": "prompt too long; exceeded max context length by 12 tokens",
    "kimi": {"message": "Invalid request: Your request exceeded model token limit: 4096 (requested: 5024)"},
    "minimax": {"message": "invalid params, context window exceeds limit"},
    "dashscope": {"message": "<400> InternalError: Range of input length should be [1, 4096]", "code": "invalid_value"},
    "zhipu": {"code": "1261", "message": "Prompt exceeds max length"},
    "z.ai": {"code": "model_context_window_exceeded", "message": "no"},
    "vllm": {
        "message": "The decoder prompt (length 5024) is longer than the maximum model length of 4096.",
        "code": 400,
    },
    "vllm, newer": {
        "message": f"{WINDOW_IS}. However, your request has 5024 input tokens.",
        "code": 400,
    },
    "sglang": {"message": "The input (5024 tokens) is longer than the model's context length (4096 tokens)."},
    "lm studio": "The number of tokens to keep is greater than the context length (4096). Load it with a larger one.",
    "anthropic": {"type": "invalid_request_error", "message": "prompt is too long: 5024 tokens > 4096 maximum"},
    "gemini": {
        "code": 400,
        "message": "The input token count (5024) exceeds the maximum number of tokens allowed 4096.",
    },
    "groq": {"message": "Please reduce the length of the messages or completion.", "code": "context_length_exceeded"},
    "xai": "This model's maximum prompt length is 4096 but the request contains 5024 tokens.",
    "tgi": {"message": "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5024 `inputs` tokens", "code": 422},
    "tabby": "Prompt length 5024 is greater than max_seq_len 4096",
}
NOT_COUNTED = ("tgi", "kimi")  # their number is not that of the prompt alone
COUNTED: dict[str, tuple[int | None, int | None]] = {
    f"{WINDOW_IS}. However, you requested 5100 tokens (5024 in the messages, 76 in the completion).": (5024, 4096),
    "Prompt contains 5024 tokens, too large for model with 4096 maximum context length": (5024, 4096),
    f"'max_tokens' is too large: 4000. {WINDOW_IS} and your request has 200 input tokens": (None, None),  # the reply is
    f"{WINDOW_IS}. Please reduce it.": (None, None),
    "maximum context length is " + "9" * 50 + " tokens. However, your messages resulted in " + "9" * 60: (None, None),
}
LACKING: dict[str, tuple[Any, str]] = {
    "ollama, tools": ("registry.ollama.ai/library/qwen3:4b does not support tools", "tools"),
    "ollama, thinking": ('"qwen3:4b" does not support thinking', "thinking"),
    "ollama, embeddings only": ('"qwen3:4b" does not support chat', "completion"),
    "llama.cpp, tools": ({"code": 400, "message": "tools param requires --jinja flag"}, "tools"),
    "llama.cpp, images": ({"code": 400, "message": "image input is not supported - hint: provide mmproj"}, "vision"),
    "vllm, tools": ('"auto" tool choice requires --enable-auto-tool-choice', "tools"),
    "vllm, images": ({"message": "qwen3:4b is not a multimodal model", "code": 400}, "vision"),
}


def rejected(error: Any, status: int = 400) -> BackendRejected:
    refused = refusal(status, None, json_bytes({"error": error}), Target("b", MODEL), CONFIG, "")
    assert isinstance(refused, BackendRejected)
    return unfit(refused, MODEL)


@pytest.mark.parametrize("status", [400, 413, 422])
@pytest.mark.parametrize("name", TOO_LONG)
def test_a_prompt_that_is_too_long(name: str, status: int) -> None:
    refused = rejected(TOO_LONG[name], status)
    assert isinstance(refused, PromptTooLong)
    assert (refused.status, refused.next_target, refused.backend_failed) == (400, True, False)
    error = error_document(refused)["error"]
    assert (error["code"], error["type"]) == ("context_length_exceeded", "invalid_request_error")
    assert "param" in error and error["message"]
    has_both = "5024" in error["message"] and "4096" in error["message"] and name not in NOT_COUNTED
    assert (refused.tokens, refused.window) == ((5024, 4096) if has_both else (None, None))


@pytest.mark.parametrize("text", COUNTED)
def test_the_counts_in_the_words_of_a_server(text: str) -> None:
    refused = rejected({"message": text, "code": "context_length_exceeded"})
    assert isinstance(refused, PromptTooLong)
    assert (refused.tokens, refused.window) == COUNTED[text]


@pytest.mark.parametrize("name", LACKING)
def test_a_model_that_lacks_a_capability(name: str) -> None:
    text, capability = LACKING[name]
    refused = rejected(text)
    assert isinstance(refused, CapabilityMissing)
    assert (refused.lacks, refused.status, refused.next_target) == (((MODEL, capability),), 400, True)
    error = error_document(refused)["error"]
    assert error["code"] == "unsupported_by_models"
    assert MODEL in error["message"]
    assert error_document(refused.in_our_words())["error"]["message"] == (
        f"No model of this route can serve the request: {MODEL} does not support {capability}."
    )


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("temperature must be at most 2", 400),
        ("`max_tokens` must be positive", 422),
        ("This model's maximum context length is 4096 tokens", 401),
        ("the tool call has too many arguments", 400),
    ],
)
def test_other_refusals_stay(text: str, status: int) -> None:
    refused = BackendRejected("answered", status=status, document={"error": {"message": text}}, backend_text=text)
    assert unfit(refused, MODEL) is refused


def test_such_an_error_may_come_with_status_200() -> None:
    error = error_in_reply({"error": LLAMACPP}, "answered", kind="error_event", key="", model=MODEL)
    assert isinstance(error, PromptTooLong)
    assert (error.tokens, error.window) == (5024, 4096)
    other = error_in_reply({"error": "out of memory"}, "answered", kind="error_event", key="", model=MODEL)
    assert (type(other), other.kind, other.backend_text) == (BackendServerError, "error_event", "out of memory")
