"""What every request passes before a route sees it: the key, the size of its body, an id for the answer.

Default-deny: a route is public only if it is named here. Pure ASGI, so that streams pass through untouched.
"""

import asyncio
import base64
import binascii
import contextlib
import hmac
import re
import uuid
from typing import Any

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slipstream.server.errors import ApiError, too_large

PUBLIC = ("/health/live",)
DISCARD_BYTES, DISCARD_SECONDS = 64 * 2**20, 10  # of a body that is too large
CHALLENGE = {"WWW-Authenticate": 'Basic realm="slipstream: any name, the API key as password", charset="UTF-8"'}


class Guard:
    """The outermost layer of the application.

    Args:
        app: what lies behind.
        api_key: None lets everybody in.
        body: bytes that a body may have.
    """

    def __init__(self, app: ASGIApp, api_key: str | None, body: int):
        self.app, self.body = app, body
        self._key = None if api_key is None else api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        given = headers.get(b"x-request-id", b"")
        name = given if re.fullmatch(rb"[\x21-\x7e]{1,128}", given) else uuid.uuid4().hex.encode()

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"x-request-id", name)]}
            await send(message)

        try:
            self._admit(scope["path"], headers)
            length = headers.get(b"content-length", b"")
            if length.isdigit() and int(length) > self.body:
                await discard(receive)
                raise too_large(self.body)
            await self.app(scope, self._measured(receive), named)
        except ApiError as error:
            response = error.response()
            if error.status == 401 and scope["path"] == "/":
                response.headers.update(CHALLENGE)  # a browser then asks for the key
            if error.status == 413:
                response.headers["Connection"] = "close"
            await response(scope, receive, named)

    def _admit(self, path: str, headers: dict[bytes, bytes]) -> None:
        if self._key is None or path in PUBLIC:
            return
        kind, _, value = headers.get(b"authorization", b"").partition(b" ")
        value = value.strip()
        if kind.lower() == b"basic":
            value = _password(value)
        elif kind.lower() != b"bearer":
            value = b""
        if not hmac.compare_digest(value, self._key):
            raise ApiError(401, "invalid_api_key", "a valid API key is needed: send it as 'Authorization: Bearer KEY'")

    def _measured(self, receive: Receive) -> Receive:
        read = 0

        async def measured() -> Any:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self.body:
                await discard(receive)
                raise HTTPException(413)  # of the framework's own kind, which passes through its reading of bodies
            return message

        return measured


async def discard(receive: Receive) -> None:
    """Reads the rest of a body into nothing, within bounds: a client that is still sending would not see the answer."""
    read = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DISCARD_SECONDS):
            while read < DISCARD_BYTES:
                message = await receive()
                read += len(message.get("body", b""))
                if not message.get("more_body"):
                    return


def _password(value: bytes) -> bytes:
    """The password of Basic credentials; browsers can send nothing else with a page."""
    try:
        return base64.b64decode(value, validate=True).partition(b":")[2]
    except binascii.Error:
        return b""
