"""Detectors: what they find, what only looks like it, where they look, and what they cost."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.routing.detect import DETECTORS, Detectors, PatternError, check_pattern
from app.routing.private.texts import texts
from app.types import SensitivityRules

ALL = Detectors(SensitivityRules(DETECTORS))


def find(name: str, text: str) -> str | None:
    return Detectors(SensitivityRules((name,))).find({"text": text})


# Keys are put together here, so that no scanner takes this file for a leak.
A20, A36 = "Abcd1234Efgh5678Ijkl", "Abcd1234Efgh5678Ijkl9012Mnop3456Qrst"
IBAN = "DE89 3704 0044 0532 0130 00"
CARD = "4111 1111 1111 1111"

FOUND = {
    "api_key": [
        "sk-" + A20,
        "use sk-" + "proj-" + A36 + " please",
        "sk_live_" + A20,
        "pk-test-" + A20,
        "key=rk_live_" + A20,
        "ghp_" + A36,
        "github_pat_" + A36,
        "glpat-" + A20,
        "xoxb-" + "1234567890-abc",
        "AKIA" + "IOSFODNN7QXAMPXE",
        "ASIA" + "IOSFODNN7QXAMPXE",
        "AIza" + A36[:35],
        "hf_" + A36,
        "gsk_" + A20,
        "npm_" + A36,
        "sk-ant-api03-" + "-_" + A36 * 2 + "AA",
        "sk-proj-" + "_-a" + A36 * 2,
        "sk-lf-1a2b3c4d-5e6f-4a7b-8c9d-0e1f2a3b4c5d",
        "MISTRAL_API_KEY=" + A36[:32],
        '"openai_api_key": "' + A36 + '"',
        "AWS_SECRET_ACCESS_KEY=" + A36 + "/+Ab",
        "mistralApiKey: " + A36[:32],
        "please use OmydpRvSnib0AFqeVfTMmtI3LI8a1z7oEwShbTYG, I will rotate it",
        "https://acct.blob.core.windows.net/c?sv=2022-11-02&sig=Y0NjenkpmOqZXSqZfygUALJMhGHdeD5IUw9Scw5FqNQ%3D",
        "SG." + A20 + "." + A20,
        'api_key = "' + A20 + '"',
        "ACCESS-TOKEN: " + A20,
        '{"secret_key": "' + A20 + '"}',
    ],
    "private_key": [
        "-----BEGIN PRIVATE KEY-----",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIE",
        "x-----BEGIN OPENSSH PRIVATE KEY-----",
        "-----BEGIN PGP PRIVATE KEY BLOCK-----",
        "-----BEGIN EC PRIVATE KEY-----",
    ],
    "jwt": ["eyJhbGciOiJI.eyJzdWIiOiIx.c2ln", "Bearer eyJhbGciOiJI.eyJzdWIiOiIx."],
    "connection_string": [
        "postgres://app:Bl7EQRFQRYyBEn@db.internal:5432/prod",
        "DSN=mysql://root:SMlE0yE2GLgg@10.1.2.3:3306/shop",
        '{"dsn": "mongodb+srv://svc:6PDs10P4n0EI@cluster0.ab1cd.mongodb.net/?retryWrites=true"}',
        "redis://:aRySM7wfqS5i0ufd@cache:6379/0",
        "https://deploy:ouMe4Ev3r4plubn0@git.corp.example/team/app.git",
        "amqp://svc:p%40ss7Word@[::1]:5672/",
        "Server=db;Database=shop;User Id=app;Password=Xy7!kd92La;Encrypt=true",
        "Pwd=Xy7kd92La;Server=db;",
        "host=db port=5432 user=app password=Xy7kd92La dbname=shop",
        "jdbc:postgresql://db/shop?user=app&password=Xy7kd92La",
        "jdbc:oracle:thin:scott/t1gerXy7@db:1521:orcl",
        'url = \\"postgres://app:Bl7EQRFQRYyBEn@db/prod\\"',
    ],
    "authorization": [
        "Authorization: Bearer igGxfKrqUAlFCiiTMsj5u2lbsuqp",
        "curl -H 'Authorization: Basic b3BzOmdldVBwTUZaSENYemRB' https://x",
        '"authorization": "Token 9f8e7d6c5b4a39281706f5e4d3c2b1a0"',
        "headers = {'X-Auth-Token': 'igGxfKrqUAlFCiiTMsj5u2lb'}",
        "Proxy-Authorization: Basic b3BzOmdldVBwTUZaSENYemRB",
        "Cookie: theme=dark; session=igGxfKrqUAlFCiiTMsj5u2lb",
        "curl -s -u ops:geuPpMFZHCXz https://api.corp.example",
        'Authorization: Digest username="a", realm="b", response="6629fae49393a05397450978507c4ef1"',
        "Authorization: ApiKey VnVhQ2ZHY0JDZGJrUW0tZTVhT3g6dWkybHAyYXhUTm1zeWFrdzl0dk5udw==",
    ],
    "password": [
        "DB_PASSWORD=kd92LaXy7",
        'password: "Xy7!kd92La"',
        "my password is hunter2x, change it",
        "Passwort: Gr9sseKatze!",
        "das Passwort lautet Gr9sseKatze",
        "mot de passe : Ch4tN0ir!x",
        "contraseña: G4toN3gro",
        "密码是Xy7kd92La",
        '{"userPassword": "Xy7kd92La"}',
        "mysql -u root -pXy7kd92La shop",
        "sshpass -p 'Xy7!kd92La' ssh host",
        "login app password Xy7kd92La",
        "CREATE USER app IDENTIFIED BY 'Xy7kd92La';",
        "<password>Xy7kd92La</password>",
        "tool --password Xy7kd92La --verbose",
        "app:$6$Xy7kd92LaQ$" + "aB3dE5gH7j" * 8,
        "$2b$12$" + "Xy7kd92LaQwErTyUiOpAsD" * 2,
        'psk="Xy7kd92LaQ"',
        "PGPASSWORD=Xy7kd92La psql",
    ],
    "credit_card": [
        CARD,
        "4111111111111111",
        "4111-1111-1111-1111.",
        "card:5555555555554444,",
        "378282246310005",
        "3782 822463 10005",
        "30569309025904",
        "4222222222222",
        "6304000000000000000",
        f"order 4500123 {CARD}",
        f"1234 5678 9012 {CARD}",
        f"4111111111111112 {CARD}",
        f"é{CARD}é",
        f"Karte：{CARD}。",
        "x" * 5000 + " " + CARD,
        CARD.replace(" ", "."),
        CARD.replace(" ", "  "),
        CARD.replace(" ", "\t"),
        CARD.replace(" ", "\n"),
        CARD.replace(" ", "\r\n"),
        CARD.replace(" ", " - "),
        CARD.replace(" ", "%20"),
        CARD.replace(" ", "&nbsp;"),
        "Name\tCard\nJo\t" + CARD,
        CARD + " 12/28",
        "Card\n" + CARD + "\n12/28 123",
        CARD.replace(" ", "/"),
        "6759 6498 2643 8453 26",
        "card=4111111111111111&cvc=1",
        "卡号4111111111111111。",
        "4111.1111.1111.1111",
        "6011 1111 1111 1117",
        "3530 1113 3330 0000",
        "6200 0000 0000 0005",
        "2223 0000 4841 0010",
        CARD.replace(" ", "\u00a0"),
        CARD.replace(" ", "\u202f"),
        CARD.replace(" ", "\u2011"),
        CARD.replace("1111 1111", "1111\u200b \u00ad1111"),
        "".join(chr(0xFF10 + int(digit)) if digit != " " else "\u3000" for digit in CARD),
    ],
    "iban": [
        IBAN,
        "de89370400440532013000",
        "DE89-3704-0044-0532-0130-00",
        f"pay to {IBAN} by friday please",
        f"my ref XY99 invoice for {IBAN}",
        "GB82 WEST 1234 5698 7654 32",
        "NO9386011117947",
        IBAN.replace(" ", "."),
        IBAN.replace(" ", "  "),
        IBAN.replace(" ", "\t"),
        IBAN.replace(" ", "\n"),
        IBAN.replace(" ", "\r\n"),
        IBAN.replace(" ", "%20"),
        "IBANDE89370400440532013000",
        "IBAN:DE89370400440532013000BIC:COBADEFFXXX",
        "账户DE89370400440532013000汇款",
        "_DE89370400440532013000_",
        "MT84MALT011000012345MTLCAST001S",
        "FR1420041010050500013M02606",
        f"„{IBAN}“",
        IBAN.replace(" ", "\u00a0"),
        IBAN.replace(" ", "\u2009"),
    ],
    "us_ssn": [
        "123-45-6789",
        "123-45-6789 1980",
        "SSN 123456789",
        "SSN 123 45 6789.",
        "000-12-3456 and 899-99-9999",
        "123\u201345\u20136789",
    ],
    "email": [
        "me@corp.example",
        "mail to jo(at)corp.example",
        "jo [at] corp [dot] example",
        "<first.last+tag@mail.example.co.uk>",
        "schreib an m.mueller@firma.de!",
        "jo@köln.example",
        "用户@corp.example.cn",
        "o'brien@corp.example",
        "jo@corp.example在线",
        "jo%40corp.example",
        "jo&#64;corp.example",
        "jo at corp dot com",
        "иван@почта.рф",
        "a@b.io",
        "日本a@b.io日本",
        "me＠corp．example",
    ],
    "phone": [
        "+49 30 123456",
        "call +1 (415) 555-2671 now",
        "+442071838750",
        "(415) 555-2671",
        "0033 1 42 68 53 00",
        "Tel. 030 901820",
        "0170/5551234",
        "01 42 68 53 00",
        "01.42.68.53.00",
        "020 7946 0958",
        "手机13800138000",
        "+86 138 0013 8000",
        "138 0013 8000",
        "電話 03-1234-5678",
        "98765 43210",
        "1 415 555 2671",
        "phone: 1-415-555-2671",
        "whatsapp:+4917055512345",
        "(11) 91234-5678",
        "8 (495) 123-45-67",
        "079 123 45 67",
        "06-12345678",
        "phone_number: 4155552671",
        "телефон: 4951234567",
        "8-916-123-45-67",
        "011 44 20 7946 0958",
        "0812-3456-7890",
        "0470/12.34.56",
        "Tél. 0142685300",
        "415-555-2671",
        "415.555.2671",
        "+49 (0)30 123456",
        "+33 1 23 45 67 89",
        "tel：+81 3 1234 5678",
        "+33\u00a01\u00a023\u00a045\u00a067\u00a089",
        "＋８１ ９０ １２３４ ５６７８",
    ],
}
ONLY_ALIKE = {
    "api_key": [
        "sk-short",
        "ask-" + A20,
        "task_" + A20,
        "sk-some-words-with-hyphens-in-a-row",
        "AKIA is a prefix",
        "ghp_tooshort",
        "the api key is secret",
        "api_key = os.environ['KEY']",
        "hf_hub_download",
        "sk-" + "x" * 40,
        "ghp_" + "X" * 36,
        "AKIA" + "IOSFODNN7EXAMPLE",
        "api_key=settings_openai_api_key",
        "api_key = process.env.OPENAI_API_KEY",
        "apiKey: 'your-api-key-goes-here-now'",
        "sk-1234567890abcdef1234567890abcdef",
        "secret = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "token = <your-token-goes-right-here>",
        "nextPageToken: CAUQAA9fK3xLmZ81hGq2",
        "commit_sha: f94aaf24833e19802eb3e5af3b0a2d12732d7624",
        "cache_key = 8c9d0e1f2a3b4c5d6e7f8091a2b3c4d5",
        "a refresh_token: AccessTokenResponseFactory",
        "use Meta-Llama-3-8B-Instruct-Q4_K_M",
        "sk-learn-style-estimator-with-options",
        "xoxo-hugs-and-kisses",
    ],
    "private_key": ["-----BEGIN PUBLIC KEY-----", "BEGIN PRIVATE KEY", "-----BEGIN CERTIFICATE-----"],
    "jwt": ["eyJhbGciOiJI.c2ln", "eyJ.eyJ.x", "monkeyJhbGciOiJI.eyJzdWIiOiIx.c2ln"],
    "connection_string": [
        "postgres://user:password@localhost:5432/db",
        "postgres://postgres:postgres@db/prod",
        "https://user:${TOKEN}@github.com/x.git",
        "amqp://guest:guest@localhost",
        "redis://:<password>@cache:6379",
        "mongodb://{user}:{pw}@host/db",
        "mysql://root:***@10.1.2.3/shop",
        "http://localhost:8080/a?mail=x@corp.example",
        "git@github.com:org/repo.git",
        "ssh://git@host.corp.example:22/x",
        "docker://alpine:3.18@sha256:0123456789abcdef",
        "Server=db;Password=${PW};",
        "host=db user=app password=secret dbname=x",
    ],
    "authorization": [
        'headers = {"Authorization": f"Bearer {token}"}',
        "Authorization: Bearer YOUR_ACCESS_TOKEN_HERE",
        "Authorization: Bearer <token>",
        "Authorization: Basic dXNlcjpwYXNzd29yZA==",
        "curl -u user:password https://api.corp.example",
        "the bearer of bad news",
        "a basic understanding of algorithms",
        "Authorization: AWS4-HMAC-SHA256",
        "use a token implementation_with_refresh_support",
        "Cookie: theme=dark",
    ],
    "password": [
        "password = get_password()",
        "password: str = Field(...)",
        'password: "${DB_PASSWORD}"',
        "password=changeme123",
        "password=your_password1",
        "new_password=form.new_password2",
        "if password != confirm_password2:",
        "PASSWORD=$PASSWORD",
        "password_hash: sha256",
        "Forgot your password? It is easy.",
        "the password is required",
        'PASSWORD_HASHERS = ["argon2"]',
        "the compass: NNW-12",
        "password: P@ssw0rd",
        "passport: C01X00T47",
        "func_pass_statement = body[0]",
        "password policy: at least 12 characters",
        "pass through 7bit",
    ],
    "credit_card": [
        "4111 1111 1111 1112",
        "4111 1111 1111",
        "0000 0000 0000 0000",
        "6666666666666",
        "1111 1111 1111 1117",
        "9111 1111 1111 1111",
        "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20",
        "3.4111111111111111",
        "94111111111111111 1",
        "41111111111111110000000",
        "2024-01-05 12:00:00",
        "id 4111-1111-1111-1111-2222",
        "f4111111111111111e",
        "sha256:4111111111111111" + "0123456789abcdef" * 3,
        "ab4f 4111 1111 1111 1111 9c0d",
        "00000010: 4111 1111 1111 1111 3132 3334 3536 3738  A",
        "4242 4242 4242 4242 is the test card",
        "/v1/items/4111111111111111",
        "2019\t2020\t2021\t2022",
        "1732743797123 20261127214317",
        "EAN 4006381333931",
    ],
    "iban": [
        "DE89 3704 0044 0532 0130 01",
        "DE89 3704 0044 0532 0130",
        "XX89 3704 0044 0532 0130 00",
        "AB12 please pay to the order of whoever comes by",
        "EU27 countries agreed on twelve points of order",
        "DE893704004405",
        "aDE89370400440532013000b",
        "DE89370400440532013000x9",
        "ae07ad12-be68-4539-be68-ad1200012030",
    ],
    "us_ssn": [
        "000-12-3456",
        "666-12-3456",
        "900-12-3456",
        "123-00-4567",
        "123-45-0000",
        "123-456-789",
        "1123-45-6789",
    ],
    "email": [
        "git@github.com:org/repo.git",
        "noreply@github.com",
        "you@example.com",
        "jane@mail.example.org",
        "bot <1+bot@users.noreply.github.com>",
        "root@web1.corp.example:~# ls",
        "icon@2x.png",
        "getty@tty1.service",
        "react@18.2.0",
        "deploy@10.0.0.5:/srv",
        "@app.route('/x')",
        "user@domain.com",
        "me@localhost",
        "a@b",
        "@handle",
        "user at example.com",
        "a@b.c",
        "x@.com",
        "git@:path",
    ],
    "phone": [
        "+1 2",
        "+12 34 56 78",
        "+999 9999 9999 9999 9999 9999",
        "2024-01-05",
        "1.234.567",
        "192.168.100.200",
        "3.1415926535",
        "call 911",
        "v1.2.3-456-7890x",
        "solve 415 - 555 - 2671",
        "range 300-400-5000",
        "order 1000234567",
        "customer no. 10000000045",
        "1732743797",
        "1 234 567 890",
        "Boston, MA 02110-1301",
        "27.11.2026 21:43",
        "05/2026 123456",
        "01 02 03 04 05",
        "00000000  01 42 68 53 00 11 22 33",
        "0023660 19038 63350 34974",
        "26708 98765 43210 28532",
        "id 13800138000",
        "00546925-7561-f2fa-2695-2c003f6c5000",
        "12345",
    ],
}


@pytest.mark.parametrize("name, text", [(name, text) for name, texts in FOUND.items() for text in texts])
def test_found(name: str, text: str) -> None:
    assert find(name, text) == name


@pytest.mark.parametrize("name, text", [(name, text) for name, texts in ONLY_ALIKE.items() for text in texts])
def test_only_alike(name: str, text: str) -> None:
    assert find(name, text) is None


def test_every_detector_has_cases() -> None:
    assert set(FOUND) == set(ONLY_ALIKE) == set(DETECTORS)


# --- where it looks -----------------------------------------------------------------------------

MAIL = "me@corp.example"


@pytest.mark.parametrize(
    "document",
    [
        {"messages": [{"role": "user", "content": MAIL}]},
        {"messages": [{"role": "system", "content": f"x {MAIL}"}, {"role": "user", "content": "hi"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": MAIL}]}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": json.dumps({"to": MAIL})}}]}]},
        {"messages": [{"role": "tool", "content": MAIL}]},
        {"tools": [{"function": {"description": MAIL}}]},
        {"tools": [{"function": {"parameters": {"properties": {MAIL: {}}}}}]},
        {"user": MAIL},
        {"metadata": {"deep": [[[{"a": (MAIL,)}]]]}},
        {MAIL: 1},
        {"messages": [{"content": [{"type": "image_url", "image_url": {"url": f"https://x.example/?u={MAIL}"}}]}]},
        {"messages": [{"content": [{"type": "file", "file": {"file_data": f"data:text/plain,{MAIL}"}}]}]},
        {"lone": f"\ud800{MAIL}"},
        {"lone": f"\udfff {MAIL} \ud83d"},
        {"emoji": f"😀{MAIL}😀"},
        {"control": f"\x00\x1f{MAIL}"},
        {"url": f"data:image/png;base64,{MAIL}"},
        {"text": f"data:image/ is how it begins, {MAIL} is in it"},
        {"url": f"data:image/svg+xml;utf8,<svg><text>{MAIL}</text></svg>"},
        {"url": f"data:image/{MAIL};base64,AAAA"},
        (("role", "user"), ("content", MAIL), ("content", "hi")),
    ],
)
def test_it_looks_everywhere(document: dict[str, Any]) -> None:
    assert ALL.find(document) == "email"


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"input_audio": {"data": "data:audio/wav;base64," + "A" * 1000}},
        {"a": None, "b": 1, "c": 1.5, "d": True, "e": []},
        {"a": "me@exam", "b": "ple.com"},
        {"n": 411111111, "m": -4111111111111111, "f": 4.111111111111111},
        {"f": [1e300, float("inf"), float("nan"), -4111111111111111.0]},
        {"file_data": "data:application/pdf;base64," + base64.b64encode(b"\xff\x00" + MAIL.encode()).decode()},
    ],
)
def test_what_it_does_not_read(document: dict[str, Any]) -> None:
    assert ALL.find(document) is None


ARGUMENTS = {
    "iban": "Pay to\nDE89 3704 0044 0532 0130 00",
    "us_ssn": "Number\r\n123-45-6789",
    "api_key": "Key:\tAKIAABCDEFGHIJKLMNOP",
    "phone": "Call\n+49 30\u00a0123456",
    "credit_card": "4111\u00a01111\u00a01111\u00a01111",
    "email": "Mail to me@corp.example",
}


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_json_in_a_string_is_read_like_text(name: str, depth: int) -> None:
    """A tool's arguments: line ends and odd spaces are escapes there, with some writers `@` and `+` too."""
    text = ARGUMENTS[name]
    for _ in range(depth):
        text = json.dumps({"a": text})
    for arguments in (text, text.replace("@", "\\u0040").replace("+", "\\u002B")):
        assert find(name, arguments) == name


