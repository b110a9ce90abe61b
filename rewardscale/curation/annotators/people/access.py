"""Who may open the page: tokens, sessions, and the mark that a write must carry.

Tokens and sessions are 256 random bits each and are stored as hashes, so whoever reads the database cannot log in with
it. The database's files are for their owner alone.
"""

import dataclasses
import hashlib
import hmac
import os
import re
import secrets
import sqlite3
import time
import urllib.parse
from pathlib import Path
from typing import Literal

from rewardscale.data.comparison import DataError
from rewardscale.data.ledger.database import PeopleStore
from rewardscale.data.ledger.ledger import Ledger

Role = Literal["annotator", "lead"]
SESSION_SECONDS = 30 * 86400.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TABLES = """
CREATE TABLE IF NOT EXISTS page_secrets (
    name TEXT PRIMARY KEY,
    value BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS page_people (
    name TEXT PRIMARY KEY,
    role TEXT NOT NULL CHECK (role IN ('annotator', 'lead')),
    token BLOB UNIQUE,                      -- hash; NULL: revoked
    created REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS page_sessions (
    id BLOB PRIMARY KEY,                    -- hash
    name TEXT NOT NULL REFERENCES page_people (name),
    expires REAL NOT NULL
);
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Person:
    """Somebody who has logged in. `csrf` is what this session's writes must carry."""

    name: str
    role: Role
    csrf: str


def open_store(directory: Path) -> PeopleStore:
    """The ledger's database with the page's tables, readable by its owner alone. Raises DataError as PeopleStore."""
    ledger = Ledger(Path(directory))
    ledger.directory.mkdir(parents=True, exist_ok=True)
    path = ledger.directory / "people.sqlite"
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # SQLite gives the files beside it the same mode
    for name in (path, *ledger.directory.glob("people.sqlite-*")):
        os.chmod(name, 0o600)
    store = ledger.database()
    with store.transaction() as connection:
        for statement in _TABLES.split(";\n"):
            connection.execute(statement)
        for name in ("order", "csrf"):
            connection.execute(
                "INSERT OR IGNORE INTO page_secrets VALUES (?, ?)", (name, secrets.token_bytes(32))
            )
    return store


def secret(connection: sqlite3.Connection, name: str) -> bytes:
    """A key that never leaves the database: "order" or "csrf"."""
    return connection.execute("SELECT value FROM page_secrets WHERE name = ?", (name,)).fetchone()[0]


def create(store: PeopleStore, name: str, role: Role = "annotator") -> str:
    """Makes an annotator or a lead, or gives them a new token: the old one and its sessions end. Returns the token.

    Raises DataError for a name that will not do, or one that has the other role.
    """
    if not _NAME.fullmatch(name):
        raise DataError(
            f"{name!r} is no name for an annotator: 1 to 64 letters, digits, dots, dashes or underscores"
        )
    token = secrets.token_urlsafe(32)
    with store.transaction() as connection:
        known = connection.execute("SELECT role FROM page_people WHERE name = ?", (name,)).fetchone()
        if known and known[0] != role:
            raise DataError(f"{name} is known with the role {known[0]}; a {role} needs another name")
        connection.execute("DELETE FROM page_sessions WHERE name = ?", (name,))
        connection.execute(
            "INSERT INTO page_people VALUES (?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET token = excluded.token",
            (name, role, _hash(token), time.time()),
        )
    return token


def revoke(store: PeopleStore, name: str) -> None:
    """Ends a person's token and sessions; their verdicts stay. Raises DataError for a name that nobody has."""
    with store.transaction() as connection:
        connection.execute("DELETE FROM page_sessions WHERE name = ?", (name,))
        done = connection.execute("UPDATE page_people SET token = NULL WHERE name = ?", (name,))
        if not done.rowcount:
            raise DataError(f"nobody is called {name!r}; `status` lists the names")


def people(store: PeopleStore) -> list[tuple[str, str, bool]]:
    """(name, role, whether the token is good) of everybody, by name."""
    with store.transaction() as connection:
        found = connection.execute("SELECT name, role, token IS NOT NULL FROM page_people ORDER BY name")
        return [(name, role, bool(good)) for name, role, good in found]


def log_in(store: PeopleStore, token: str) -> str | None:
    """A new session for the owner of the token, or None if it is nobody's."""
    session = secrets.token_urlsafe(32)
    with store.transaction() as connection:
        connection.execute("DELETE FROM page_sessions WHERE expires < ?", (time.time(),))
        found = connection.execute("SELECT name FROM page_people WHERE token = ?", (_hash(token),)).fetchone()
        if found is None:
            return None
        connection.execute(
            "INSERT INTO page_sessions VALUES (?, ?, ?)",
            (_hash(session), found[0], time.time() + SESSION_SECONDS),
        )
    return session


def log_out(store: PeopleStore, session: str) -> None:
    """Ends a session."""
    with store.transaction() as connection:
        connection.execute("DELETE FROM page_sessions WHERE id = ?", (_hash(session),))


def person(store: PeopleStore, session: str | None) -> Person | None:
    """Whose session this is; None for one that has ended or never was."""
    if not session:
        return None
    with store.transaction() as connection:
        found = connection.execute(
            "SELECT name, role FROM page_sessions JOIN page_people USING (name) WHERE id = ? AND expires > ?",
            (_hash(session), time.time()),
        ).fetchone()
        if found is None:
            return None
        mark = hmac.new(secret(connection, "csrf"), session.encode(), hashlib.sha256).hexdigest()
    return Person(found[0], found[1], mark)


def csrf_is_right(given: str, person: Person) -> bool:
    """Whether a write carries its session's mark; takes as long for any wrong one."""
    return hmac.compare_digest(given.encode(), person.csrf.encode())


def link(url: str, token: str) -> str:
    """The link that logs in the owner of the token."""
    return f"{url}/login?{urllib.parse.urlencode({'token': token})}"


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
