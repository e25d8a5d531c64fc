"""``pocketgan serve``: a bundle behind HTTP."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
from pathlib import Path
from types import FrameType
from typing import NoReturn

from serving.settings import ServingSettings, read_settings


def add_arguments(name: str, parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``serve``."""
    defaults = ServingSettings()
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of pocketgan deploy")
    parser.add_argument(
        "--host",
        help=f"address to listen on (POCKETGAN_HOST, else {defaults.host}: this machine only)",
    )
    parser.add_argument(
        "--port",
        type=_port,
        help=f"port to listen on, 0 for any free one (POCKETGAN_PORT, else {defaults.port})",
    )
    parser.epilog = "Other settings are POCKETGAN_* variables: " + ", ".join(
        f"POCKETGAN_{field.upper()}={value}" for field, value in defaults if field != "host"
    )


def run(name: str, args: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C; unfinished requests are answered first.

    Raises:
        ValueError: A setting or the bundle is wrong.
        DeviceError: The engine cannot run on this machine.
        OSError: The address cannot be listened on.
    """
    # only now: where fastapi is not installed, the program names the extra that brings it
    import uvicorn

    from serving.app import create_app
    from serving.models import read_bundle

    settings = read_settings(os.environ)
    given = {key: getattr(args, key) for key in ("host", "port")}
    settings = settings.model_copy(update={k: v for k, v in given.items() if v is not None})
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s"
    )
    bundle = read_bundle(args.bundle)

    failures: list[Exception] = []

    def stop(error: Exception) -> None:
        # a server that can never answer must end, so that whoever started it notices
        failures.append(error)
        server.should_exit = True

    server = uvicorn.Server(
        uvicorn.Config(
            create_app(bundle, settings, on_failure=stop),
            # its own would close the handlers of everybody else in the process
            log_config=None,
            log_level=settings.log_level,
            ws="none",
            server_header=False,
            timeout_graceful_shutdown=settings.drain_timeout_s,
        )
    )
    with _listen(settings.host, settings.port) as listener:
        url = _url(settings.host, listener.getsockname()[1])
        print(
            f"{bundle.manifest.model.name} ({bundle.manifest.precision}, "
            f"{bundle.manifest.backend}) at {url}  try: "
            f"curl --data-binary @photo.jpg {url}/v1/translate --output translated.png",
            flush=True,
        )
        # uvicorn drains on SIGTERM and then raises it again: an orderly end has status 0
        signal.signal(signal.SIGTERM, _leave)
        server.run(sockets=[listener])
    if failures:
        raise failures[0]
    return 0


def _leave(signum: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port (0 to 65535)")
    return int(text)


def _listen(host: str, port: int) -> socket.socket:
    """Bind before uvicorn does: its own refusal ends the process without a sentence."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise OSError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; "
            "choose another with --port (0 for any free one)"
        ) from error


def _url(host: str, port: int) -> str:
    """Where a client on this machine finds the server."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"
