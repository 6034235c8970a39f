"""What counts as inside: addresses, names and models."""

from __future__ import annotations

import pytest

from app.routing.locality import (
    is_address,
    is_cloud_model,
    is_local,
    is_local_address,
    is_loopback_name,
    judge,
    judge_config,
    judge_target,
    model_key,
    remote_host,
)
from app.types import Observations, Target
from tests.fakes.backends import config

INSIDE = [
    "127.0.0.1", "127.255.255.255", "0.0.0.0", "10.0.0.0", "10.255.255.255", "172.16.0.1", "172.31.255.255",
    "192.168.0.1", "192.168.255.255", "169.254.169.254", "::1", "::", "fe80::1", "fe80::1%eth0", "febf::1", "fc00::1",
    "fdff:ffff::1", "::ffff:127.0.0.1", "::ffff:10.1.2.3", "0:0:0:0:0:0:0:1",
]  # fmt: skip
OUTSIDE = [
    "126.255.255.255", "128.0.0.1", "9.255.255.255", "11.0.0.0", "172.15.255.255", "172.32.0.0", "192.167.255.255",
    "192.169.0.0", "169.253.255.255", "100.64.0.1", "0.0.0.1", "8.8.8.8", "255.255.255.255", "2001:db8::1", "::2",
    "fec0::1", "fe7f::1", "fbff::1", "fe00::1", "::ffff:8.8.8.8", "64:ff9b::7f00:1", "2002:7f00:1::1",
]  # fmt: skip
NO_ADDRESS = [
    "", "localhost", "127.1", "2130706433", "0x7f.0.0.1", "127.0.0.01", "127.0.0.1:80", "[::1]", " 127.0.0.1",
    "127.0.0.1.example", "１２７.0.0.1", "10.0.0.0/8",
]  # fmt: skip


@pytest.mark.parametrize("address", INSIDE)
def test_inside(address: str) -> None:
    assert is_local_address(address) is True
    assert is_address(address) is True


@pytest.mark.parametrize("address", OUTSIDE)
def test_outside(address: str) -> None:
    assert is_local_address(address) is False
    assert is_address(address) is True


@pytest.mark.parametrize("text", NO_ADDRESS)
def test_what_is_no_address_is_outside(text: str) -> None:
    assert is_local_address(text) is False
    assert is_address(text) is False


@pytest.mark.parametrize(
    "name, loopback",
    [
        ("localhost", True),
        ("LOCALHOST", True),
        ("localhost.", True),
        ("ollama.localhost", True),
        ("a.b.LocalHost.", True),
        ("", False),
        ("mylocalhost", False),
        ("localhost.example", False),
        ("localhost.localdomain", False),
        ("notlocalhost.", False),
        ("127.0.0.1", False),
    ],
)
def test_loopback_names(name: str, loopback: bool) -> None:
    assert is_loopback_name(name) is loopback


@pytest.mark.parametrize(
    "model, cloud",
    [
        ("glm-4.6:cloud", True),
        ("gpt-oss:120b-cloud", True),
        ("deepseek-v3.1:671b-cloud", True),
        ("KIMI-K2:1T-Cloud", True),
        (" qwen3-coder:480b-cloud ", True),
        ("library/kimi:cloud", True),
        ("some-cloud", True),
        ("gpt-oss:120b-cloud@sha256:0123456789abcdef", True),
        ("llama3:8b@sha256:0123456789abcdef", False),
        ("registry:5000/name:cloud", True),
        ("cloud", False),
        ("llama3:8b", False),
        ("cloud-7b", False),
        ("cloudy:8b", False),
        ("mycloud", False),
        ("nextcloud/assistant:7b", False),
        ("my-cloud:7b", False),
        ("", False),
    ],
)
def test_cloud_models(model: str, cloud: bool) -> None:
    assert is_cloud_model(model) is cloud


def test_local_is_a_local_backend_with_a_model_that_stays_there() -> None:
    seen = Observations(local=frozenset({"home"}))
    assert is_local(Target("home", "llama3:8b"), seen) is True
    assert is_local(Target("home", "gpt-oss:120b-cloud"), seen) is False
    assert is_local(Target("away", "llama3:8b"), seen) is False
    assert is_local(Target("home", "llama3:8b"), Observations()) is False


# --- the verdict on a backend -------------------------------------------------------------------

HOSTED = "type openai is a hosted kind (say `local: true` if it is yours)"


