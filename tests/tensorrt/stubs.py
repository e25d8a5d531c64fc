"""Type stubs of the real bindings, made by mypy's stubgen from the loaded module.

The wheels carry no stubs of their own (none of 8.6.1, 10.0 to 10.16 and 11.4 does), but their
docstrings hold full signatures. Put right in what stubgen makes of them: ``bool``, ``buffer`` and
``capsule``, which the module itself and pybind11 use as names of something else; arguments without
a default behind one that has it; functions told by C++ names; a serialized engine's
buffer. What is left wrong in a stub is not reported: it is our code that is checked.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.tensorrt.record import environment, stand_ins

HEAD = "# mypy: ignore-errors\nimport builtins\nimport typing_extensions\n"
TAIL = "\n__version__: str\n"
HOST_MEMORY = """class IHostMemory:
    def __buffer__(self, flags: int, /) -> memoryview: ...
"""
GET_ERROR = "def get_error(self, index: int) -> ParserError: ..."
UNTOLD = "(self, *args: Any, **kwargs: Any) -> Any: ..."


def write_stubs(wheel: Path, folder: Path) -> Path:
    """Write ``tensorrt/__init__.pyi`` for one version; returns the folder to look in."""
    libraries = folder / "libraries"
    libraries.mkdir(parents=True)
    subprocess.run(
        [
            Path(sys.executable).with_name("stubgen"),
            "--inspect-mode",
            *("-m", "tensorrt_bindings.tensorrt"),
            *("-o", folder),
        ],
        env=environment(wheel, stand_ins(wheel, libraries)),
        capture_output=True,
        text=True,
        check=True,
    )
    text = (folder / "tensorrt_bindings" / "tensorrt.pyi").read_text()
    package = folder / "stubs" / "tensorrt"
    package.mkdir(parents=True)
    (package / "__init__.pyi").write_text(HEAD + mended(text) + TAIL)
    return package.parent


def mended(text: str) -> str:
    """What stubgen wrote, as a type checker can read it."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("bool: DataType"):
            line = re.sub(r"\bbool\b", "builtins.bool", line)
        line = re.sub(r"(: |-> )buffer\b", r"\1typing_extensions.Buffer", line)
        line = re.sub(r"(: |-> |list\[)capsule\b", r"\1object", line)
        line = line.replace("def get_error(self, *args, **kwargs): ...", GET_ERROR)
        line = line.replace("(self, *args, **kwargs): ...", UNTOLD)
        lines.append(_without_early_defaults(line))
    return "\n".join(lines).replace("class IHostMemory:\n", HOST_MEMORY)


def _without_early_defaults(line: str) -> str:
    """Drop a default that stands before an argument without one; Python has no such signature."""
    early = re.compile(r" = \.\.\.(?=, \w+: [^=,]*(?:\[[^\]]*\])?[,)])")
    while early.search(line):
        line = early.sub("", line, count=1)
    return line
