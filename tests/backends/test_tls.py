"""Backends behind https: the certificate is checked, and the connection is kept."""

from __future__ import annotations

import http.server
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from app.backends.base import Backend
from app.backends.openai import OpenAIBackend
from app.errors import BackendUnavailable
from app.types import BackendConfig, Timeouts

MODELS = b'{"data": [{"id": "m-1"}]}'


class _Models(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    connections: set[tuple[str, int]]

    def do_GET(self) -> None:
        self.connections.add(self.client_address)
        self.send_response(200)
        self.send_header("Content-Length", str(len(MODELS)))
        self.end_headers()
        self.wfile.write(MODELS)

    def log_message(self, format: str, *args: object) -> None:
        """Not into the test's output."""


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """One that requests trusts, and no other."""
    made = trustme.CA()
    made.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setattr("requests.adapters.DEFAULT_CA_BUNDLE_PATH", str(tmp_path / "ca.pem"))
    return made


@pytest.fixture
def serve(authority: trustme.CA) -> Iterator[http.server.ThreadingHTTPServer]:
    handler = type("Handler", (_Models,), {"connections": set()})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join(10)
    server.server_close()


def backend(endpoint: str) -> Backend:
    config = BackendConfig(name="b", type="openai", endpoint=endpoint, timeouts=Timeouts(5, 5, 5), api_key_env="KEY")
    return OpenAIBackend(config, {"KEY": "sk-test"})


def test_a_trusted_server_answers_and_its_connection_is_kept(serve: http.server.ThreadingHTTPServer) -> None:
    trusted = backend(f"https://127.0.0.1:{serve.server_port}")
    assert [trusted.discover() for _ in range(3)] == [("m-1",)] * 3
    trusted.close()
    assert len(serve.RequestHandlerClass.connections) == 1  # type: ignore[attr-defined]


def test_a_name_that_is_not_in_the_certificate_is_refused(serve: http.server.ThreadingHTTPServer) -> None:
    with pytest.raises(BackendUnavailable) as caught:
        backend(f"https://localhost:{serve.server_port}").discover()
    assert caught.value.kind == "tls"
    assert not serve.RequestHandlerClass.connections  # type: ignore[attr-defined]


def test_an_unknown_authority_is_refused(
    serve: http.server.ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    monkeypatch.setattr("requests.adapters.DEFAULT_CA_BUNDLE_PATH", str(tmp_path / "other.pem"))
    with pytest.raises(BackendUnavailable) as caught:
        backend(f"https://127.0.0.1:{serve.server_port}").discover()
    assert caught.value.kind == "tls"
