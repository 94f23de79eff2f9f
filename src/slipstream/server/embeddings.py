"""/v1/embeddings: prompts to vectors. A prompt runs like one that is only scored; its states are pooled on the way."""

import base64
from array import array
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from slipstream.server.desk import Desk
from slipstream.server.messages import Accepted, Generate, Piece
from slipstream.server.routes import ERRORS
from slipstream.server.sampling import check_prompts
from slipstream.server.schemas import EmbeddingRequest
from slipstream.server.shapes import Shape
from slipstream.step import SamplingParams

READ_ONLY = SamplingParams(max_tokens=0, prompt_logprobs=0)  # every row of the prompt is computed, none comes from the cache


class EmbeddingShape(Shape):
    """The answer: one vector for each input."""

    def __init__(self, model: str, accepted: Accepted, encoding: str):
        super().__init__(model, "", 1, accepted)
        self._model, self._encoding = model, encoding

    def answer(self, pieces: list[list[Piece]]) -> dict[str, Any]:
        data = [
            {"object": "embedding", "index": index, "embedding": self._written(own[-1].vector)} for index, own in enumerate(pieces)
        ]
        usage = {"prompt_tokens": self.usage.prompt, "total_tokens": self.usage.prompt}
        return {"object": "list", "data": data, "model": self._model, "usage": usage}

    def _written(self, vector: bytes) -> str | list[float]:
        return base64.b64encode(vector).decode() if self._encoding == "base64" else array("f", vector).tolist()


def embedding_routes(desk: Desk) -> APIRouter:
    """/v1/embeddings."""
    router = APIRouter(responses=ERRORS)

    @router.post("/v1/embeddings", response_class=Response)
    async def embeddings(body: EmbeddingRequest, request: Request) -> Any:
        """The model's last states of each input, pooled to one vector."""
        desk.check_model(body.model)
        prompts = check_prompts(body.input, desk.settings.limits, "input")
        desk.check_open()
        desk.check_room(len(prompts), "input")
        order = Generate(desk.link.next_id(), READ_ONLY, prompts, pooling=body.pooling, normalize=body.normalize)
        return await desk.answer(
            request,
            order,
            lambda accepted: EmbeddingShape(desk.settings.name, accepted, body.encoding_format),
            stream=False,
            with_usage=False,
        )

    return router
