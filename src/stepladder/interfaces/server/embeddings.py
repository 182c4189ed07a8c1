"""`/v1/embeddings`, by the starter embedder."""

from __future__ import annotations

import base64
import time
from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter, Request
from numpy.typing import NDArray
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from stepladder.domain.protocols import Embedder
from stepladder.interfaces.server.answers import count_answers
from stepladder.interfaces.server.chat_request import Strict
from stepladder.interfaces.server.errors import invalid, not_found
from stepladder.interfaces.server.limits import read_body
from stepladder.interfaces.server.shared import JsonObject, ProjectId, TheHouse, TheMetrics
from stepladder.service.serving.house import House

router = APIRouter()

Text = Annotated[str, Field(min_length=1)]
Tokens = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=8192)]


class EmbeddingRequest(Strict):
    model: str
    input: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=2048)]
        | Tokens
        | Annotated[list[Tokens], Field(min_length=1, max_length=2048)]
    )
    dimensions: Annotated[int, Field(ge=1)] | None = None
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None

    @property
    def texts(self) -> list[str]:
        """Raises ApiError 400 for token ids: they are of some model's vocabulary, and not of this embedder's."""
        given = [self.input] if isinstance(self.input, str) else self.input
        texts = [item for item in given if isinstance(item, str)]
        if len(texts) != len(given):
            raise invalid(
                "Token ids mean something else to every model: send texts (langchain: check_embedding_ctx_length=False).", "input"
            )
        return texts


@router.post("/v1/embeddings")
async def create_embeddings(request: Request, project: ProjectId, house: TheHouse, metrics: TheMetrics) -> JsonObject:
    asked = await read_body(request, EmbeddingRequest)
    _check_name(house, asked.model)
    began = time.perf_counter()
    vectors, tokens = await run_in_threadpool(_embed, house, asked.texts, asked.dimensions)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    count_answers(metrics, "embeddings", {**usage, "completion_tokens": 0}, began)
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": _as_base64(row) if asked.encoding_format == "base64" else row.tolist(),
        }
        for index, row in enumerate(vectors)
    ]
    return {"object": "list", "data": data, "model": asked.model, "usage": usage}


def _check_name(house: House, model: str) -> None:
    if not house.is_embedder(model):
        raise not_found(
            f"The model '{model}' does not exist or makes no embeddings. "
            f"Ask '{house.embedder_name}', or start the server with: stepladder serve --alias '{model}={house.embedder_name}'",
            "model",
            "model_not_found",
        )


def _embed(house: House, texts: list[str], dimensions: int | None) -> tuple[NDArray[np.float32], int]:
    """Unit vectors, shortened to their first `dimensions` numbers and brought to length 1 again; and the tokens read."""
    embedder: Embedder = house.embedder()
    vectors = embedder.embed(texts)
    if dimensions is not None:
        if dimensions > vectors.shape[1]:
            raise invalid(f"'{house.embedder_name}' gives {vectors.shape[1]} dimensions.", "dimensions")
        vectors = vectors[:, :dimensions]
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return vectors.astype(np.float32), sum(len(text.split()) for text in texts)


def _as_base64(vector: NDArray[np.float32]) -> str:
    """Little-endian float32, as OpenAI's clients ask for unless told otherwise."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
