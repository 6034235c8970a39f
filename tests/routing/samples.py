"""Invented private text: random keys of every kind in secrets.txt, sentences and files to put them into, and long texts
that hold nothing private."""

from __future__ import annotations

import base64
import random
import string
from collections.abc import Callable
from re import _constants as sre  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any

DIGITS, HEX = string.digits, "0123456789abcdef"
ALNUM = string.ascii_letters + string.digits
URL_SAFE = ALNUM + "-_"
_CATEGORIES = {sre.CATEGORY_WORD: ALNUM + "_", sre.CATEGORY_DIGIT: DIGITS, sre.CATEGORY_SPACE: " "}
_PRINTABLE = string.digits + string.ascii_letters + string.punctuation


def text_of(pattern: str, rng: random.Random) -> str:
    """Return a random text that the pattern matches as a whole."""
    return "".join(_pieces(_parser.parse(pattern), rng))


def _pieces(parsed: Any, rng: random.Random) -> Any:
    for operation, argument in parsed:
        if operation is sre.LITERAL:
            yield chr(argument)
        elif operation is sre.NOT_LITERAL:
            yield rng.choice(ALNUM)
        elif operation is sre.IN:
            yield rng.choice(_members(argument))
        elif operation is sre.MAX_REPEAT or operation is sre.MIN_REPEAT:
            fewest, most, inner = argument
            for _ in range(rng.randint(fewest, min(most, fewest + 4))):
                yield from _pieces(inner, rng)
        elif operation is sre.SUBPATTERN:
            yield from _pieces(argument[-1], rng)
        elif operation is sre.BRANCH:
            yield from _pieces(rng.choice(argument[1]), rng)
        elif operation is not sre.AT:
            raise AssertionError(f"{operation} is not known here")


def _members(parts: Any) -> str:
    chars = ""
    for operation, argument in parts:
        if operation is sre.LITERAL:
            chars += chr(argument)
        elif operation is sre.RANGE:
            chars += "".join(map(chr, range(argument[0], argument[1] + 1)))
        elif operation is sre.CATEGORY:
            chars += _CATEGORIES[argument]
    if parts[0][0] is sre.NEGATE:
        return "".join(char for char in _PRINTABLE if char not in chars)
    return chars


# --- text around a secret -----------------------------------------------------------------------

AROUND: dict[str, Callable[[str], str]] = {
    "alone": lambda key: key,
    "shell": lambda key: f"export SERVICE={key}\n",
    "quoted": lambda key: f"client = Client(value='{key}')",
    "json": lambda key: f'{{"name": "prod", "value": "{key}", "region": "eu"}}',
    "yaml": lambda key: f"service:\n  value: {key}\n",
    "csv": lambda key: f"id,name,value\n17,bot,{key}\n",
    "sentence": lambda key: f"Why does {key}, which worked yesterday, fail?",
    "chinese": lambda key: f"为什么{key}不能用",
    "log": lambda key: f"2026-11-20T08:11:02Z WARN request failed value={key} status=401",
    "markdown": lambda key: f"- `{key}` is the one\n- and another",
    "angle": lambda key: f"<value>{key}</value>",
}
NAMES = (
    "MISTRAL_API_KEY={}",
    'export MY_SERVICE_TOKEN="{}"', '"openai_api_key": "{}"', "mistralApiKey: {}", "X-Api-Key: {}",
    "app.secret-key = '{}'", "clientSecret='{}',", "const accessToken = '{}';", "db_credentials: {}", "--api-key {}",
    "<apiKey>{}</apiKey>", "os.environ['SOME_TOKEN'] = '{}'", '{{\\"authToken\\":\\"{}\\"}}', "setApiKey(\"{}\")",
    "AUTH_TOKEN => {}", "the token is {}", "- name: SIGNING_SECRET\n  value: {}",
)  # fmt: skip

# --- long texts without anything private --------------------------------------------------------


def _run(alphabet: str, length: int, rng: random.Random) -> str:
    return "".join(rng.choices(alphabet, k=length))


def _hex(length: int, rng: random.Random) -> str:
    return rng.randbytes(length // 2).hex()


def _uuid(rng: random.Random) -> str:
    return "-".join(_hex(length, rng) for length in (8, 4, 4, 4, 12))


def _words(rng: random.Random, count: int = 6) -> str:
    words = (
        "fix add the parser for long lines test update docs remove unused value of key token in cache when it is full"
    )
    return " ".join(rng.choices(words.split(), k=count))


def _git_log(rng: random.Random) -> str:
    return (
        f"commit {_hex(40, rng)}\nAuthor: Some One <someone@users.noreply.github.com>\n"
        f"Date:   Tue Nov {rng.randint(1, 30)} 21:43:{rng.randint(10, 59)} 2026 +0100\n\n    {_words(rng)}\n\n"
        f"diff --git a/x.py b/x.py\nindex {_hex(8, rng)[:7]}..{_hex(8, rng)[:7]} 100644\n"
    )


def _lock_file(rng: random.Random) -> str:
    name, version = (
        _run(string.ascii_lowercase, 8, rng),
        f"{rng.randint(0, 20)}.{rng.randint(0, 99)}.{rng.randint(0, 9)}",
    )
    digest = base64.b64encode(rng.randbytes(64)).decode()
    return (
        f'    "node_modules/{name}": {{\n      "version": "{version}",\n'
        f'      "resolved": "https://registry.npmjs.org/{name}/-/{name}-{version}.tgz",\n'
        f'      "integrity": "sha512-{digest}"\n    }},\n'
        f'    {{file = "{name}.whl", hash = "sha256:{_hex(64, rng)}"}},\n'
        f"github.com/x/{name} v{version} h1:{base64.b64encode(rng.randbytes(32)).decode()}\n"
    )


def _uuids(rng: random.Random) -> str:
    return f"{_uuid(rng)}\n{_hex(32, rng)},{_uuid(rng).upper()}\n"


def _base64(rng: random.Random) -> str:
    return base64.encodebytes(rng.randbytes(57 * 20)).decode()


def _base64url(rng: random.Random) -> str:
    return base64.urlsafe_b64encode(rng.randbytes(3000)).decode()


def _base64url_lines(rng: random.Random) -> str:
    encoded = base64.urlsafe_b64encode(rng.randbytes(57 * 20)).decode()
    return "".join(encoded[place : place + 76] + "\n" for place in range(0, len(encoded), 76))


def _access_log(rng: random.Random) -> str:
    address = ".".join(str(rng.randint(1, 254)) for _ in range(4))
    time = f"27/Nov/2026:21:{rng.randint(10, 59)}:{rng.randint(10, 59)} +0100"
    path = f"/items/{rng.randint(1, 10**9)}?page={rng.randint(1, 99)}&id={_hex(24, rng)}"
    agent = f"Chrome/126.0.{rng.randint(1000, 9999)}.{rng.randint(10, 199)} Safari/537.36"
    sizes = f"{rng.randint(100, 999999)} {rng.randint(1, 99999)}"
    return f'{address} - - [{time}] "GET {path} HTTP/1.1" 200 {sizes} "-" "Mozilla/5.0 (X11; Linux) {agent}"\n'


def _dump(data: bytes, place: int) -> str:
    groups = " ".join(data[each : each + 2].hex() for each in range(0, 16, 2))
    shown = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in data)
    return f"{place:08x}: {groups}  {shown}\n"


