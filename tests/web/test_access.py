"""Who may come in: Host, Origin, keys, and what a browser is told."""

from __future__ import annotations

from typing import Any

import pytest

from tests.web.conftest import Client

CHAT: Any = {"messages": [{"role": "user", "content": "hi"}]}
PATHS = ["/", "/health", "/metrics", "/v1/models", "/v1/metrics", "/v1/ab", "/v1/egress", "/nowhere"]


def error_of(response: Any) -> dict[str, Any]:
    assert list(response.json) == ["error"]
    assert list(response.json["error"]) == ["message", "type", "param", "code"]
    return response.json["error"]


# --- Host ---------------------------------------------------------------------------------------

SERVED = [
    "localhost", "localhost:3030", "LOCALHOST:3030", "localhost.:3030", "app.localhost", "127.0.0.1", "127.0.0.1:3030",
    "127.9.8.7:1", "[::1]", "[::1]:3030",
]  # fmt: skip
STRANGE = [
    "evil.example", "evil.example:3030", "localhost.evil.example", "127.0.0.1.evil.example", "127.0.0.256", "127.0.0",
    "128.0.0.1", "0.0.0.0", "0.0.0.0:3030", "192.168.1.5:3030", "[::2]:3030", "[::ffff:127.0.0.1]", "2130706433",
    "0x7f.1", "localhost@evil.example", "evil.example#localhost", "notlocalhost", "127.0.0.1:80:80", "127.0.0.x",
    "127.٠.0.1",
]  # fmt: skip


@pytest.mark.parametrize("host", SERVED)
def test_a_loopback_host_is_served(client: Client, host: str) -> None:
    assert client().get("/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", STRANGE)
def test_another_host_is_not(client: Client, host: str) -> None:
    """DNS rebinding: a page whose name was pointed at this machine."""
    response = client().get("/health", environ_overrides={"HTTP_HOST": host})
    assert response.status_code == 403
    assert error_of(response) == {
        "message": "The router does not serve this Host. Add it to LLR_ALLOWED_HOSTS if it is a name of this machine.",
        "type": "permission_error",
        "param": None,
        "code": "host_not_allowed",
    }


@pytest.mark.parametrize("path", PATHS)
def test_no_url_is_served_to_another_host(client: Client, path: str) -> None:
    assert client().get(path, headers={"Host": "evil.example"}).status_code == 403
    assert client().post(path, json=CHAT, headers={"Host": "evil.example"}).status_code == 403


@pytest.mark.parametrize(
    "environ, host, status",
    [
        ({"LLR_ALLOWED_HOSTS": "gpu.lan, other.lan"}, "GPU.lan:3030", 200),
        ({"LLR_ALLOWED_HOSTS": "gpu.lan"}, "other.lan", 403),
        ({"LLR_ALLOWED_HOSTS": "gpu.lan"}, "x.gpu.lan", 403),
        ({"LLR_ALLOWED_HOSTS": "gpu.lan:3030"}, "gpu.lan:3030", 200),
        ({"LLR_ALLOWED_HOSTS": "gpu.lan:3030"}, "gpu.lan:3031", 403),
        ({"LLR_ALLOWED_HOSTS": "gpu.lan"}, "localhost", 200),
        ({"LLR_ALLOWED_HOSTS": "*"}, "anything.example", 200),
        ({"LLR_HOST": "192.168.1.5"}, "192.168.1.5:3030", 200),
        ({"LLR_HOST": "192.168.1.5"}, "192.168.1.6:3030", 403),
        ({"LLR_HOST": "0.0.0.0"}, "0.0.0.0:3030", 403),
        ({"LLR_HOST": "0.0.0.0"}, "192.168.1.5:3030", 403),
        ({"LLR_HOST": "::"}, "[::]:3030", 403),
    ],
)
def test_hosts_that_the_operator_names(client: Client, environ: dict[str, str], host: str, status: int) -> None:
    assert client(**environ).get("/health", headers={"Host": host}).status_code == status


def test_a_request_without_a_host_comes_from_no_browser(client: Client) -> None:
    environ = {"HTTP_HOST": ""}
    assert client().get("/health", environ_overrides=environ).status_code == 200


# --- Origin -------------------------------------------------------------------------------------

FRIENDLY = [
    "http://localhost", "http://localhost:8080", "https://LOCALHOST", "http://127.0.0.1:5173", "http://[::1]:3000",
    "http://app.localhost",
]  # fmt: skip
FOREIGN = [
    "https://evil.example", "http://localhost.evil.example", "http://127.0.0.1.evil.example", "null", "", "file://",
    "http://evil.example#localhost", "http://evil.example/localhost", "chrome-extension://abcdef", "localhost",
    "http://[::1", "ftp://localhost", "javascript:alert(1)", "http://0.0.0.0:3030", "http://localhost@evil.example",
]  # fmt: skip


@pytest.mark.parametrize("origin", FRIENDLY)
def test_pages_of_this_machine_may_come_in(client: Client, origin: str) -> None:
    response = client().post("/v1/chat/completions", json=CHAT, headers={"Origin": origin})
    assert response.status_code == 200
    assert response.headers["Access-Control-Allow-Origin"] == origin
    assert response.headers["Vary"] == "Origin"
    assert "X-LLR-Backend" in response.headers["Access-Control-Expose-Headers"]
    assert "Access-Control-Allow-Credentials" not in response.headers


