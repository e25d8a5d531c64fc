"""API keys: who may ask, told apart by name, compared in constant time, never logged."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.security import DOCS, refuse

CLIENT = "pocketgan.client"
"""Key of an ASGI scope under which stands who asks."""

OPEN_PATHS = ("/", "/healthz", "/readyz", DOCS, "/openapi.json")
"""What needs no key: the page, which asks its user for one, the probes, and what is public."""

OPEN_FOLDER = "/static/"

NO_KEY = "this server wants an API key: send it as Authorization: Bearer KEY or X-API-Key: KEY"
WRONG_KEY = "this API key is not one of this server's; ask whoever runs it for one"

KEY_PROTOCOL = "pocketgan.key."
"""Before a key among the subprotocols of a websocket: a browser can set no header there."""

ENTRY = re.compile(
    r"(?:(?P<name>[A-Za-z0-9._-]{1,64}):)?"
    r"(?:sha256:(?P<digest>[0-9a-f]{64})|(?P<key>[A-Za-z0-9._~-]{16,256}))"
)
"""A key is what a header and a subprotocol both carry as it is."""


@dataclass(frozen=True)
class ApiKeys:
    """The keys that are accepted; without any, nobody is asked for one.

    Attributes:
        digests: SHA-256 of each key, by the name of the client it was given to. A key has 16
            random characters or more, so that a fast hash protects it as well as a slow one.
    """

    digests: Mapping[str, bytes] = field(default_factory=dict)

    def client(self, key: str) -> str | None:
        """Whose key this is; None for nobody's. Takes as long for one as for the other."""
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        found = None
        for name, known in self.digests.items():
            if hmac.compare_digest(digest, known):
                found = name
        return found


def read_keys(listed: SecretStr | None, file: Path | None) -> ApiKeys:
    """Read the keys that the settings name.

    Args:
        listed: Keys between commas.
        file: A text file with one key on a line; ``#`` starts a comment. A key is 16 characters
            or more of ``A-Z a-z 0-9 . _ ~ -``, or ``sha256:`` and its digest in hexadecimal;
            ``NAME:`` before it names its client, which otherwise is ``key-1``, ``key-2`` ...

    Raises:
        ValueError: An entry that is none, a name or a key that is there twice, or a file with no
            key in it; the message holds no key.
        OSError: The file cannot be read.
    """
    entries = []
    if listed is not None:
        entries += [
            (f"POCKETGAN_API_KEYS, entry {number}", text.strip())
            for number, text in enumerate(listed.get_secret_value().split(","), 1)
        ]
    if file is not None:
        lines = [line.partition("#")[0].strip() for line in file.read_text("utf-8").splitlines()]
        found = [(f"{file}, line {n}", line) for n, line in enumerate(lines, 1) if line]
        if not found:
            # an empty file would open the server to everybody, which nobody means by naming one
            raise ValueError(
                f"{file} holds no API key: write one on a line, such as the output of "
                'python -c "import secrets; print(secrets.token_urlsafe(32))"'
            )
        entries += found
    digests: dict[str, bytes] = {}
    for where, text in entries:
        match = ENTRY.fullmatch(text)
        if match is None:
            raise ValueError(
                f"{where}: not an API key: it is NAME:KEY or KEY, of 16 characters or more of "
                "A-Z a-z 0-9 . _ ~ -, or NAME:sha256:DIGEST"
            )
        name = match["name"] or f"key-{len(digests) + 1}"
        if match["digest"]:
            digest = bytes.fromhex(match["digest"])
        else:
            digest = hashlib.sha256(match["key"].encode()).digest()
        if name in digests:
            raise ValueError(f"{where}: the name {name!r} is there already; give it another")
        if digest in digests.values():
            raise ValueError(f"{where}: this key is there already, under another name")
        digests[name] = digest
    return ApiKeys(digests)


def presented_key(scope: Scope) -> str | None:
    """The key that a request or a websocket shows; None where it shows none.

    ``Authorization: Bearer``, ``X-API-Key``, or for a websocket a subprotocol.
    """
    headers = Headers(scope=scope)
    kind, _, token = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and token.strip():
        return token.strip()
    if "x-api-key" in headers:
        return headers["x-api-key"].strip()
    offered: list[str] = scope.get("subprotocols", [])
    keys = [one.removeprefix(KEY_PROTOCOL) for one in offered if one.startswith(KEY_PROTOCOL)]
    return keys[0] if keys else None


class RequireKey:
    """Middleware that lets nobody in without a key, before a byte of a body is read.

    Whose key it was then stands in the scope, under `CLIENT`, for the queue to be fair by.
    """

    def __init__(self, app: ASGIApp, *, keys: ApiKeys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request or a websocket pass, with its client's name, or answer 401."""
        if scope["type"] in ("http", "websocket") and not _is_open(scope):
            key = presented_key(scope)
            client = None if key is None else self._keys.client(key)
            if client is None:
                why = NO_KEY if key is None else WRONG_KEY
                challenge = {"WWW-Authenticate": 'Bearer realm="pocketgan"'}
                await refuse(scope, receive, send, 401, why, challenge)
                return
            scope[CLIENT] = f"key {client}"
        await self._app(scope, receive, send)


def add_keys(app: FastAPI, keys: ApiKeys) -> None:
    """Ask everybody for a key, except for `OPEN_PATHS`; nobody where there are no keys.

    The API description then says so, and ``/docs`` has a button to give it one.
    """
    if not keys.digests:
        return
    app.add_middleware(RequireKey, keys=keys)
    without_keys = app.openapi

    def openapi() -> dict[str, Any]:
        description = without_keys()
        schemes = {"key": {"type": "http", "scheme": "bearer"}}
        description.setdefault("components", {})["securitySchemes"] = schemes
        for path, operations in description["paths"].items():
            if path not in OPEN_PATHS:
                for operation in operations.values():
                    operation["security"] = [{"key": []}]
        return description

    app.openapi = openapi  # type: ignore[method-assign]


def _is_open(scope: Scope) -> bool:
    path: str = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDER)