def _hexdump(rng: random.Random) -> str:
    data = rng.choice((rng.randbytes(16), _run(DIGITS + "AB pq", 16, rng).encode()))
    single = " ".join(f"{byte:02x}" for byte in rng.randbytes(16))
    words = " ".join(f"{rng.randint(0, 65535):5d}" for _ in range(8))
    place = rng.randint(0, 10**6)
    return f"{_dump(data, 16 * place)}{16 * place:08x}  {single}\n{place % 2**15:06o}0 {words}\n"


def _placeholders(rng: random.Random) -> str:
    return rng.choice(
        (
            'client = OpenAI(api_key=os.environ["OPENAI_API_KEY"])\n', 'OPENAI_API_KEY = "sk-' + "x" * 40 + '"\n',
            "aws_access_key_id = AKIA" + "IOSFODNN7EXAMPLE\n", "api_key=settings_openai_api_key\n",
            "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY\n", 'token = "<your-token-here>"\n',
            "DATABASE_URL=postgres://user:password@localhost:5432/db\n", "password = get_password(user_id)\n",
            'headers = {"Authorization": f"Bearer {token}"}\n', "export GITHUB_TOKEN=ghp_" + "X" * 36 + "\n",
            "secretKeyRef: {name: my-application-secret, key: database-password}\n", 'password: "${DB_PASSWORD}"\n',
            "git clone git@github.com:org/repo.git\n", "const apiKey = process.env.ANTHROPIC_API_KEY;\n",
            "def refresh_access_token(self, refresh_token: str) -> TokenResponse:\n", "mail = 'you@example.com'\n",
            'PASSWORD_HASHERS = ["django.contrib.auth.hashers.Argon2PasswordHasher"]\n', "max_tokens: 4096\n",
            "cache_key = f'user:{user_id}:profile:v2'\n", "primaryKey: customer_subscription_identifier_v2\n",
            "nextPageToken: CAUQAA" + _run(ALNUM, 20, rng) + "\n", f"  {_words(rng)} # {_words(rng)}\n",
            f"commit_sha = '{_hex(40, rng)}'\n", f"cacheKey: {_hex(64, rng)}\n", "new_password=form.new_password2\n",
            "curl -u user:password https://api.example.com\n", "Authorization: Bearer YOUR_ACCESS_TOKEN_HERE\n",
            "spring.datasource.password=changeme123\n", 'pw = getpass.getpass("Password: ")\n',
            "password=your_password1\n",
            "use AbstractAuthenticationTokenFilterV2Factory\n", "use Meta-Llama-3-8B-Instruct-Q4_K_M\n",
            "https://user:${TOKEN}@github.com/org/repo.git\n", "redis://:password@localhost:6379/0\n",
        )
    )  # fmt: skip


def _numbers(rng: random.Random) -> str:
    row = [str(rng.randint(1000, 9999)) for _ in range(10)]
    return f"{' '.join(row)}\n{chr(9).join(row)}\n{rng.random()},{rng.random() * 1e6},{rng.randint(0, 10**10)}\n"


def _timestamps(rng: random.Random) -> str:
    seconds = 1_764_000_000 + rng.randint(0, 10**7)
    written = f"2026-11-27T21:43:17.{rng.randint(100, 999)}Z 20261127214317 27.11.2026 21:43"
    return f"{seconds} {seconds}123 {seconds}123456789 {written}\n"


BULK: dict[str, Callable[[random.Random], str]] = {
    "git log": _git_log,
    "lock file": _lock_file,
    "UUIDs": _uuids,
    "base64": _base64,
    "base64url": _base64url,
    "base64url in lines": _base64url_lines,
    "access log": _access_log,
    "hexdump": _hexdump,
    "code with placeholders": _placeholders,
    "table of numbers": _numbers,
    "timestamps": _timestamps,
}


def bulk(name: str, size: int, rng: random.Random) -> str:
    """Return a text of at least `size` characters."""
    pieces: list[str] = []
    length = 0
    while length < size:
        pieces.append(BULK[name](rng))
        length += len(pieces[-1])
    return "".join(pieces)
