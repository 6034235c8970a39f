"""How failures of the machine, the network and TLS are told: the words, the kind, and whose fault each is."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
import urllib3

from app.backends.failures import ERRNOS, HandshakeTimeout, SendTimeout, refusal, transport_error, unused_proxy
from app.backends.openai import OpenAIBackend
from app.backends.response import TLSAnswered
from app.errors import BackendError, BackendProtocol, BackendTimeout, BackendUnavailable, RouterExhausted
from app.types import BackendConfig, Target, Timeouts

CONNECTION = urllib3.connection.HTTPConnection("gpu.example")


def config(endpoint: str = "http://gpu.example:8000") -> BackendConfig:
    return BackendConfig(name="b", type="openai", endpoint=endpoint, timeouts=Timeouts(3, 3, 3, 7), api_key_env="KEY")


def refused(cause: BaseException) -> Exception:
    """A failure to connect as urllib3 and requests raise it."""
    try:
        raise urllib3.exceptions.NewConnectionError(CONNECTION, f"Failed: {cause}") from cause
    except urllib3.exceptions.NewConnectionError as error:
        return urllib3.exceptions.MaxRetryError(None, "/", error)  # type: ignore[arg-type]


def aborted(cause: BaseException) -> Exception:
    """A failure behind the connection."""
    return urllib3.exceptions.ProtocolError("Connection aborted.", cause)


def unresolved(number: int) -> Exception:
    cause = socket.gaierror(number, "x")
    try:
        raise urllib3.exceptions.NameResolutionError("gpu.example", CONNECTION, cause) from cause
    except urllib3.exceptions.NameResolutionError as error:
        return urllib3.exceptions.MaxRetryError(None, "/", error)  # type: ignore[arg-type]


# errno: words, kind, class.  Classes say whose fault it is: RouterExhausted is never the backend's.
NUMBERS: dict[int, tuple[str, str, type[BackendError]]] = {
    errno.ECONNREFUSED: ("connection refused at http://gpu.example:8000", "refused", BackendUnavailable),
    errno.EHOSTUNREACH: ("no route to the host", "unreachable", BackendUnavailable),
    errno.EHOSTDOWN: ("is down", "unreachable", BackendUnavailable),
    errno.ENETUNREACH: ("this machine or container has no route to", "unreachable", BackendUnavailable),
    errno.ENETDOWN: ("is down", "unreachable", BackendUnavailable),
    errno.EACCES: ("forbids the connection", "unreachable", BackendUnavailable),
    errno.EPERM: ("forbids the connection", "unreachable", BackendUnavailable),
    errno.EAFNOSUPPORT: ("IPv6", "unreachable", BackendUnavailable),
    errno.EINVAL: ("no address that can be connected to", "unreachable", BackendUnavailable),
    errno.EADDRNOTAVAIL: ("this router has no local port or address left", "ports", RouterExhausted),
    errno.EMFILE: ("this router has no file descriptors left (ulimit -n ", "descriptors", RouterExhausted),
    errno.ENFILE: ("this machine has no file descriptors left", "descriptors", RouterExhausted),
    errno.ENOBUFS: ("this machine has no memory left", "memory", RouterExhausted),
    errno.ENOMEM: ("this machine has no memory left", "memory", RouterExhausted),
    errno.ETIMEDOUT: ("are not answered", "timeout", BackendTimeout),
    errno.ECONNRESET: ("closed the connection before", "reset", BackendProtocol),
    errno.ECONNABORTED: ("closed the connection before", "reset", BackendProtocol),
    errno.EPIPE: ("closed the connection before", "reset", BackendProtocol),
    errno.ESHUTDOWN: ("closed the connection before", "reset", BackendProtocol),
    errno.ENOTCONN: ("closed the connection before", "reset", BackendProtocol),
}


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: errno.errorcode[number])
@pytest.mark.parametrize("nest", [refused, aborted])
def test_every_error_number_has_its_words_kind_and_culprit(number: int, nest: Any) -> None:
    words, kind, culprit = NUMBERS[number]
    error = transport_error(nest(OSError(number, os.strerror(number))), config())
    assert words in error.message
    assert (type(error), error.kind, error.next_target) == (culprit, kind, True)
    assert error.backend_failed == (culprit is not RouterExhausted)


def test_the_table_is_whole() -> None:
    assert NUMBERS.keys() == ERRNOS.keys()
    assert {kind for _, kind, culprit in NUMBERS.values() if culprit is RouterExhausted} == set(RouterExhausted.KINDS)


def test_an_error_number_nobody_thought_of_is_told_in_the_systems_words() -> None:
    error = transport_error(refused(OSError(errno.EXDEV, "Invalid cross-device link")), config())
    assert error.message == "cannot connect to http://gpu.example:8000: invalid cross-device link"
    assert error.kind == "unreachable"


OTHERS: dict[str, tuple[Exception, str, str]] = {
    "no such host": (unresolved(socket.EAI_NONAME), "no such host: gpu.example", "dns"),
    "no address": (unresolved(socket.EAI_NODATA), "the host gpu.example has no address", "dns"),
    "no resolv.conf": (unresolved(socket.EAI_AGAIN), "no name server answers for gpu.example", "dns"),
    "a broken name server": (unresolved(socket.EAI_FAIL), "the name server cannot look up gpu.example", "dns"),
    "another kind": (unresolved(socket.EAI_FAMILY), "the host gpu.example cannot be looked up", "dns"),
    "no memory for it": (unresolved(socket.EAI_MEMORY), "no memory left to look up gpu.example", "memory"),
    "no name at all": (urllib3.exceptions.LocationParseError("x"), "cannot be looked up", "dns"),
    "connecting takes too long": (
        urllib3.exceptions.ConnectTimeoutError(None, "x"), "no connection within 3 s at http://gpu.example", "timeout",
    ),
    "the handshake takes too long": (aborted(HandshakeTimeout()), "no TLS handshake within 3 s", "timeout"),
    "sending takes too long": (aborted(SendTimeout()), "took nothing of the request for 7 s", "timeout"),
    "answering takes too long": (aborted(TimeoutError()), "did not answer in time", "timeout"),
    "a TLS alert": (aborted(TLSAnswered("x")), "its `endpoint` must begin with https://", "tls"),
    "no file left for the authorities": (
        urllib3.exceptions.SSLError(OSError(errno.EMFILE, "x")), "no file descriptors left", "descriptors",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHERS.values(), ids=OTHERS)
def test_other_failures_are_named(case: tuple[Exception, str, str]) -> None:
    raised, words, kind = case
    error = transport_error(raised, config())
    assert words in error.message
    assert error.kind == kind


def test_looking_up_a_name_without_a_descriptor_left_is_no_fault_of_the_name_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(_: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "dup", full)
    error = transport_error(unresolved(socket.EAI_AGAIN), config())
    assert (type(error), error.kind) == (RouterExhausted, "descriptors")


@pytest.mark.parametrize(
    ("endpoint", "number", "said"),
    [
        ("http://127.0.0.1:11434", errno.ENETUNREACH, "is its loopback interface up?"),
        ("http://localhost:11434", errno.EADDRNOTAVAIL, "is its loopback interface up?"),
        ("http://gpu.example", errno.ENETUNREACH, ""),
        ("http://gpu.example:443", errno.ECONNRESET, "write https://"),
        ("http://gpu.example:8000", errno.ECONNRESET, ""),
        ("https://gpu.example:443", errno.ECONNRESET, ""),
    ],
)
def test_a_likely_reason_is_given_where_there_is_one(endpoint: str, number: int, said: str) -> None:
    message = transport_error(refused(OSError(number, "x")), config(endpoint)).message
    assert said in message
    assert said or "(" not in message


# --- a proxy that is not used -------------------------------------------------------------------

PROXIES: list[tuple[str, Mapping[str, str], str]] = [
    ("https://api.example", {"HTTPS_PROXY": "http://p:3128"}, "HTTPS_PROXY"),
    ("https://api.example", {"https_proxy": "http://p:3128"}, "https_proxy"),
    ("https://api.example", {"ALL_PROXY": "socks5://p"}, "ALL_PROXY"),
    ("https://api.example", {"HTTP_PROXY": "http://p:3128"}, ""),
    ("http://api.example", {"HTTP_PROXY": "http://p:3128"}, "HTTP_PROXY"),
    ("http://api.example", {"HTTP_PROXY": " "}, ""),
    ("http://api.example", {}, ""),
]


@pytest.mark.parametrize(("endpoint", "environ", "name"), PROXIES)
def test_a_proxy_variable_that_other_clients_would_heed(endpoint: str, environ: Mapping[str, str], name: str) -> None:
    assert unused_proxy(endpoint, environ) == name


@pytest.mark.parametrize(
    ("endpoint", "raised", "named"),
    [
        ("https://api.example", refused(ConnectionRefusedError(errno.ECONNREFUSED, "x")), True),
        ("https://api.example", refused(OSError(errno.ENETUNREACH, "x")), True),
        ("https://api.example", unresolved(socket.EAI_AGAIN), True),
        ("https://api.example", urllib3.exceptions.ConnectTimeoutError(None, "x"), True),
        ("https://api.example", aborted(ConnectionResetError(errno.ECONNRESET, "x")), False),
        ("https://api.example", aborted(TimeoutError()), False),
        ("http://localhost:11434", refused(ConnectionRefusedError(errno.ECONNREFUSED, "x")), False),
        ("http://127.0.0.1:11434", refused(ConnectionRefusedError(errno.ECONNREFUSED, "x")), False),
        ("http://192.168.1.9:11434", refused(OSError(errno.EHOSTUNREACH, "x")), False),
    ],
)
def test_a_proxy_is_named_where_it_is_likely_the_cause(endpoint: str, raised: Exception, named: bool) -> None:
    message = transport_error(raised, config(endpoint), "", "HTTPS_PROXY").message
    assert ("HTTPS_PROXY is set, but the router connects directly" in message) is named


# --- TLS ----------------------------------------------------------------------------------------


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    made = trustme.CA()
    made.cert_pem.write_to_path(tmp_path / "ca.pem")
    return made


def server_context(authority: trustme.CA, host: str = "127.0.0.1", **options: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host, **options).configure_cert(context)
    return context


@contextmanager
def answering(play: Any) -> Iterator[int]:
    """A server on a port of its own that plays `play(sock)` for each connection."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)

        def run() -> None:
            while not over.is_set():
                try:
                    sock, _ = listener.accept()
                except TimeoutError:
                    continue
                with sock:
                    sock.settimeout(5)
                    try:
                        play(sock)
                    except OSError:
                        continue

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            over.set()
            thread.join(20)


