"""A PostgreSQL of our own: in a temporary folder, reached by its socket there, ended when the tests are.

Needs `initdb` and `pg_ctl` (Debian: postgresql).  PostgreSQL refuses to run as root: then it runs as another user.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

_DEBIAN = "/usr/lib/postgresql"
_USERS = ("postgres", "nobody")


class Postgres:
    """`with Postgres() as server: server.database("name")` makes a database and gives its LLR_DB."""

    def __init__(self) -> None:
        self._user = next(name for name in _USERS if _exists(name)) if os.getuid() == 0 else None
        self._folder = Path(tempfile.mkdtemp(prefix="llr-pg-"))  # a short path: sockets allow 107 bytes
        if self._user:
            shutil.chown(self._folder, self._user)
        self._data = self._folder / "data"

    def __enter__(self) -> Postgres:
        self._run("initdb", "-D", self._data, "-U", "llr", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._folder)

    def start(self) -> None:
        options = f"-k {self._folder} -c listen_addresses= -c fsync=off"
        self._run("pg_ctl", "-D", self._data, "-w", "-l", self._folder / "log", "-o", options, "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", self._data, "-m", "immediate", "-w", "stop")

    def database(self, name: str) -> str:
        self._run("createdb", "-h", self._folder, "-U", "llr", name)
        return f"postgresql://llr:s3cret-pass@/{name}?host={self._folder}"

    def _run(self, program: str, *arguments: object) -> None:
        command = [_find(program), *map(str, arguments)]
        # No pipes: the server that pg_ctl leaves running would hold them open.
        with tempfile.TemporaryFile() as output:
            environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
            done = subprocess.run(
                command, user=self._user, env=environment, cwd=self._folder, stdout=output, stderr=output, check=False
            )
            output.seek(0)
            assert done.returncode == 0, output.read().decode(errors="replace")


def _find(program: str) -> str:
    newest: Sequence[Path] = sorted(Path(_DEBIAN).glob(f"*/bin/{program}"))
    found = shutil.which(program) or (str(newest[-1]) if newest else None)
    assert found, f"{program} is missing: install PostgreSQL (Debian: apt-get install postgresql)"
    return found


def _exists(user: str) -> bool:
    try:
        return bool(pwd.getpwnam(user))
    except KeyError:
        return False
