"""What counts as local: an address or a model that stays inside the operator's machine or network.  Pure."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from app.types import Observations, Target

# Loopback, RFC 1918, link-local and unique-local ranges.  100.64/10 (carrier NAT, overlay networks) is not
# here: who uses it says `local: true`.  0.0.0.0 and :: reach the machine itself.
_INSIDE = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/32",
        "10.0.0.0/8",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "::/128",
        "::1/128",
        "fc00::/7",
        "fe80::/10",
    )
)


def is_inside(address: str) -> bool:
    """True for an IP address on this machine or a private network.  Anything that is no address is outside."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])  # fe80::1%eth0
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    return any(ip.version == network.version and ip in network for network in _INSIDE)


def is_address(host: str) -> bool:
    """True for a literal IP address, which needs no resolving."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def is_loopback_name(host: str) -> bool:
    """`localhost` and its subdomains, which resolve to loopback by definition (RFC 6761)."""
    host = host.lower().rstrip(".")
    return host == "localhost" or host.endswith(".localhost")


def is_cloud_model(model: str) -> bool:
    """An Ollama model that the local daemon hands on to its maker's cloud: `name:cloud`, `name:120b-cloud`.  A digest
    behind the tag (`name:tag@sha256:…`) changes nothing."""
    model = model.lower().partition("@")[0].strip()
    tag = model.rpartition(":")[2] if ":" in model else ""
    return tag.endswith("cloud") or model.endswith("-cloud")


def is_local(target: Target, observations: Observations) -> bool:
    """Whether a private request may reach this target."""
    return target.backend in observations.local and not is_cloud_model(target.model)


def host_of(endpoint: str) -> str:
    """`https://api.example:8443/v1` -> `api.example:8443`"""
    return endpoint.partition("://")[2].partition("/")[0]


def host_name(endpoint: str) -> str:
    """The same without the port; an IPv6 address without its brackets."""
    return urlsplit(endpoint).hostname or ""
