"""The engine behind BentoML: ``BUNDLE=... bentoml serve bentoml_app:Translate``.

One worker process beside the process that bentoml starts it from; no access log, metrics or traces.
The body is the whole input (a positional-only parameter), so that nothing is parsed.
"""

import os
from pathlib import Path
from typing import Annotated

import bentoml
from bentoml.validators import ContentType

from serving.local import open_engine
from serving.negotiate import Output
from serving.settings import ServingSettings


@bentoml.service(
    workers=1,
    threads=1,
    traffic={"timeout": 60},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
)
class Translate:
    """Decode, engine and encode, by the same code as everywhere in this comparison."""

    def __init__(self) -> None:
        self.engine = open_engine(Path(os.environ["BUNDLE"]), ServingSettings())

    @bentoml.api(route="/v1/translate")
    def translate(
        self, data: Annotated[bytes, ContentType("image/jpeg")], /
    ) -> Annotated[bytes, ContentType("image/jpeg")]:
        """Translate one image."""
        return self.engine.translate(data, Output("jpeg"), "native")
