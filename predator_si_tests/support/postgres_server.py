"""A real PostgreSQL server of this machine's own programs, on a free port of loopback, with a data folder of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from predator_si_tests.support.waiting import free_port, wait_until

PASSWORD = "wrong-outside-tests"
ABSENT = "PostgreSQL's programs initdb and postgres are not on PATH"


@dataclass(frozen=True)
class PostgresServer:
    """A running server; ``superuser`` is ``test`` and may do anything."""

    port: int
    folder: Path
    user: str = "test"
    password: str = PASSWORD
    database: str = "postgres"

    @property
    def address(self) -> str:
        """``host:port/database`` as a URL without any secret."""
        return f"postgresql://{self.user}@127.0.0.1:{self.port}/{self.database}"

    def connect(self, **changes: object):
        """A psycopg connection, autocommitting."""
        import psycopg

        given = {"host": "127.0.0.1", "port": self.port, "user": self.user, "password": self.password, "dbname": self.database, "connect_timeout": 10}
        return psycopg.connect(**{**given, **changes}, autocommit=True)


def postgres_is_here() -> bool:
    """Whether this machine has the server's programs."""
    return shutil.which("initdb") is not None and shutil.which("postgres") is not None


def _owner() -> tuple[dict[str, object], Path]:
    """Whom the server runs as, and where its data may lie: PostgreSQL refuses root, and that other user must be able to reach the folder."""
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    if os.geteuid() != 0:
        return {}, folder
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = names.get("postgres") or names["nobody"]
    os.chown(folder, entry.pw_uid, entry.pw_gid)
    folder.chmod(0o700)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}, folder


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Start a server with a fresh cluster, wait until it answers, and end it; its folder goes with it."""
    as_owner, folder = _owner()
    secret = folder / "password"
    secret.write_text(PASSWORD)
    secret.chmod(0o644)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"HOME": str(folder), "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    data, log = folder / "data", folder / "log"
    try:
        subprocess.run(
            ["initdb", "-D", str(data), "-U", "test", "-A", "scram-sha-256", f"--pwfile={secret}", "-E", "UTF8", "--no-sync"],
            check=True, capture_output=True, text=True, cwd=folder, env=environment, **as_owner,
        )  # fmt: skip
        port = free_port()
        fast = ["fsync=off", "synchronous_commit=off", "full_page_writes=off", "shared_buffers=16MB", "max_connections=20", "unix_socket_directories="]
        options = [part for setting in ("listen_addresses=127.0.0.1", *fast) for part in ("-c", setting)]
        with log.open("wb") as out:
            command = ["postgres", "-D", str(data), "-p", str(port), *options]
            process = subprocess.Popen(command, stdout=out, stderr=out, cwd=folder, env=environment, start_new_session=True, **as_owner)
        server = PostgresServer(port, folder)
        try:
            wait_until(lambda: _answers(server, process, log), 60, "an answer of PostgreSQL")
            yield server
        finally:
            process.send_signal(signal.SIGINT)  # its fast shutdown
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGQUIT)
                process.wait(timeout=10)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _answers(server: PostgresServer, process: subprocess.Popen[bytes], log: Path) -> bool:
    import psycopg

    if process.poll() is not None:
        raise AssertionError(f"PostgreSQL ended at once: {log.read_text(errors='replace')[-2000:]}")
    try:
        server.connect(connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True
