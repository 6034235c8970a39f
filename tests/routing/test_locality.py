"""What counts as inside: addresses, names and models."""

from __future__ import annotations

import pytest

from app.routing.locality import is_address, is_cloud_model, is_inside, is_local, is_loopback_name
from app.types import Observations, Target

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
    assert is_inside(address) is True
    assert is_address(address) is True


@pytest.mark.parametrize("address", OUTSIDE)
def test_outside(address: str) -> None:
    assert is_inside(address) is False
    assert is_address(address) is True


@pytest.mark.parametrize("text", NO_ADDRESS)
def test_what_is_no_address_is_outside(text: str) -> None:
    assert is_inside(text) is False
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
