"""What the API description says beyond types: bodies, parameters, answers and examples."""

from __future__ import annotations

from typing import Any

from serving import batch, problems
from serving.negotiate import MEDIA_TYPES

IMAGE_BODY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}

PARAMETERS: list[dict[str, Any]] = [
    {
        "name": "format",
        "in": "query",
        "description": "How the answer is encoded; the Accept header decides if left out.",
        "schema": {"type": "string", "enum": list(MEDIA_TYPES)},
        "example": "jpeg",
    },
    {
        "name": "quality",
        "in": "query",
        "description": "Of a JPEG (90 if left out) or a WebP (80).",
        "schema": {"type": "integer", "minimum": 1, "maximum": 100},
    },
    {
        "name": "size",
        "in": "query",
        "description": "As it is; shrunk or enlarged to the model's size; or shrunk to the limit.",
        "schema": {"type": "string", "enum": ["native", "model", "max"]},
        "example": "native",
    },
    {
        "name": "X-Timeout-Ms",
        "in": "header",
        "description": "When the answer is to be there, in milliseconds; refused if it cannot be.",
        "schema": {"type": "integer", "minimum": 1},
    },
]
"""Of every translation. Written by hand: the routes read them without FastAPI's help, which costs
as much as the rest of a request."""

FILE: dict[str, Any] = {"type": "string", "format": "binary"}

FORM: dict[str, Any] = {
    "schema": {
        "type": "object",
        "description": "One file, whatever its field is called.",
        "properties": {"image": FILE},
        "additionalProperties": FILE,
        "minProperties": 1,
    }
}

TRANSLATE: dict[str, Any] = {
    "parameters": PARAMETERS,
    "requestBody": {
        "required": True,
        "description": "The bytes of one JPEG, PNG or WebP image, or a form with one file.",
        "content": dict.fromkeys((*MEDIA_TYPES.values(), "application/octet-stream"), IMAGE_BODY)
        | {"multipart/form-data": FORM},
    },
}

TRANSLATE_BATCH: dict[str, Any] = {
    "parameters": PARAMETERS,
    "requestBody": {
        "required": True,
        "description": "A form with several files.",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "description": "Files, whatever their fields are called.",
                    "properties": {"image": {"type": "array", "items": FILE}},
                    "additionalProperties": {"anyOf": [FILE, {"type": "array", "items": FILE}]},
                    "minProperties": 1,
                }
            }
        },
    },
}

COMMON: dict[int | str, dict[str, Any]] = {
    400: problems.describe("The body is empty, or a parameter or X-Timeout-Ms has no such value."),
    401: problems.describe("The server wants an API key, and this is none."),
    403: problems.describe("A page of another origin asks."),
    406: problems.describe("Accept takes none of PNG, JPEG and WebP."),
    408: problems.describe("The body did not arrive in time."),
    413: problems.describe("Too many bytes, images or pixels."),
    415: problems.describe("Not a JPEG, PNG or WebP image."),
    422: problems.describe("The image is damaged."),
    429: problems.describe("This client asks more often than it may; see Retry-After."),
    500: problems.describe("The engine failed."),
    503: problems.describe("Warming up, or too many images wait; see Retry-After."),
    504: problems.describe("Its turn did not come in time for its answer; see X-Timeout-Ms."),
}

TRANSLATE_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The translated image.",
        "content": dict.fromkeys(MEDIA_TYPES.values(), IMAGE_BODY),
        "headers": {
            "Server-Timing": {
                "description": "Milliseconds in the queue, decoding, in the engine, encoding.",
                "schema": {
                    "type": "string",
                    "example": "queue;dur=0.1, decode;dur=1.2, engine;dur=4.6, encode;dur=0.4",
                },
            },
            "Pocketgan-Bundle": {
                "description": "Digest of the bundle that made it.",
                "schema": {"type": "string"},
            },
        },
    },
    **COMMON,
}

BATCH_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A ZIP of the answers, and manifest.json with what became of each image.",
        "content": {batch.MEDIA_TYPE: IMAGE_BODY},
    },
    **COMMON,
}

NOT_READY: dict[int | str, dict[str, Any]] = {
    401: COMMON[401],
    503: problems.describe("The engine is not warm yet."),
}
