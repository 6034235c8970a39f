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
def authority(tmp_path: Path) -> trustme.CA:
    made = trustme.CA()
    made.cert_pem.write_to_path(tmp_path / "ca.pem")
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


def backend(endpoint: str, authorities: Path | str) -> Backend:
    config = BackendConfig(name="b", type="openai", endpoint=endpoint, timeouts=Timeouts(5, 5, 5), api_key_env="KEY")
    return OpenAIBackend(config, {"KEY": "sk-test", "REQUESTS_CA_BUNDLE": str(authorities)})


def test_a_trusted_server_answers_and_its_connection_is_kept(
    serve: http.server.ThreadingHTTPServer, tmp_path: Path
) -> None:
    trusted = backend(f"https://127.0.0.1:{serve.server_port}", tmp_path / "ca.pem")
    assert [trusted.discover() for _ in range(3)] == [("m-1",)] * 3
    trusted.close()
    assert len(serve.RequestHandlerClass.connections) == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "host, authorities",
    [("localhost", "ca.pem"), ("127.0.0.1", ""), ("127.0.0.1", "no such file")],
    ids=["a name not in the certificate", "an authority nobody knows", "no file of authorities"],
)
def test_what_cannot_be_verified_is_refused(
    serve: http.server.ThreadingHTTPServer, tmp_path: Path, host: str, authorities: str
) -> None:
    with pytest.raises(BackendUnavailable) as caught:
        backend(f"https://{host}:{serve.server_port}", authorities and tmp_path / authorities).discover()
    assert caught.value.kind == "tls"
    assert "REQUESTS_CA_BUNDLE" in caught.value.message
    assert not serve.RequestHandlerClass.connections  # type: ignore[attr-defined]
