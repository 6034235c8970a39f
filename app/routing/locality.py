"""The one verdict on what is local: a backend or a model that stays inside the operator's machine or network.  Pure.

A backend is judged by its type, by `local:` of the policy, by its host and by the addresses of that host (`judge`).
A target is judged by its backend, by the name of its model, and by the host that its server named for the model
(`judge_target`).  Whoever wants to know whether something is local asks here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from app.types import BackendConfig, Observations, Target

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


@dataclass(frozen=True, slots=True)
class Verdict:
    """`reason` says in plain words why something is not local, or not known to be."""

    local: bool | None  # None = not known yet
    reason: str = ""
    remote_host: str = ""  # host:port that runs the model of a local backend; "" = its server, or not known


# --- backends -----------------------------------------------------------------------------------


def judge(kind: str, hosted: bool, declared: bool | None, host: str, addresses: Sequence[str] | None = None) -> Verdict:
    """Judge a backend of the type `kind`.

    `declared` is `local:` of the policy.  `addresses` are those that `host` resolves to: empty when it does not
    resolve, None when nobody looked.  No name is trusted by its look: `localhost` and `x.localhost` can lead anywhere.
    """
    if declared is not None:
        return Verdict(declared, "" if declared else "the policy says `local: false`")
    if hosted:
        return Verdict(False, f"type {kind} is a hosted kind (say `local: true` if it is yours)")
    if not host:
        return Verdict(True)  # it calls nobody
    if is_address(host):
        inside = is_inside(host)
        return Verdict(inside, "" if inside else f"{host} is a public address")
    if not addresses:
        return Verdict(None, "" if is_loopback_name(host) else f"{host} does not resolve yet")
    if all(map(is_inside, addresses)):
        return Verdict(True)
    return Verdict(False, f"{host} resolves to a public address")


def judge_config(config: BackendConfig, addresses: Sequence[str] | None) -> Verdict:
    """Judge a backend of a loaded policy: `config.local` holds what the policy alone could tell."""
    return judge(config.type, False, config.local, host_name(config.endpoint), addresses)


# --- models -------------------------------------------------------------------------------------


def judge_target(target: Target, observations: Observations) -> Verdict:
    """Judge a target for a private request.  A model of which its server has said nothing yet is unknown: the gate in
    dispatch.py asks the server just before the call."""
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
    """Return host:port to which the server of a target hands its model on, "" when it runs the model itself, None when
    it has not said.  A digest is no way around what is known of the model."""
    hosts = observations.model_hosts.get(target.backend)
    if hosts is None:
        return ""
    key = model_key(target.model)
    return hosts.get(key.partition("@")[0]) or hosts.get(key)


def is_local(target: Target, observations: Observations) -> bool:
    """Return False when a target is known not to be local."""
    return judge_target(target, observations).local is not False


def is_cloud_model(model: str) -> bool:
    """Return True for a name that Ollama gives to models of its maker's cloud: `name:cloud`, `name:120b-cloud`.  A
    digest behind the tag (`name:tag@sha256:…`) changes nothing."""
    model = model.lower().partition("@")[0].strip()
    tag = model.rpartition(":")[2] if ":" in model else ""
    return tag.endswith("cloud") or model.endswith("-cloud")


def model_key(model: str) -> str:
    """Return the one name of a model at an Ollama, where `X`, `x:latest` and `library/x` are all the same.  A digest
    stays a part of the name.  Facts: https://github.com/ollama/ollama/blob/main/types/model/name.go."""
    name, at, digest = model.strip().lower().partition("@")
    name = name.removeprefix("registry.ollama.ai/").removeprefix("library/")
    tagged = name if ":" in name.rpartition("/")[2] else f"{name}:latest"
    return f"{tagged}{at}{digest}"


# --- addresses and names ------------------------------------------------------------------------


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
    """`localhost` and its subdomains, which should resolve to loopback (RFC 6761).  Nobody enforces that, so it says
    what is meant and not where it leads."""
    host = host.lower().rstrip(".")
    return host == "localhost" or host.endswith(".localhost")


def host_of(endpoint: str) -> str:
    """`https://api.example:8443/v1` -> `api.example:8443`"""
    return endpoint.partition("://")[2].partition("/")[0]


def host_name(endpoint: str) -> str:
    """The same without the port; an IPv6 address without its brackets."""
    return urlsplit(endpoint).hostname or ""
