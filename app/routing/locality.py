"""The one verdict on what is local: what runs on the operator's own machine or in the operator's network.  Pure.

`judge` decides about a backend: by its type, by `local:` of the policy, by its host and by the addresses of that host.
`judge_target` decides about a target: by its backend, by the name of its model, and by the host that its server named
for the model.  No other module computes whether something is local.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from app.types import BackendConfig, Observations, Target
from app.types import model_key as model_key  # a part of the verdict on a model, so callers find it here

# Loopback, RFC 1918, link-local and unique-local ranges.  100.64/10 (carrier NAT, overlay networks) is not
# here: an operator who uses it sets `local: true`.  0.0.0.0 and :: reach the machine itself.
_LOCAL_NETWORKS = tuple(
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


@dataclass(frozen=True, slots=True)
class Verdict:
    """Say whether something is local, and why it is not, or why that is unknown."""

    local: bool | None  # None = not known yet
    reason: str = ""  # a part of a sentence, such as "is not local"
    remote_host: str = ""  # host:port that runs the model of a local backend; "" = its own server, or unknown


# --- backends -----------------------------------------------------------------------------------


def judge(kind: str, hosted: bool, declared: bool | None, host: str, addresses: Sequence[str] | None = None) -> Verdict:
    """Return whether a backend of the type `kind` is local.

    `declared` is `local:` of the policy.  `addresses` are the addresses that `host` resolves to: empty when it does
    not resolve, None when it was not looked up.  No name is trusted without its addresses: `localhost` and
    `x.localhost` can lead anywhere.
    """
    if declared is not None:
        return Verdict(declared, "" if declared else "the policy says `local: false`")
    if hosted:
        return Verdict(False, f"type {kind} is a hosted kind (say `local: true` if it is yours)")
    if not host:
        return Verdict(True)  # it makes no connection
    if is_address(host):
        local = is_local_address(host)
        return Verdict(local, "" if local else f"{host} is a public address")
    if not addresses:
        return Verdict(None, "" if is_loopback_name(host) else f"{host} does not resolve yet")
    if all(map(is_local_address, addresses)):
        return Verdict(True)
    return Verdict(False, f"{host} resolves to a public address")


def judge_config(config: BackendConfig, addresses: Sequence[str] | None) -> Verdict:
    """Return whether a backend of a loaded policy is local.  `config.local` holds the verdict by the policy alone."""
    return judge(config.type, False, config.local, host_name(config.endpoint), addresses)


# --- models -------------------------------------------------------------------------------------


def judge_target(target: Target, observations: Observations) -> Verdict:
    """Return whether a target is local for a private request.  A model is unknown until its server has named the host
    that runs it: the gate in call.py asks the server just before the call."""
    if target.backend not in observations.local:
        return Verdict(False, "is not local")
    host = remote_host(target, observations)
    if host:
        return Verdict(False, f"hands {target.model} on to {host}", host)
    if is_cloud_model(target.model):
        return Verdict(False, f"hands {target.model} on to its maker's cloud")
    if host is None:
        return Verdict(None, f"has not said yet where it runs {target.model}")
    return Verdict(True)


def remote_host(target: Target, observations: Observations) -> str | None:
    """Return host:port of the other host that runs the target's model, "" when the target's own server runs it, None
    when the server has not said.  A digest in the name does not hide a model that is known to run elsewhere."""
    hosts = observations.model_hosts.get(target.backend)
    if hosts is None:
        return ""
    key = model_key(target.model)
    return hosts.get(key.partition("@")[0]) or hosts.get(key)


def is_local(target: Target, observations: Observations) -> bool:
    """Return False when a target is known not to be local."""
    return judge_target(target, observations).local is not False


def is_cloud_model(model: str) -> bool:
    """Return True for a name that Ollama gives to models of its own cloud: `name:cloud`, `name:120b-cloud`.  A digest
    after the tag (`name:tag@sha256:…`) changes nothing."""
    model = model.lower().partition("@")[0].strip()
    tag = model.rpartition(":")[2] if ":" in model else ""
    return tag.endswith("cloud") or model.endswith("-cloud")


# --- addresses and names ------------------------------------------------------------------------


def is_local_address(address: str) -> bool:
    """Return True for an IP address of this machine or of a private network, False for any other text."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])  # fe80::1%eth0
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    return any(ip.version == network.version and ip in network for network in _LOCAL_NETWORKS)


def is_address(host: str) -> bool:
    """Return True for a literal IP address, which needs no resolving."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def is_loopback_name(host: str) -> bool:
    """Return True for `localhost` and its subdomains, which should resolve to loopback (RFC 6761).  Nothing enforces
    that, so the result shows the intention and not the address."""
    host = host.lower().rstrip(".")
    return host == "localhost" or host.endswith(".localhost")


def host_of(endpoint: str) -> str:
    """Return host and port of a URL: `api.example:8443` of `https://api.example:8443/v1`."""
    return endpoint.partition("://")[2].partition("/")[0]


def host_name(endpoint: str) -> str:
    """Return the host of a URL without the port; an IPv6 address without its brackets."""
    return urlsplit(endpoint).hostname or ""
