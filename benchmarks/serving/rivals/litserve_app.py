"""The engine behind LitServe: ``python litserve_app.py BUNDLE PORT``.

One API server process, one worker process, the queue between them over ZeroMQ (``fast_queue``,
which its documentation recommends for many requests). The body is read raw by a FastAPI dependency:
its usual ways, base64 in JSON or a form, would cost it a copy that the others do not make.
"""

# no `from __future__ import annotations` here: LitServe hands the annotation itself to FastAPI
import sys
from pathlib import Path
from typing import Annotated

import litserve
from fastapi import Depends, Request, Response

from serving.local import open_engine
from serving.negotiate import Output
from serving.settings import ServingSettings


async def read_body(request: Request) -> bytes:
    """The bytes of the request."""
    return await request.body()


class Translate(litserve.LitAPI):
    """Decode, engine and encode, by the same code as everywhere in this comparison."""

    def __init__(self, bundle: Path) -> None:
        super().__init__(api_path="/v1/translate", max_batch_size=1)
        self.bundle = bundle

    def setup(self, device: str) -> None:
        """Open the engine, in the worker."""
        self.engine = open_engine(self.bundle, ServingSettings())

    def decode_request(self, request: Annotated[bytes, Depends(read_body)]) -> bytes:
        """Nothing: the image is decoded with the rest of the work."""
        return request

    def predict(self, data: bytes) -> bytes:
        """Translate one image."""
        return self.engine.translate(data, Output("jpeg"), "native")

    def encode_response(self, output: bytes) -> Response:
        """The answer as it is sent."""
        return Response(output, media_type="image/jpeg")


if __name__ == "__main__":
    server = litserve.LitServer(
        Translate(Path(sys.argv[1])),
        accelerator="cpu",
        devices=1,
        workers_per_device=1,
        fast_queue=True,
    )
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[2]),
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )
