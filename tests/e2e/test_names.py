"""Names and pins through the running router: with the official SDK, which tries a refusal again unless told not to."""

from __future__ import annotations

import openai
import pytest

from tests.e2e.server import wait_until
from tests.e2e.test_streams import two
from tests.fakes.upstream import refused_url

pytestmark = pytest.mark.e2e

ASK = [{"role": "user", "content": "Write to ada@corp.example that I am late."}]
HIGH = {"X-LLR-Sensitivity": "high"}


@pytest.fixture
def house(upstream, router):
    """A local and a cloud backend, whose policy recognises addresses."""
    local, cloud = upstream(models=["m:1", "phi4:latest"], text="from home"), upstream(text="from afar")
    policy = two(local, cloud) | {"sensitivity": {"detect": ["email"]}, "aliases": {"gpt-4o": "auto", "far": "cloud"}}
    running = router(policy, workers=1, env={"OPENAI_API_KEY": "key-for-tests"})
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="anything") as client:
        yield local, cloud, running, client


def wait_for_phi4(running):
    wait_until(lambda: b"phi4" in running.get("/v1/models").body, 10, "the models to be found")


@pytest.mark.parametrize("model", ["cloud", "Cloud", "big", "cloud/big", "cloud/gpt-9", "far"])
def test_a_pin_that_privacy_forbids_goes_to_the_private_route(house, model):
    local, cloud, running, client = house
    for stream in (False, True):
        answer = client.chat.completions.with_raw_response.create(model=model, messages=ASK, stream=stream)
        assert (answer.headers["X-LLR-Backend"], answer.headers["X-LLR-Pin"]) == ("local", "refused")
    answer = client.responses.with_raw_response.create(model=model, input="hello", extra_headers=HIGH)
    assert (answer.headers["X-LLR-Backend"], answer.headers["X-LLR-Pin"]) == ("local", "refused")
    body = {"model": model, "messages": ASK}
    asked = running.post("/v1/chat/completions", body, {"X-LLR-Explain": "1"})
    assert f"pin refused: the request is private, and model '{model}' is not local" in asked.headers["X-LLR-Trace"]
    dry = running.post("/v1/route", body)
    assert (dry.headers["X-LLR-Pin"], dry.json["targets"][0]["backend"]) == ("refused", "local")
    assert cloud.chats == [] and len(local.chats) == 4
    free = running.post("/v1/chat/completions", {"model": model, "messages": [{"role": "user", "content": "hello"}]})
    assert (free.headers["X-LLR-Backend"], free.headers["X-LLR-Pin"]) == ("cloud", None)


def test_a_private_route_that_fails_says_so_too(upstream, router):
    cloud = upstream()
    with refused_url() as nobody:
        policy = two(cloud, cloud)
        policy["backends"]["local"]["endpoint"] = nobody
        running = router(policy, workers=1, env={"OPENAI_API_KEY": "key-for-tests"})
        answer = running.chat("hello", model="cloud", headers=HIGH)
    assert (answer.status, answer.headers["X-LLR-Pin"], answer.headers["x-should-retry"]) == (502, "refused", None)
    assert cloud.chats == []


def test_without_a_private_route_the_refusal_names_all_and_comes_once(upstream, router):
    cloud = upstream()
    policy = two(cloud, cloud) | {"routes": [{"default": "cloud"}], "sensitivity": {"detect": ["email"]}}
    running = router(policy, workers=1, env={"OPENAI_API_KEY": "key-for-tests"})
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="anything") as client:
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(model="big", messages=ASK)
        assert (caught.value.status_code, caught.value.code) == (503, "no_eligible_backend")
        assert caught.value.response.headers["x-should-retry"] == "false"
        message = caught.value.body["message"]
        assert "'big'" in message and "email" in message and "ada@" not in message
        assert cloud.chats == []
        running.chat("hello")  # in the log behind it
        wait_until(lambda: "status=200" in running.log_text(), 5, "the log")
        assert running.log_text().count("status=503") == 1, "the SDK did not try again"


@pytest.mark.parametrize("model, nearest", [("clodu", "cloud"), ("Locl", "local"), ("phi-4", "phi4:latest")])
def test_a_misspelt_pin_is_refused_on_every_surface(house, model, nearest):
    local, cloud, running, client = house
    wait_for_phi4(running)
    for ask in (
        lambda: client.chat.completions.create(model=model, messages=ASK),
        lambda: client.chat.completions.create(model=model, messages=ASK, stream=True),
        lambda: client.responses.create(model=model, input="hello"),
        lambda: client.models.retrieve(model),
    ):
        with pytest.raises(openai.NotFoundError) as caught:
            ask()
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
        assert f"did you mean '{nearest}'?" in caught.value.body["message"]
        assert caught.value.response.headers["x-should-retry"] == "false"
    assert running.post("/v1/route", {"model": model, "messages": ASK}).status == 404
    assert cloud.chats == local.chats == []


def test_names_in_any_case_and_aliases(house):
    _, _, running, client = house
    wait_for_phi4(running)
    hello = [{"role": "user", "content": "hello"}]
    for model, backend, asked in (
        ("GPT-4o", "local", "m:1"),
        ("gpt-4", "local", "m:1"),
        ("FAR", "cloud", "big"),
        ("Phi4", "local", "phi4:latest"),
        ("LOCAL/M:1", "local", "m:1"),
    ):
        answer = client.chat.completions.with_raw_response.create(model=model, messages=hello)
        assert (answer.headers["X-LLR-Backend"], answer.headers["X-LLR-Model"]) == (backend, asked), model
    listed = [model.id for model in client.models.list()]
    assert listed == ["auto", "gpt-4o", "far", "local", "cloud", "m:1", "phi4:latest", "big"]
    assert client.models.retrieve("PHI4").id == "phi4:latest"
    assert client.models.retrieve("gpt-4o").owned_by == "router"
