"""The words that ssh is started with, and what may be printed of the words that come back."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

CONNECT_S = 15
PLAIN = re.compile(r"[^\x21-\x7e]+")
MAX_SAID = 300

OPTIONS = {
    "BatchMode": "yes",  # never asks for anything
    "StrictHostKeyChecking": "yes",
    "UpdateHostKeys": "no",
    "ConnectTimeout": str(CONNECT_S),
    "ServerAliveInterval": "10",
    "ServerAliveCountMax": "3",  # a link that is dead is over after some 40 s
    "ClearAllForwardings": "yes",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "PermitLocalCommand": "no",
    "RequestTTY": "no",
    "ControlMaster": "no",  # an existing one is used; one made here would outlive us
    "RemoteCommand": "none",
    "LogLevel": "ERROR",
}

REMOTE = (
    # the same words for every board: ssh joins them for the login shell there, whichever it is, so
    # whatever a user chose comes over standard input. First a line with the path of Python
    "sh -c '"
    'IFS= read -r p && case $p in "~/"*) p=$HOME/${p#"~/"};; esac && '
    'exec "$p" -c "import sys; sys.path[:] = [p for p in sys.path if p]; '
    "s = sys.stdin.buffer; exec(s.read(int(s.readline())))\"'"
)


class BoardError(RuntimeError):
    """One board failed; the message is one line and says what to try."""


def command(destination: str, config: Path | None) -> list[str]:
    """The arguments for ssh; the destination stands behind ``--`` and is no option."""
    options = [word for key, value in OPTIONS.items() for word in ("-o", f"{key}={value}")]
    own = [] if config is None else ["-F", str(config)]
    return [ssh_program(), *own, *options, "--", destination, REMOTE]


def ssh_program() -> str:
    """The system's ssh.

    Raises:
        BoardError: There is none.
    """
    program = shutil.which("ssh")
    if program is None:
        raise BoardError("there is no ssh here: install the package openssh-client")
    return program


def one_line(text: str) -> str:
    """What a board said, safe to print: the last line with anything on it, in plain letters."""
    lines = [PLAIN.sub(" ", line).strip() for line in text.splitlines()]
    said = [line for line in lines if line]
    return said[-1][:MAX_SAID] if said else ""
