"""Where the store's tests run: a SQLite file, and a PostgreSQL server of their own in a temporary folder."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def postgresql_programs() -> Path | None:
    """Folder with initdb and postgres, Debian's or that of the PATH; None where it is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).parent if on_path else None


@contextmanager
def postgresql_server(programs: Path, folder: Path) -> Iterator[str]:
    """A running server on a free port of this machine; gives the URL of its first database."""
    who = _unprivileged()
    data = folder / "data"
    data.mkdir(parents=True)
    if "user" in who:
        for part in (data, *folder.parents[:1], folder):
            part.chmod(0o755)
        shutil.chown(data, who["user"])
        shutil.chown(folder, who["user"])
    options = ["--auth=trust", "--username=tester", "--no-sync", "--encoding=UTF8", "--locale=C"]
    subprocess.run([programs / "initdb", "-D", data, *options], check=True, capture_output=True, cwd=data, **who)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    control = [programs / "pg_ctl", "-D", data, "-w", "-l", folder / "log"]
    settings = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c max_connections=60 -F"
    subprocess.run([*control, "-o", settings, "start"], check=True, stdout=subprocess.DEVNULL, cwd=data, **who)
    try:
        yield f"postgresql://tester@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=True, stdout=subprocess.DEVNULL, cwd=data, **who)


def _unprivileged() -> dict[str, str]:
    """The server refuses to run as root: the user that its package made, else nobody."""
    if os.getuid() != 0:
        return {}
    names = {entry.pw_name for entry in pwd.getpwall()}
    return {"user": "postgres" if "postgres" in names else "nobody"}
