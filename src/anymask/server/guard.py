"""The gate before every route: who may ask, from where, and how much. Plain ASGI, nothing is buffered here.

A page of another site must not reach a server on somebody's own machine (DNS rebinding, cross-site requests): the Host
must be a name of this machine, and an Origin must be our own. There is no CORS, so no other page can read an answer.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.exceptions import HTTPException

from anymask.server.settings import Settings, is_loopback

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "anymask-token"
POLICY = (
    "default-src 'self'; script-src 'self' 'wasm-unsafe-eval' blob:; worker-src 'self' blob:; "
    "img-src 'self' blob: data:; connect-src 'self' blob: data:; style-src 'self' 'unsafe-inline'; "
    "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = [
    # the first two give the page shared memory, which threaded WebAssembly needs
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-embedder-policy", b"require-corp"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
SAFE = ("GET", "HEAD", "OPTIONS")


class TooLargeError(HTTPException):
    """More bytes came than the route takes."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            413,
            f"expected at most {limit:,} bytes here, more came. Send less, or start the server with a higher limit.",
        )


class Guard:
    """Checks Host, Origin and token, bounds the body, adds the security headers."""

    def __init__(self, app: App, settings: Settings) -> None:
        self._app, self._settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        started = False

        async def send_guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message = {**message, "headers": [*message.get("headers", []), *HEADERS]}
            await send(message)

        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await _answer(send_guarded, *refusal)
            return
        if self._settings.token is not None and await self._took_token_from_address(scope, send_guarded):
            return
        carries_photo = scope["path"] in ("/api/images", "/label-studio/predict")
        limit = self._settings.upload_bytes if carries_photo else self._settings.json_bytes
        announced = headers.get("content-length", "0")
        if announced.isdigit() and int(announced) > limit:
            await _answer(send_guarded, 413, TooLargeError(limit).detail)
            return
        received = 0

        async def receive_bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise TooLargeError(limit)
            return message

        try:
            await self._app(scope, receive_bounded, send_guarded)
        except TooLargeError as error:
            if not started:
                await _answer(send_guarded, 413, error.detail)

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        """Status and reason, or None where the request may pass."""
        host = headers.get("host", "")
        if self._settings.is_private and not is_loopback(_name_of(host)):
            return 403, f"this server answers to localhost only, not to {host!r:.80}."
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return 403, "requests from pages of other sites are refused."
        site = headers.get("sec-fetch-site", "same-origin")
        if scope["method"] not in SAFE and site not in ("same-origin", "none"):
            return 403, "requests from pages of other sites are refused."
        if self._settings.token is not None and scope["path"] != "/api/health":
            given = _token_of(scope, headers)
            if given is None or not hmac.compare_digest(given.encode(), self._settings.token.encode()):
                return 401, "a token is needed: open the address that the server printed, or send it as Bearer."
        return None

    async def _took_token_from_address(self, scope: Scope, send: Send) -> bool:
        """`/?token=…` becomes a cookie and a clean address, so that the token does not stay in the history."""
        query = parse_qsl(scope["query_string"].decode("latin-1"))
        if scope["path"] != "/" or "token" not in dict(query):
            return False
        rest = urlencode([(key, value) for key, value in query if key != "token"])
        cookie = f"{COOKIE}={self._settings.token}; Path=/; HttpOnly; SameSite=Strict"
        address = f"/?{rest}" if rest else "/"
        headers = [(b"location", address.encode()), (b"set-cookie", cookie.encode())]
        await send({"type": "http.response.start", "status": 303, "headers": headers})
        await send({"type": "http.response.body", "body": b""})
        return True


def _token_of(scope: Scope, headers: dict[str, str]) -> str | None:
    kind, _, value = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    if kind.lower() == "basic":  # as Label Studio can; the user's name does not matter
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except ValueError:
            return None
    query = dict(parse_qsl(scope["query_string"].decode("latin-1")))
    if "token" in query:
        return query["token"]
    try:
        cookies = SimpleCookie(headers.get("cookie", ""))
    except CookieError:
        return None
    return cookies[COOKIE].value if COOKIE in cookies else None


def _name_of(host: str) -> str:
    """The name in a Host header, without the port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


async def _answer(send: Send, status: int, reason: str) -> None:
    import json

    body = json.dumps({"detail": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 413:
        headers.append((b"connection", b"close"))  # what is still coming is not read
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
