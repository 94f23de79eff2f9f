"""Errors as OpenAI's clients expect them: {"error": {"message", "type", "param", "code"}}, whatever went wrong and wherever.

Owns the shape, the status of each code, and the handlers that bring foreign errors into it. 422 is never sent.
"""

import json
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from slipstream.base import log
from slipstream.base.errors import InputError

TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
RETRY = {"server_overloaded": 1, "model_loading": 2, "server_draining": 5, "engine_unavailable": 5}  # seconds


class ApiError(Exception):
    """An error for the client.

    Args:
        status: HTTP status.
        code: for programs.
        message: for people: the field, its value, the way out.
        param: path of the field, if one is to blame.
    """

    def __init__(self, status: int, code: str, message: str, param: str | None = None):
        super().__init__(message)
        self.status, self.code, self.message, self.param = status, code, message, param

    @property
    def body(self) -> dict[str, Any]:
        kind = TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(RETRY[self.code])} if self.code in RETRY else {}

    def response(self) -> Response:
        return json_response(self.body, self.status, self.headers)


def json_response(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """ASCII only, so that nothing a client sent can make it unwritable."""
    return Response(json.dumps(body, allow_nan=False), status, dict(headers or {}), "application/json")


def bad(message: str, param: str | None = None, code: str = "invalid_value") -> ApiError:
    """The client's mistake."""
    return ApiError(400, code, message, param)


def too_large(most: int) -> ApiError:
    """The body exceeds what the server takes."""
    return ApiError(413, "request_too_large", f"the body is larger than {most} bytes, which is all this server takes")


def of_input(error: InputError) -> ApiError:
    """Our own checks name the field first: "top_p=0: must be above 0"."""
    name = str(error).partition("=")[0].partition(":")[0].partition("[")[0]
    return bad(str(error), name if name.isidentifier() else None)


def install(app: FastAPI, body: int) -> None:
    """Gives the application handlers for everything that can be raised in it; `body` is the most bytes it takes."""

    @app.exception_handler(ApiError)
    async def ours(request: Request, error: ApiError) -> Response:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return of_validation(error.errors()).response()

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        return too_large(body).response() if error.status_code == 413 else of_http(request, error).response()

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        log.get(__name__).error("%s %s failed", request.method, request.url.path, exc_info=error)
        return ApiError(500, "internal_error", f"the server failed on this request: {type(error).__name__}").response()


def of_http(request: Request, error: HTTPException) -> ApiError:
    """Starlette's own: unknown routes, wrong methods, unreadable bodies."""
    if error.status_code == 404:
        return ApiError(404, "not_found", f"{request.url.path}: there is no such route; see /openapi.json")
    if error.status_code == 405:
        return ApiError(405, "method_not_allowed", f"{request.method} {request.url.path}: this route has other methods")
    if error.status_code in (400, 415, 422):
        return bad("the body is not JSON that can be read; send an object, as application/json", code="invalid_json")
    return ApiError(error.status_code, "http_error", str(error.detail))


def of_validation(errors: list[dict[str, Any]]) -> ApiError:
    """Pydantic's findings as one error: the one that got deepest, for among alternatives that is the one that was meant."""
    first = max(errors, key=lambda error: (error["type"] in OWN, len(error["loc"])))
    param = path(first["loc"])
    if first["type"] == "json_invalid":
        return bad(f"the body is not valid JSON: {first.get('ctx', {}).get('error', first['msg'])}", code="invalid_json")
    if first["type"] in OWN:
        context = first.get("ctx") or {}
        param = ".".join(filter(None, (param, context.get("field"))))
        return bad(f"{param}: {first['msg']}" if param else first["msg"], param or None, first["type"])
    if not param:
        return bad("the body must be a JSON object, sent as application/json", code="invalid_json")
    code = "missing_required_parameter" if first["type"] == "missing" else "invalid_value"
    return bad(f"{param}: {first['msg'][:1].lower()}{first['msg'][1:]}", param, code)


OWN = ("unknown_parameter", "unsupported_parameter", "unsupported_value", "invalid_value")  # raised by schemas.py


def path(location: tuple[Any, ...]) -> str:
    """("body", "messages", 0, "content") -> "messages[0].content"; names of alternatives in a union are left out."""
    out = ""
    for part in location[1:] if location[:1] in (("body",), ("query",), ("path",)) else location:
        if isinstance(part, int):
            out += f"[{part}]"
        elif part.isidentifier() and part not in ("str", "int", "float", "bool"):
            out += f".{part}" if out else part
    return out