@pytest.mark.parametrize(
    "hosted, declared, host, addresses, local, reason",
    [
        (False, None, "127.0.0.1", None, True, ""),
        (False, None, "8.8.8.8", None, False, "8.8.8.8 is a public address"),
        (False, None, "8.8.8.8", ["127.0.0.1"], False, "8.8.8.8 is a public address"),
        (False, None, "fd00::5", None, True, ""),
        (False, None, "gpu.lan", None, None, "gpu.lan does not resolve yet"),
        (False, None, "gpu.lan", [], None, "gpu.lan does not resolve yet"),
        (False, None, "gpu.lan", ["192.168.1.5"], True, ""),
        (False, None, "gpu.lan", ["192.168.1.5", "93.184.216.34"], False, "gpu.lan resolves to a public address"),
        (False, None, "gpu.lan", ["no address"], False, "gpu.lan resolves to a public address"),
        (False, None, "localhost", None, None, ""),
        (False, None, "localhost", [], None, ""),
        (False, None, "localhost", ["127.0.0.1", "::1"], True, ""),
        (False, None, "localhost", ["93.184.216.34"], False, "localhost resolves to a public address"),
        (False, None, "x.localhost", ["93.184.216.34"], False, "x.localhost resolves to a public address"),
        (False, None, "", None, True, ""),
        (False, True, "8.8.8.8", None, True, ""),
        (False, True, "gpu.lan", [], True, ""),
        (False, False, "127.0.0.1", None, False, "the policy says `local: false`"),
        (True, None, "127.0.0.1", None, False, HOSTED),
        (True, None, "localhost", ["127.0.0.1"], False, HOSTED),
        (True, True, "api.openai.com", None, True, ""),
        (True, False, "127.0.0.1", None, False, "the policy says `local: false`"),
    ],
)
def test_the_verdict_on_a_backend(
    hosted: bool, declared: bool | None, host: str, addresses: list[str] | None, local: bool | None, reason: str
) -> None:
    found = judge("openai" if hosted else "ollama", hosted, declared, host, addresses)
    assert (found.local, found.reason) == (local, reason)


@pytest.mark.parametrize(
    "said, addresses, local",
    [
        (True, [], True),
        (False, ["127.0.0.1"], False),
        (None, ["127.0.0.1"], True),
        (None, ["1.1.1.1"], False),
        (None, [], None),
    ],
)
def test_the_verdict_on_a_backend_of_a_policy(said: bool | None, addresses: list[str], local: bool | None) -> None:
    assert judge_config(config(local=said, endpoint="http://box.example:1/v1"), addresses).local is local


# --- the verdict on a model ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "model, key",
    [
        ("llama3", "llama3:latest"),
        ("llama3:latest", "llama3:latest"),
        ("LLAMA3:Latest", "llama3:latest"),
        (" llama3 ", "llama3:latest"),
        ("llama3:8b", "llama3:8b"),
        ("library/llama3", "llama3:latest"),
        ("registry.ollama.ai/library/llama3:8b", "llama3:8b"),
        ("me/llama3", "me/llama3:latest"),
        ("registry:5000/me/llama3", "registry:5000/me/llama3:latest"),
        ("hf.co/org/Model-GGUF:Q4_K_M", "hf.co/org/model-gguf:q4_k_m"),
        ("llama3@sha256:00ff", "llama3:latest@sha256:00ff"),
        ("llama3:8b@sha256:00ff", "llama3:8b@sha256:00ff"),
        ("", ":latest"),
    ],
)
def test_the_one_name_of_a_model(model: str, key: str) -> None:
    assert model_key(model) == key


SEEN = Observations(
    local=frozenset({"home", "gpu"}),
    model_hosts={"home": {"llama3:latest": "ollama.com:443", "m:1": "", "kimi:cloud": ""}, "away": {"m:1": ""}},
)


@pytest.mark.parametrize(
    "backend, model, local, reason, host",
    [
        ("home", "m:1", True, "", ""),
        ("home", "M:1", True, "", ""),
        ("home", "llama3", False, "hands llama3 on to ollama.com:443", "ollama.com:443"),
        ("home", "LLAMA3:latest", False, "hands LLAMA3:latest on to ollama.com:443", "ollama.com:443"),
        ("home", "llama3@sha256:00", False, "hands llama3@sha256:00 on to ollama.com:443", "ollama.com:443"),
        ("home", "m:1@sha256:00", None, "has not said yet where it runs m:1@sha256:00", ""),
        ("home", "new", None, "has not said yet where it runs new", ""),
        ("home", "kimi:cloud", False, "hands kimi:cloud on to its maker's cloud", ""),
        ("home", "glm:9b-cloud", False, "hands glm:9b-cloud on to its maker's cloud", ""),
        ("gpu", "llama3", True, "", ""),
        ("gpu", "kimi:cloud", False, "hands kimi:cloud on to its maker's cloud", ""),
        ("away", "m:1", False, "is not local", ""),
        ("gone", "m:1", False, "is not local", ""),
    ],
)
def test_the_verdict_on_a_target(backend: str, model: str, local: bool | None, reason: str, host: str) -> None:
    target = Target(backend, model)
    found = judge_target(target, SEEN)
    assert (found.local, found.reason, found.remote_host) == (local, reason, host)
    assert is_local(target, SEEN) is (local is not False)


def test_where_a_model_runs_is_known_of_backends_that_are_not_local_too() -> None:
    assert remote_host(Target("away", "m:1"), SEEN) == ""
    assert remote_host(Target("away", "m:2"), SEEN) is None
    assert remote_host(Target("gpu", "m:2"), SEEN) == ""