@pytest.mark.parametrize("origin", FOREIGN)
@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "application/x-www-form-urlencoded"])
def test_other_pages_may_not_whatever_the_content_type(client: Client, origin: str, content_type: str) -> None:
    headers = {"Origin": origin, "Content-Type": content_type}
    response = client().post("/v1/chat/completions", data='{"messages":[]}', headers=headers)
    assert response.status_code == 403
    assert error_of(response)["code"] == "origin_not_allowed"
    assert "Access-Control-Allow-Origin" not in response.headers


@pytest.mark.parametrize("path", PATHS)
def test_no_url_is_served_to_another_page(client: Client, path: str) -> None:
    assert client().get(path, headers={"Origin": "https://evil.example"}).status_code == 403


@pytest.mark.parametrize(
    "allowed, origin, status",
    [
        ("https://chat.example", "https://chat.example", 200),
        ("https://chat.example/", "https://CHAT.example", 200),
        ("https://chat.example", "http://chat.example", 403),
        ("https://chat.example", "https://chat.example:8443", 403),
        ("https://chat.example", "https://x.chat.example", 403),
        ("chat.example", "https://chat.example:8443", 200),
        ("chat.example", "ftp://chat.example", 403),
        ("null", "null", 200),
        ("chrome-extension://abc", "chrome-extension://abc", 200),
        ("*", "https://anything.example", 200),
        ("https://chat.example", "http://localhost", 200),
    ],
)
def test_origins_that_the_operator_names(client: Client, allowed: str, origin: str, status: int) -> None:
    made = client(LLR_ALLOWED_ORIGINS=allowed)
    assert made.get("/v1/models", headers={"Origin": origin}).status_code == status


def test_a_client_that_is_no_browser_sends_no_origin_and_gets_no_cors(client: Client) -> None:
    response = client().post("/v1/chat/completions", json=CHAT)
    assert response.status_code == 200
    assert not [name for name in response.headers.keys() if name.startswith("Access-Control")]  # noqa: SIM118


# --- preflights ---------------------------------------------------------------------------------


def test_a_preflight(client: Client) -> None:
    headers = {
        "Origin": "http://localhost:5173",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang",
    }
    response = client(LLR_API_KEYS="k1").options("/v1/chat/completions", headers=headers)
    assert response.status_code == 200
    assert response.headers["Access-Control-Allow-Origin"] == "http://localhost:5173"
    assert response.headers["Access-Control-Allow-Methods"] == "GET, POST, DELETE, OPTIONS"
    assert response.headers["Access-Control-Allow-Headers"] == "authorization,content-type,x-stainless-lang"
    assert response.headers["Access-Control-Max-Age"] == "600"


def test_a_preflight_of_a_foreign_page(client: Client) -> None:
    response = client().options("/v1/chat/completions", headers={"Origin": "https://evil.example"})
    assert response.status_code == 403
    assert "Access-Control-Allow-Methods" not in response.headers


def test_a_page_can_read_why_it_was_refused(client: Client) -> None:
    response = client(LLR_API_KEYS="k1").get("/v1/models", headers={"Origin": "http://localhost"})
    assert response.status_code == 401
    assert response.headers["Access-Control-Allow-Origin"] == "http://localhost"


# --- keys ---------------------------------------------------------------------------------------

KEYS = "first-key, zweiter-schlüssel"


@pytest.mark.parametrize(
    "authorization",
    [
        "Bearer first-key",
        "bearer first-key",
        "BEARER  first-key ",
        "Bearer zweiter-schlüssel".encode().decode("latin-1"),
    ],
)
def test_the_right_keys(client: Client, authorization: str) -> None:
    environ = {"HTTP_AUTHORIZATION": authorization}
    assert client(LLR_API_KEYS=KEYS).get("/v1/models", environ_overrides=environ).status_code == 200


@pytest.mark.parametrize(
    "authorization",
    [
        None, "", "Bearer", "Bearer ", "Bearer first-ke", "Bearer first-key2", "Bearer FIRST-KEY", "first-key",
        "Basic first-key", "Bearer first-key, zweiter", "Bearer first-key,zweiter-schlüssel", "Bearer ,", "Bearer *",
        "Bearer \u2028", "Token first-key",
    ],
)  # fmt: skip
def test_the_wrong_keys(client: Client, authorization: str | None) -> None:
    environ = {} if authorization is None else {"HTTP_AUTHORIZATION": authorization}
    response = client(LLR_API_KEYS=KEYS).get("/v1/models", environ_overrides=environ)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert error_of(response) == {
        "message": "Wrong or missing key. Send `Authorization: Bearer KEY` with one of the keys in LLR_API_KEYS.",
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_api_key",
    }


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "HEAD"])
def test_every_url_but_health_wants_a_key(client: Client, path: str, method: str) -> None:
    status = client(LLR_API_KEYS=KEYS).open(path, method=method).status_code
    assert (status != 401) if path == "/health" else (status == 401)


@pytest.mark.parametrize("authorization", ["Bearer sk-anything", "Basic eDp5", "x"])
def test_without_keys_any_authorization_is_taken(client: Client, authorization: str) -> None:
    headers = {"Authorization": authorization}
    assert client().post("/v1/chat/completions", json=CHAT, headers=headers).status_code == 200


def test_answers_are_not_sniffed(client: Client) -> None:
    for path in PATHS:
        assert client().get(path).headers["X-Content-Type-Options"] == "nosniff"