def ask(endpoint: str, authorities: str = "", connect_s: float = 5) -> BackendError:
    timeouts = Timeouts(connect_s, 5, 5)
    given = BackendConfig(name="b", type="openai", endpoint=endpoint, timeouts=timeouts, api_key_env="KEY")
    backend = OpenAIBackend(given, {"KEY": "sk-test", "REQUESTS_CA_BUNDLE": authorities})
    with pytest.raises(BackendError) as caught:
        backend.discover()
    backend.close()
    return caught.value


def plain(sock: socket.socket) -> None:
    sock.recv(65536)
    sock.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


def silent(sock: socket.socket) -> None:
    while sock.recv(65536):
        pass


def alert(sock: socket.socket) -> None:
    sock.recv(65536)
    sock.sendall(b"\x15\x03\x01\x00\x02\x02\x46")


def over_tls(context: ssl.SSLContext) -> Any:
    def play(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as wrapped:
            wrapped.recv(65536)
            wrapped.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n" + b'{"data": []}')

    return play


def test_tls_to_a_plain_port() -> None:
    with answering(plain) as port:
        error = ask(f"https://127.0.0.1:{port}/v1")
    assert "no TLS is spoken there: its `endpoint` must begin with http://" in error.message
    assert error.kind == "tls"


def test_tls_to_a_port_that_says_nothing() -> None:
    with answering(silent) as port:
        error = ask(f"https://127.0.0.1:{port}/v1", connect_s=0.3)
    assert error.message.startswith("no TLS handshake within 0.3 s")
    assert error.kind == "timeout"


def test_tls_to_a_port_that_closes() -> None:
    with answering(lambda sock: sock.recv(10)) as port:
        error = ask(f"https://127.0.0.1:{port}/v1")
    assert error.kind in ("tls", "reset")
    assert "closed the connection" in error.message


def test_plain_http_to_a_tls_port_that_alerts() -> None:
    with answering(alert) as port:
        error = ask(f"http://127.0.0.1:{port}/v1")
    assert "its `endpoint` must begin with https://" in error.message
    assert error.kind == "tls"


@pytest.mark.parametrize(
    "body",
    [
        b"<html><center>The plain HTTP request was sent to HTTPS port</center></html>",
        b"Client sent an HTTP request to an HTTPS server.\n",
        b"Reason: You're speaking plain HTTP to an SSL-enabled server port.",
    ],
)
def test_plain_http_to_a_tls_port_that_answers(body: bytes) -> None:
    error = refusal(400, None, body, Target("b", "m"), config(), "")
    assert "its `endpoint` must begin with https://" in error.message
    assert (type(error), error.kind) == (BackendUnavailable, "tls")
    quoted = refusal(400, None, body, Target("b", "m"), config("https://gpu.example"), "")
    assert quoted.kind == "http_400"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_certificate_that_is_asked_for(authority: trustme.CA, tmp_path: Path, version: ssl.TLSVersion) -> None:
    context = server_context(authority)
    context.minimum_version = context.maximum_version = version
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    with answering(over_tls(context)) as port:
        error = ask(f"https://127.0.0.1:{port}/v1", str(tmp_path / "ca.pem"))
    assert "client certificate" in error.message
    assert error.kind == "tls"


def test_a_certificate_says_what_is_wrong_with_it(authority: trustme.CA, tmp_path: Path) -> None:
    with answering(over_tls(server_context(authority, "other.example"))) as port:
        foreign = ask(f"https://127.0.0.1:{port}/v1", str(tmp_path / "ca.pem"))
        unknown = ask(f"https://127.0.0.1:{port}/v1")
    assert "not valid for '127.0.0.1'" in foreign.message
    assert "unable to get local issuer certificate" in unknown.message or "self-signed" in unknown.message
    assert foreign.kind == unknown.kind == "tls"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file or directory"),
        (b"", "holds no certificate in PEM form"),
        (b"not a certificate\n", "holds no certificate in PEM form"),
        (b"\x30\x82\x01\x0a\x02\x82\x01\x01", "holds no certificate in PEM form"),
        (b"-----BEGIN CERTIFICATE-----\nbroken\n-----END CERTIFICATE-----\n", "holds no certificate in PEM form"),
    ],
)
def test_a_file_of_authorities_that_cannot_be_used_is_named(tmp_path: Path, content: bytes | None, words: str) -> None:
    file = tmp_path / "own-ca.pem"
    if content is not None:
        file.write_bytes(content)
    error = ask("https://127.0.0.1:9/v1", str(file))
    assert error.message.startswith(f"REQUESTS_CA_BUNDLE names {file}")
    assert words in error.message
    assert error.kind == "tls"


def test_a_file_of_authorities_matters_to_https_alone(tmp_path: Path) -> None:
    with answering(plain) as port:
        assert ask(f"http://127.0.0.1:{port}/v1", str(tmp_path / "missing")).kind == "http_400"
