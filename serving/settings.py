"""Settings of the server, read from ``POCKETGAN_*`` environment variables."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, ValidationError

from devices.profile import Frozen

PREFIX = "POCKETGAN_"

NOT_OURS = ("POCKETGAN_CACHE",)
"""Variables of other rooms, which may be set where a server starts: here, of ``compress``."""


class ServingSettings(Frozen):
    """How one server listens, and what it takes from a client.

    Attributes:
        host: Address to listen on; the default answers this machine only.
        port: TCP port; 0 takes a free one.
        max_body_bytes: Largest request body, in bytes.
        max_pixels: Largest image, in pixels, as the model sees it (padding included). The engine's
            memory grows with it: at the default a float student of 24 channels took 1.4 GiB on
            OpenVINO and 2.4 GiB on ONNX Runtime (measured).
        max_uploads: Bodies that may be arriving at the same time.
        max_queue: Images that may wait for the engine while it works on another. Each holds a
            thread, of which the server has 40.
        body_timeout_s: Longest that a body may take to arrive, in seconds.
        wait_timeout_s: Longest that an image may wait for the engine, in seconds.
        drain_timeout_s: Longest that unfinished requests are waited for after SIGTERM, in seconds.
        log_level: Least important messages to log.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    max_body_bytes: PositiveInt = 20 * 1024 * 1024
    max_pixels: PositiveInt = 2048 * 2048
    max_uploads: PositiveInt = 32
    max_queue: Annotated[int, Field(ge=0, le=32)] = 8
    body_timeout_s: PositiveFloat = 30.0
    wait_timeout_s: PositiveFloat = 30.0
    drain_timeout_s: PositiveInt = 30
    log_level: Literal["critical", "error", "warning", "info", "debug"] = "info"


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
        raise ValueError(f"{name} = {first['input']!r}: {first['msg']}") from error
