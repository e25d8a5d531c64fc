"""What an import found and did: ``import.json``, and the same for a person to read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from devices.profile import Frozen

FOLDED = 8
"""Names of a list that are shown before the rest is only counted."""

Role = Literal["generator", "discriminator"]


class ImportedNetwork(Frozen):
    """One network that was written.

    Attributes:
        name: In the file it came from; empty where that held one network.
        role: What it is for.
        file: What was written, beside ``import.json``.
        sha256: Digest of that.
        layout: Whose names the tensors had.
        spec: What the network is; rebuilds it.
        keys: For each tensor of ours its name in the file.
        filled: Tensors the file lacks and need not have, and why.
        dropped: Tensors of the file that were not taken, and why.
        notes: What was done to values, and what the tensors cannot tell.
        taps: Layers that distillation will look at.
        params: Parameters.
        macs: Multiply-accumulates that are really done, at ``image_size``.
        macs_published: The same as papers count them.
        image_size: Height and width of the input the counts are for, px.
    """

    name: str
    role: Role
    file: str
    sha256: str
    layout: str
    spec: dict[str, Any]
    keys: dict[str, str]
    filled: dict[str, str]
    dropped: dict[str, str]
    notes: tuple[str, ...]
    taps: tuple[str, ...]
    params: int
    macs: int
    macs_published: int
    image_size: int


class ImportReport(Frozen):
    """``import.json``.

    Attributes:
        schema_version: Of this file.
        source: SHA-256 of each file that was read, by name.
        format: ``torch``, ``safetensors``, ``ncnn`` or ``keras``.
        networks: What was written.
        left_out: Networks and other things in the file that were not taken, and why.
        notes: What a user should know about the file.
        torch: Version that wrote the networks.
    """

    schema_version: Literal[1] = 1
    source: dict[str, str]
    format: str
    networks: tuple[ImportedNetwork, ...]
    left_out: dict[str, str]
    notes: tuple[str, ...]
    torch: str


def render(report: ImportReport) -> RenderableType:
    """A report for a person; long lists are folded, ``import.json`` has them whole."""
    parts: list[RenderableType] = []
    for network in report.networks:
        parts += [_heading(network), Padding(_figures(network), (0, 0, 0, 2))]
    if report.left_out:
        parts += [Text("left out", style="bold"), Padding(_reasons(report.left_out), (0, 0, 0, 2))]
    parts += [Text(f"note: {note}", style="yellow") for note in report.notes]
    return Group(*parts)


def _heading(network: ImportedNetwork) -> Text:
    name = f"{network.name}: " if network.name else ""
    heading = Text(f"{name}{network.role} ", style="bold")
    heading.append(str(network.spec["family"]), style="bold green")
    return heading.append(f", names of {network.layout}", style="bold")


def _figures(network: ImportedNetwork) -> RenderableType:
    renamed = [f"{old} -> {new}" for new, old in network.keys.items() if new != old]
    size = network.image_size
    spec = {key: value for key, value in network.spec.items() if key not in ("family", "widths")}
    rows = [(key, Text(short(value))) for key, value in spec.items()]
    rows += [(key, Text(short(value))) for key, value in network.spec.get("widths", {}).items()]
    rows += [
        ("params", Text(f"{network.params:,} ({network.params / 1e6:.3f} M)")),
        (
            "MACs",
            Text(
                f"{network.macs / 1e9:.3f} G at {size} x {size}; as papers count them "
                f"{network.macs_published / 1e9:.3f} G"
            ),
        ),
        ("taps", Text(", ".join(network.taps) or "none")),
        ("tensors", Text(f"{len(network.keys)} matched, {len(renamed)} of them renamed")),
        ("renamed", _folded(renamed)),
        ("filled", _reasons(network.filled)),
        ("dropped", _reasons(network.dropped)),
        *(("note", Text(note, style="yellow")) for note in network.notes),
    ]
    table = Table.grid(padding=(0, 2))
    for title, text in rows:
        if text.plain:
            table.add_row(Text(title), text)
    return table


def short(value: Any) -> str:
    """A list with runs of equal items counted: ``[256 x 9]``."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {short(item)}" for key, item in value.items())
    if not isinstance(value, list):
        return str(value)
    runs: list[tuple[str, int]] = []
    for text in map(short, value):
        if runs and runs[-1][0] == text:
            runs[-1] = text, runs[-1][1] + 1
        else:
            runs.append((text, 1))
    return "[" + ", ".join(text if n == 1 else f"{text} x {n}" for text, n in runs) + "]"


def _folded(lines: list[str]) -> Text:
    more = [f"... and {len(lines) - FOLDED} more"] if len(lines) > FOLDED else []
    return Text("\n".join(lines[:FOLDED] + more))


def _reasons(why: Mapping[str, str]) -> Text:
    """Names by reason: how many, why, and the first few."""
    lines = []
    for reason, count in Counter(why.values()).items():
        names = [name for name, given in why.items() if given == reason]
        shown = ", ".join(names[:FOLDED]) + (", ..." if count > FOLDED else "")
        lines.append(f"{count}: {reason}: {shown}")
    return Text("\n".join(lines))
