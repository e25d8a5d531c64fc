"""The engine behind Ray Serve: ``python ray_app.py BUNDLE PORT``.

One replica on one node of one CPU, no dashboard, no access log. What its guide to performance
advises is set by overhead.py in the environment (RAY_SERVE_THROUGHPUT_OPTIMIZED).
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from serving.local import open_engine
from serving.negotiate import Output
from serving.settings import ServingSettings


@serve.deployment(
    num_replicas=1,
    max_ongoing_requests=100,
    ray_actor_options={"num_cpus": 1},
    logging_config={"enable_access_log": False, "log_level": "WARNING"},
)
class Translate:
    """Decode, engine and encode, by the same code as everywhere in this comparison."""

    def __init__(self, bundle: str) -> None:
        self.engine = open_engine(Path(bundle), ServingSettings())

    async def __call__(self, request: Request) -> Response:
        """Translate one image."""
        answer = self.engine.translate(await request.body(), Output("jpeg"), "native")
        return Response(answer, media_type="image/jpeg")


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    serve.start(
        http_options={"host": "127.0.0.1", "port": int(sys.argv[2])},
        logging_config={"enable_access_log": False, "log_level": "WARNING"},
    )
    serve.run(Translate.bind(str(Path(sys.argv[1]).resolve())), route_prefix="/v1/translate")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()