def test_numbers_are_read_too() -> None:
    assert ALL.find({"metadata": {"card": 4111111111111111}}) == "credit_card"
    assert ALL.find({"metadata": {"card": 4111111111111111.0}}) == "credit_card"
    assert ALL.find(json.loads('{"card": 4.111111111111111e15}')) == "credit_card"


@pytest.mark.parametrize("head", ["image/png,", "image/png;base64,", "audio/x;a=b,", "image/png;base64,x,"])
@pytest.mark.parametrize(
    "name, text", [("credit_card", "4111111111111111"), ("iban", "DE89370400440532013000"), ("phone", "+442071838750")]
)
def test_a_data_url_that_is_no_image_is_text(name: str, text: str, head: str) -> None:
    assert ALL.find({"image_url": {"url": f"data:{head}{text}"}}) == name


@pytest.mark.parametrize(
    "kind", ["text/plain", "TEXT/CSV", "application/json", "text/plain;charset=utf-8", "image/svg+xml", ""]
)
@pytest.mark.parametrize("padded", [True, False])
def test_a_file_that_is_text_is_read(kind: str, padded: bool) -> None:
    content = base64.b64encode(f"name\n{MAIL}".encode()).decode()
    url = f"data:{kind};base64,{content if padded else content.rstrip('=')}"
    assert ALL.find({"content": [{"type": "file", "file": {"file_data": url}}]}) == "email"


