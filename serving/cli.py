"""``pocketgan serve``: a bundle behind HTTP."""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

from serving.settings import ServingSettings, read_settings

SWITCH_S = 0.0005
"""How long a thread may hold the interpreter: measured under overload, 45 against 40 answers for a
second of CPU with Python's own 5 ms."""


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

    from devices.signature import read_trusted
    from serving.admin import (
        create_admin_app,
        read_token,
        reload_in_background,
        serve_in_thread,
    )
    from serving.app import create_app
    from serving.models import read_bundle
    from serving.slow import EVERY_S, SlowClients
    from serving.swap import Models
    from serving.telemetry import TraceRequests, find_tracer

    settings = read_settings(os.environ)
    given = {key: getattr(args, key) for key in ("host", "port")}
    settings = settings.model_copy(update={k: v for k, v in given.items() if v is not None})
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s"
    )
    trusted = None if settings.trusted_keys is None else read_trusted(settings.trusted_keys)
    bundle = read_bundle(args.bundle, trusted)
    models = Models(bundle, settings, trusted=trusted, path=args.bundle)
    # workers hold the interpreter for longer than the loop should wait to answer
    sys.setswitchinterval(SWITCH_S)

    failures: list[Exception] = []

    def stop(error: Exception) -> None:
        # a server that can never answer must end, so that whoever started it notices
        failures.append(error)
        server.should_exit = True

    def settle() -> None:
        # what lives as long as the server is not to be looked through again and again
        gc.collect()
        gc.freeze()

    app = create_app(models, settings, on_ready=settle, on_failure=stop)
    if (tracer := find_tracer(os.environ)) is not None:
        app.add_middleware(TraceRequests, tracer=tracer)
    slow = SlowClients(lambda: server.server_state.connections, settings.body_timeout_s)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            # its own would close the handlers of everybody else in the process
            log_config=None,
            log_level=settings.log_level,
            access_log=settings.log_level == "debug",
            ws_max_size=settings.max_body_bytes,
            ws_per_message_deflate=False,  # images are compressed already
            server_header=False,
            callback_notify=slow.sweep,
            timeout_notify=EVERY_S,
            timeout_graceful_shutdown=settings.drain_timeout_s,
        )
    )
    with contextlib.ExitStack() as stack:
        if settings.admin_port is not None:
            token = read_token(settings)
            admin = stack.enter_context(_listen(settings.admin_host, settings.admin_port))
            stack.enter_context(serve_in_thread(create_admin_app(models, token), admin))
            print(f"admin at {_url(settings.admin_host, admin.getsockname()[1])}", flush=True)
        listener = stack.enter_context(_listen(settings.host, settings.port))
        url = _url(settings.host, listener.getsockname()[1])
        print(
            f"{bundle.manifest.model.name} ({bundle.manifest.precision}, "
            f"{bundle.manifest.backend}) at {url}  try: "
            f"curl --data-binary @photo.jpg {url}/v1/translate --output translated.png",
            flush=True,
        )
        # uvicorn drains on SIGTERM and then raises it again: an orderly end has status 0
        signal.signal(signal.SIGTERM, _leave)
        if hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, lambda *_: reload_in_background(models))
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
