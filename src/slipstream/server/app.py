"""The front as an ASGI application: routes, error shapes, and the guard around them."""

from fastapi import FastAPI
from fastapi.responses import Response
from starlette.types import ASGIApp

import slipstream
from slipstream.server import errors
from slipstream.server.desk import Desk
from slipstream.server.embeddings import embedding_routes
from slipstream.server.events import ClientGone
from slipstream.server.guard import Guard
from slipstream.server.page import Page
from slipstream.server.routes import model_routes, state_routes, text_routes


def make_app(desk: Desk) -> ASGIApp:
    """Everything a client can reach.

    Args:
        desk: answers the requests; its link is started and ended by run.py.
    """
    app = FastAPI(title="Slipstream", version=slipstream.__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    errors.install(app, desk.settings.limits.body)
    for routes in (text_routes(desk), embedding_routes(desk), model_routes(desk), state_routes(desk)):
        app.include_router(routes)
    page = Page()

    @app.get("/", response_class=Response)
    async def index() -> Response:
        """The web page."""
        return page.response()

    @app.exception_handler(ClientGone)
    async def gone(request: object, error: ClientGone) -> Response:
        return Response(status_code=499)  # nobody reads it

    return Guard(app, desk.settings.api_key, desk.settings.limits.body)