def test_a_text_file_need_not_be_utf_8() -> None:
    content = base64.b64encode(f"grüße {MAIL}".encode("latin-1")).decode()
    assert ALL.find({"file_data": f"data:text/plain;base64,{content}"}) == "email"


def test_all_documents_are_read() -> None:
    assert ALL.find({"a": "x"}, {"b": MAIL}) == "email"


def said_in(*parts: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": part} for part in parts]}]}


# Each is private by itself; the other texts would make a row of numbers or a longer number of it in one text.
PRIVATE = {"credit_card": "4539 1488 0343 6467", "us_ssn": "123-45-6789", "iban": IBAN, "phone": "(212) 736-5000"}
BESIDE = ("1234", "5678", "9999", "1111", "2222", "0a1b", "555", "-")


@pytest.mark.parametrize("place", range(len(BESIDE) + 1))
@pytest.mark.parametrize("name", PRIVATE)
def test_other_texts_hide_nothing(name: str, place: int) -> None:
    parts = (*BESIDE[:place], PRIVATE[name], *BESIDE[place:])
    detectors = Detectors(SensitivityRules((name,)))
    assert detectors.find(said_in(*parts)) == name
    assert detectors.find({"messages": [said_in(part) for part in parts]}) == name


def test_every_process_finds_the_same() -> None:
    """The order of the texts is that of the document: that of a set would differ from process to process."""
    document = {"z": ["b", {"y": "a", "x": ["c", "b"]}, 4539148803436467], "b": {"a": "d"}}
    assert list(texts(document)) == ["z", "b", "y", "x", "a", "c", "4539148803436467", "d"]


def test_nesting_cannot_break_it() -> None:
    document: Any = MAIL
    for _ in range(100_000):
        document = [document]
    assert ALL.find({"x": document}) == "email"


def test_the_first_detector_in_the_policys_order_is_named() -> None:
    both = {"a": MAIL, "b": "123-45-6789"}
    assert Detectors(SensitivityRules(("us_ssn", "email"))).find(both) == "us_ssn"
    assert Detectors(SensitivityRules(("email", "us_ssn"))).find(both) == "email"


def test_without_detectors_nothing_is_found() -> None:
    assert Detectors(SensitivityRules()).find({"a": MAIL}) is None


# --- the operator's own patterns ----------------------------------------------------------------


@pytest.mark.parametrize(
    "pattern, text, found",
    [
        ("(?i)project bluebird", "about Project BlueBird", "patterns[0]"),
        ("(?i)project bluebird", "about bluebird", None),
        (r"\bACME-\d{4}\b", "see ACME-1234.", "patterns[0]"),
        (r"\bACME-\d{4}\b", "see ACME-12345.", None),
        ("Müller|Ωμέγα", "frau müller, Ωμέγα", "patterns[0]"),
        ("^geheim", "nicht geheim", None),
        ("^geheim", "geheim!", "patterns[0]"),
        ("^geheim", "eins\ngeheim!", "patterns[0]"),
        ("geheim$", "es ist geheim", "patterns[0]"),
        ("Plan \u2013 B", "Plan \u2013 B", "patterns[0]"),
        ("Plan - B", "Plan\u00a0\u2013\u00a0B", "patterns[0]"),
        ("geheim$", "geheim ist es", None),
    ],
)
def test_own_patterns(pattern: str, text: str, found: str | None) -> None:
    assert Detectors(SensitivityRules((), (pattern,))).find({"a": text}) == found


def test_own_patterns_are_numbered_behind_the_detectors() -> None:
    rules = Detectors(SensitivityRules(("email",), ("nothing", "bluebird")))
    assert rules.find({"a": "bluebird"}) == "patterns[1]"
    assert rules.find({"a": f"bluebird {MAIL}"}) == "email"


@pytest.mark.parametrize("pattern", ["a+", "(?i)x", r"\d{3}", "a" * 1000, "ä"])
def test_patterns_that_may_be_used(pattern: str) -> None:
    check_pattern(pattern)


@pytest.mark.parametrize(
    "pattern, said",
    [
        ("", "must be a regular expression in quotes"),
        (None, "must be a regular expression in quotes"),
        (12, "must be a regular expression in quotes"),
        ("a" * 1001, "is longer than 1000 characters"),
        ("(a", "is not a pattern RE2 takes: missing ): (a"),
        ("a**", "is not a pattern RE2 takes: bad repetition operator: **"),
        (r"(a)\1", r"is not a pattern RE2 takes: invalid escape sequence: \1"),
        ("(?=a)", "is not a pattern RE2 takes: invalid perl operator: (?="),
        ("a*", "matches the empty text: every request would be private"),
        ("a|", "matches the empty text: every request would be private"),
        ("^", "matches the empty text: every request would be private"),
    ],
)
def test_patterns_that_may_not(pattern: object, said: str) -> None:
    with pytest.raises(PatternError) as caught:
        check_pattern(pattern)
    assert str(caught.value) == said


# --- cost ---------------------------------------------------------------------------------------

HARD = {
    "digits": "1",
    "spaced digits": "1 2 3 ",
    "cards but for the check digit": "4111 1111 1111 1112 ",
    "cards but for their end": "4111 1111 1111 11x ",
    "IBANs but for the check digit": "DE89 3704 0044 0532 0130 01 ",
    "countries": "DE89",
    "mails without an end": "a@b.",
    "dots": "a.",
    "phones without an end": "+1 (0 ",
    "key prefixes": "sk-a-",
    "tokens without an end": "eyJaaaaaaaaa.",
    "numbers never issued": "000-00-0000 ",
    "dashes": "-----BEGIN ",
    "wide": "ä4",
    "backslashes": "\\",
    "escapes": "\\u00a0",
}


@pytest.mark.parametrize("piece", HARD.values(), ids=HARD)
def test_time_grows_with_the_text_and_no_faster(piece: str) -> None:
    """Sixteen times the text may take sixteen times as long (with room for noise), not 256 times."""

    def seconds(size: int) -> float:
        document = {"a": (piece * (size // len(piece) + 1))[:size]}
        took = []
        for _ in range(5):
            began = time.process_time()
            ALL.find(document)
            took.append(time.process_time() - began)
        return min(took)

    small, large = seconds(30_000), seconds(480_000)
    assert large < 16 * 4 * max(small, 0.001)


@pytest.mark.parametrize("name", ["credit_card", "iban", "us_ssn", "phone"])
def test_many_candidates_are_not_taken_for_a_finding(name: str) -> None:
    wrong = {
        "credit_card": "4111 1111 1111 1112, ",
        "iban": "DE89 3704 0044 0532 0130 01, ",
        "us_ssn": "000-12-3456, ",
        "phone": "+999 9999 9999, ",
    }
    assert find(name, wrong[name] * 5000) is None
    assert find(name, wrong[name] * 5000 + FOUND[name][0]) == name


def test_between_many_candidates_others_have_their_turn() -> None:
    turns = []
    card = Detectors(SensitivityRules(("credit_card",)))
    assert card.find({"a": "4111 1111 1111 1112, " * 5000}, pause=lambda: turns.append(1)) is None
    assert 9 <= len(turns) <= 80


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=40)
@given(st.dictionaries(st.text(max_size=5), _JSON, max_size=4))
def test_any_document_is_read(document: dict[str, Any]) -> None:
    assert ALL.find({**document, "last": MAIL}) in DETECTORS
