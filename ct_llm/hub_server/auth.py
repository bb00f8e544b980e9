"""Users, tokens and signed upload links.

The database holds only SHA-256 hashes of tokens: whoever reads the file cannot impersonate anyone. A
plain hash is enough because a token is 256 random bits, not a password.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import sqlite3
import string
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlencode

from ct_llm.errors import InputError
from ct_llm.hub_server.database import Database
from ct_llm.hub_server.wire import forbidden, unauthorised

ADMIN = "local"
TOKEN_FILE = "token"
SIGNING_KEY_FILE = "signing.key"
UPLOAD_LINK_SECONDS = 6 * 3600

Role = Literal["read", "write"]

_USER_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,38}[A-Za-z0-9])?")
# These would shadow the server's own first path segment.
RESERVED_NAMES = frozenset({"api", "datasets", "models", "spaces", "lfs", "v1"})


@dataclass(frozen=True)
class Identity:
    """Who sends a request, and what the token allows."""

    user: str
    role: str
    is_admin: bool

    def owns(self, namespace: str) -> bool:
        return self.is_admin or self.user == namespace


def is_valid_namespace(name: str) -> bool:
    return _USER_NAME.fullmatch(name) is not None and name.lower() not in RESERVED_NAMES


def create_user(root: Path, user: str) -> None:
    """Add a user without any token; does nothing when the user exists.

    Raises:
        InputError: the name cannot be a namespace, or `root` is not a hub's folder.
    """
    if not is_valid_namespace(user):
        raise InputError(
            f"User name {user!r} is not usable as a namespace. Use 1-40 letters, digits, '-', '_' or "
            f"'.', starting and ending with a letter or digit, and none of {sorted(RESERVED_NAMES)}."
        )
    with closing(_open_existing(root)) as database:
        _ensure_user(database, user)


def add_token(root: Path, user: str, role: Role = "read") -> str:
    """Create a token for `user` (created if new) and return it; it cannot be read back later.

    May be called while a server runs on `root`.

    Raises:
        InputError: unknown role, unusable user name, or `root` is not a hub's folder.
    """
    if role not in ("read", "write"):
        raise InputError(f"Token role {role!r} is unknown. Use 'read' or 'write'.")
    create_user(root, user)
    with closing(_open_existing(root)) as database:
        token = _new_token()
        _keep_token(database, token, user, role)
        return token


def ensure_admin(root: Path, database: Database) -> str:
    """The admin's write token, made at the root's first start and reused from ROOT/token later."""
    path = root / TOKEN_FILE
    if not path.exists():
        write_secret(path, _new_token().encode("ascii"))
    token = path.read_text(encoding="ascii").strip()
    _ensure_user(database, ADMIN, is_admin=True)
    # The file comes first and decides: a kill between the two steps heals at the next start.
    _keep_token(database, token, ADMIN, "write")
    return token


def authenticate(database: Database, authorization: str | None) -> Identity | None:
    """The identity behind an Authorization header; None when there is no header.

    Raises:
        WireError: 401 when a header is there and its token is not known.
    """
    if authorization is None:
        return None
    scheme, _, token = authorization.partition(" ")
    row = None
    if scheme.lower() == "bearer":
        row = database.row(
            "SELECT users.name, users.is_admin, tokens.role FROM tokens"
            " JOIN users ON users.name = tokens.user WHERE tokens.hash = ?",
            (_hash(token.strip()),),
        )
    if row is None:
        raise unauthorised("Invalid user token: this server does not know it.")
    return Identity(row["name"], row["role"], bool(row["is_admin"]))


def require_identity(identity: Identity | None) -> Identity:
    """Raises 401 for an anonymous request."""
    if identity is None:
        raise unauthorised("A token is required here: send 'Authorization: Bearer hf_...'.")
    return identity


def require_write_token(identity: Identity | None) -> Identity:
    """Raises 401 for an anonymous request and 403 for a token that may only read."""
    known = require_identity(identity)
    if known.role != "write":
        raise forbidden(
            f"The token of user '{known.user}' has role 'read'; a write token is needed."
        )
    return known


class LinkSigner:
    """Signs the upload links of the LFS batch call, as the PUT carries no token."""

    def __init__(self, root: Path) -> None:
        # Kept on disk so that an upload begun before a restart can still be finished after it.
        path = root / SIGNING_KEY_FILE
        if not path.exists():
            write_secret(path, secrets.token_bytes(32))
        self._key = path.read_bytes()

    def sign(self, repo_id: str, oid: str, size: int, *, now: float | None = None) -> str:
        """The query string that allows one repo to receive exactly this object until it expires."""
        expires = int(time.time() if now is None else now) + UPLOAD_LINK_SECONDS
        signature = self._signature(repo_id, oid, size, expires)
        return urlencode(
            {"repo": repo_id, "size": size, "expires": expires, "signature": signature}
        )

    def check(self, oid: str, query: dict[str, str]) -> tuple[str, int]:
        """The (repo id, size) that a link was signed for.

        Raises:
            WireError: 403 when the link is forged, altered or expired.
        """
        try:
            repo_id, signature = query["repo"], query["signature"]
            size, expires = int(query["size"]), int(query["expires"])
        except (KeyError, ValueError) as error:
            raise forbidden("Upload link is incomplete: request a new LFS batch.") from error
        expected = self._signature(repo_id, oid, size, expires)
        if not hmac.compare_digest(expected.encode(), signature.encode()):
            raise forbidden("Upload link is not signed by this server: request a new LFS batch.")
        if expires < time.time():
            raise forbidden("Upload link has expired: request a new LFS batch.")
        return repo_id, size

    def _signature(self, repo_id: str, oid: str, size: int, expires: int) -> str:
        message = f"{repo_id}\n{oid}\n{size}\n{expires}".encode()
        return hmac.new(self._key, message, hashlib.sha256).hexdigest()


def write_secret(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, complete or not at all."""
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    temporary.touch(mode=0o600, exist_ok=False)
    temporary.write_bytes(content)
    temporary.replace(path)


def _open_existing(root: Path) -> Database:
    try:
        if not root.is_dir():
            raise InputError(f"{root} is not a hub's folder. Start `ct-llm hub serve` on it first.")
        return Database(root)
    except sqlite3.Error as error:
        raise InputError(f"{root} holds no readable hub database: {error}.") from error


def _ensure_user(database: Database, user: str, *, is_admin: bool = False) -> None:
    database.execute(
        "INSERT INTO users (name, is_admin, created_at) VALUES (?, ?, ?)"
        " ON CONFLICT (name) DO NOTHING",
        (user, is_admin, time.time()),
    )


def _new_token() -> str:
    # The Hub's tokens are letters and digits only, and some clients check that.
    alphabet = string.ascii_letters + string.digits
    return "hf_" + "".join(secrets.choice(alphabet) for _ in range(43))


def _keep_token(database: Database, token: str, user: str, role: Role) -> None:
    database.execute(
        "INSERT INTO tokens (hash, user, role, created_at) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (hash) DO NOTHING",
        (_hash(token), user, role, time.time()),
    )


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
