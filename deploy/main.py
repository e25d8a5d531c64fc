"""The ``pocketgan`` program: one table of commands, each loaded only when it runs.

The table holds module names, not functions, so the program starts fast and works where a room
is not furnished: the serving image has no torch, and ``pocketgan compress`` says so there.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "import": ("compress.cli", "published weights -> a network of ours (needs torch)"),
    "train": ("compress.cli", "train a teacher from a recipe (needs torch)"),
    "compress": ("compress.cli", "teacher + recipe -> student export (needs torch)"),
    "evaluate": (
        "compress.cli",
        "images, network, export or bundle -> FID, LPIPS ... (needs torch)",
    ),
    "deploy": ("deploy.cli", "student export + device profile -> bundle"),
    "inspect": ("deploy.cli", "what is in a bundle, and why this engine was chosen"),
    "report": ("deploy.report_cli", "bundles -> one HTML file that shows what they do"),
    "cache": ("deploy.cache_cli", "the engines built on this machine, and why one is built again"),
    "keygen": ("deploy.signing_cli", "a pair of keys: one signs bundles, one verifies them"),
    "sign": ("deploy.signing_cli", "bundle + private key -> a signature in the bundle"),
    "verify": ("deploy.signing_cli", "is a bundle whole, and signed by whom? (0 yes, 1 no)"),
    "check": ("devices.check_cli", "bundle -> latency on this machine against its budget"),
    "gate": ("deploy.gate_cli", "two bundles -> is the second slower? (0 no, 1 yes, 2 cannot say)"),
    "devices": ("devices.cli", "the device profiles there are, and this machine"),
    "serve": ("serving.cli", "bundle -> HTTP"),
    "translate": ("serving.translate_cli", "images, videos, folders -> translated, here or there"),
}

ROOMS = ("compress", "deploy", "serving", "devices")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    table = "\n".join(f"  {name:<10} {text}" for name, (_, text) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="pocketgan",
        description="Compress image-to-image GANs and deploy them to edge devices.",
        epilog=f"commands:\n{table}\n\npocketgan COMMAND --help says more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND")
    name = parser.parse_args(argv[:1]).command
    module, description = COMMANDS[name]
    command = argparse.ArgumentParser(prog=f"pocketgan {name}", description=description)
    try:
        room = importlib.import_module(module)
        room.add_arguments(name, command)
        status: int = room.run(name, command.parse_args(argv[1:]))
    except ModuleNotFoundError as missing:
        package = (missing.name or "").partition(".")[0]
        if package in ROOMS:
            raise
        extra = module.partition(".")[0]
        command.exit(2, f"pocketgan {name} needs {package}: pip install 'pocketgan[{extra}]'\n")
    except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
        # what a user can mend: the message says what was wrong and what to try
        command.exit(2, f"pocketgan {name}: {error}\n")
    except KeyboardInterrupt:
        command.exit(130, f"\npocketgan {name}: interrupted\n")
    return status


if __name__ == "__main__":
    raise SystemExit(main())
