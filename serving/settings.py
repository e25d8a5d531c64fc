"""Settings of the server, read from ``POCKETGAN_*`` environment variables."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, SecretStr, ValidationError

from deploy.imaging import MAX_PIXELS
from devices.profile import Frozen

PREFIX = "POCKETGAN_"

SIZES = r"^([1-9][0-9]{0,4}(x[1-9][0-9]{0,4})?(,[1-9][0-9]{0,4}(x[1-9][0-9]{0,4})?)*)?$"
"""``256,512x384``, or nothing."""

NOT_OURS = ("POCKETGAN_CACHE",)
"""Variables of other rooms, which may be set where a server starts: here, of ``compress``."""


SECRETS = ("admin_token",)
"""Settings whose values are told to nobody, not even where they are wrong."""


class ServingSettings(Frozen):
    """How one server listens, and what it takes from a client.

    Attributes:
        host: Address to listen on; the default answers this machine only.
        port: TCP port; 0 takes a free one.
        max_body_bytes: Largest request body, in bytes.
        max_pixels: Largest image, in pixels, as the model sees it (padding included). About 24
            bytes of memory each, beside what ``whole_pixels`` takes.
        whole_pixels: Largest image, and largest tile, that goes through the engine at once, in
            pixels. The engine's memory grows with it: at the default a float student of 24 channels
            took 1.4 GiB on OpenVINO and 2.4 GiB on ONNX Runtime (measured).
        map_memory_mib: Most memory for the feature maps of one image, in MiB, where a generator
            normalises by the whole image and has to be run in tiles all the same.
        map_folder: Where maps beyond that are kept in files while they are needed; an image that
            would need them is refused if left out.
        max_decode_pixels: Largest image that is decoded to be shrunk, in pixels, for ``size=model``
            and ``size=max``.
        max_images: Most images in one request of ``/v1/translate/batch``.
        max_uploads: Bodies that may be arriving at the same time.
        max_queue: Images that may wait while every worker has one; where there are several cores
            there is one worker more than ``instances``.
        max_queue_pixels: Pixels that may wait, as the model sees them; an image of more than that
            waits alone.
        max_queue_bytes: Encoded bytes that may wait.
        max_together: Images of one shape that may go through the engine together, where that is
            faster; 1 for never.
        instances: Engines that work beside each other, each with the profile's threads.
        rate_per_s: Requests per second that one client may keep up; any number if left out.
        rate_burst: Requests that a client who was quiet may make at once, where there is a rate.
        body_timeout_s: Longest that a body may take to arrive, in seconds.
        wait_timeout_s: Longest that a client may be kept waiting for an answer, in seconds; it may
            ask for less with ``X-Timeout-Ms``.
        drain_timeout_s: Longest that unfinished requests are waited for after SIGTERM, in seconds.
        log_level: Least important messages to log.
        warm_sizes: Sizes beside the profile's to warm the engine up for, ``256,512x384`` for a
            square of 256 and an image 512 high and 384 wide.
        latency_policy: Whether the engine is timed at start, and what comes of one that is over its
            budget: ``off``, ``warn`` in the log, or ``refuse`` to serve it.
        degraded_policy: What ``/readyz`` says while the engine is slower than its budget: it is
            ``report``-ed, or the server is ``unready``.
        probation_images: First images of a new engine; if it fails on more than half of them, the
            one before it serves again. 0 for never.
        bundles_dir: Folder of the bundles that ``POST /v1/model`` may name; none if left out.
        admin_host: Address of the admin port; the default answers this machine only.
        admin_port: TCP port of the admin routes, 0 for a free one; there are none if left out.
        admin_token: What a client of the admin routes must know, 16 characters or more.
        trusted_keys: A public key of ``pocketgan keygen``, or a folder of them (``*.pub``): then
            only a bundle that one of them signed is served. Any whole bundle if left out.
        api_keys: API keys between commas; nobody is asked for one if neither this nor the next is
            set. See `serving.keys.read_keys`.
        api_keys_file: A text file with one API key on a line.
        cors_origins: Origins between commas whose pages may ask from a browser; no others if left
            out. See `serving.security.read_origins`.
        max_streams: Websockets that may be open at the same time.
        stream_timeout_s: Longest between two frames of a websocket, in seconds.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    max_body_bytes: PositiveInt = 20 * 1024 * 1024
    max_pixels: PositiveInt = MAX_PIXELS
    whole_pixels: PositiveInt = 2048 * 2048
    map_memory_mib: PositiveInt = 2048
    map_folder: Path | None = None
    max_decode_pixels: PositiveInt = MAX_PIXELS
    max_images: PositiveInt = 16
    max_uploads: PositiveInt = 32
    max_queue: Annotated[int, Field(ge=0, le=10_000)] = 64
    max_queue_pixels: PositiveInt = 4 * 2048 * 2048
    max_queue_bytes: PositiveInt = 128 * 1024 * 1024
    max_together: Annotated[int, Field(ge=1, le=8)] = 4
    instances: Annotated[int, Field(ge=1, le=64)] = 1
    rate_per_s: PositiveFloat | None = None
    rate_burst: PositiveInt = 20
    body_timeout_s: PositiveFloat = 30.0
    wait_timeout_s: PositiveFloat = 30.0
    drain_timeout_s: PositiveInt = 30
    log_level: Literal["critical", "error", "warning", "info", "debug"] = "info"
    warm_sizes: Annotated[str, Field(pattern=SIZES)] | None = None
    latency_policy: Literal["off", "warn", "refuse"] = "warn"
    degraded_policy: Literal["report", "unready"] = "report"
    probation_images: Annotated[int, Field(ge=0, le=10_000)] = 20
    bundles_dir: Path | None = None
    admin_host: str = "127.0.0.1"
    admin_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    admin_token: Annotated[SecretStr, Field(min_length=16)] | None = None
    trusted_keys: Path | None = None
    api_keys: SecretStr | None = None
    api_keys_file: Path | None = None
    cors_origins: str | None = None
    max_streams: PositiveInt = 16
    stream_timeout_s: PositiveFloat = 60.0


def read_settings(environ: Mapping[str, str]) -> ServingSettings:
    """Read the settings from an environment.

    Args:
        environ: Usually ``os.environ``; names that do not start with ``POCKETGAN_`` are ignored.

    Raises:
        ValueError: A ``POCKETGAN_`` variable that is not a setting, or a value that does not fit;
            the message names the variable.
    """
    known = [field.upper() for field in ServingSettings.model_fields]
    given = {
        name.removeprefix(PREFIX): value
        for name, value in environ.items()
        if name.startswith(PREFIX) and name not in NOT_OURS
    }
    for name in sorted(given.keys() - known):
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {PREFIX}{close[0]}? " if close else ""
        there_are = ", ".join(PREFIX + setting for setting in known)
        raise ValueError(f"no setting {PREFIX}{name}; {hint}there are: {there_are}")
    try:
        return ServingSettings.model_validate_strings(
            {name.lower(): value for name, value in given.items()}
        )
    except ValidationError as error:
        first = error.errors()[0]
        name = f"{PREFIX}{first['loc'][0]}".upper()
        if first["loc"][0] in SECRETS:
            raise ValueError(f"{name}: {first['msg']}") from None
        raise ValueError(f"{name} = {first['input']!r}: {first['msg']}") from error
