"""Which network a file's tensors are: every layout is tried, and only a complete fit counts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from compress.importing import judges, superresolution, translation
from compress.importing.layout import Layout, Tensors, UnfitError
from compress.models.blocks import Spec
from compress.models.families import FAMILIES, build

LAYOUTS: tuple[Layout, ...] = (
    *translation.LAYOUTS,
    *superresolution.LAYOUTS,
    *judges.LAYOUTS,
)

WRAPPERS = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before every name."""

LISTED = 5
"""How many names an error lists before it only counts them."""


@dataclass(frozen=True)
class Cleaned:
    """A file's tensors without what surrounds them.

    Attributes:
        tensors: By name without prefixes, in float32 (integers stay).
        original: The name in the file of each.
        dropped: Names in the file that are no weights of any network, and why.
    """

    tensors: Tensors
    original: Mapping[str, str]
    dropped: Mapping[str, str]


@dataclass(frozen=True)
class Attempt:
    """How well a layout fits.

    Attributes:
        layout: Which.
        spec: What the network would be, or None where the tensors do not even say that.
        problem: Why not.
        tensors: By our names, converted.
        names: The cleaned name of each.
        dropped: Cleaned names the layout knows and does not take, and why.
        filled: Our names of what the file lacks and need not have, and why.
        notes: What was done to values.
        missing: Our names of what the file lacks.
        unknown: Cleaned names that the network has no place for.
        misshapen: Our names of tensors that are of another shape, and what is wrong.
    """

    layout: Layout
    spec: Spec | None = None
    problem: str = ""
    tensors: Tensors = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    dropped: Mapping[str, str] = field(default_factory=dict)
    filled: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    misshapen: Mapping[str, str] = field(default_factory=dict)

    @property
    def fits(self) -> bool:
        """Every tensor has its place, and every place its tensor."""
        return self.spec is not None and not (self.missing or self.unknown or self.misshapen)

    @property
    def matched(self) -> int:
        """Tensors that are where they should be."""
        return len(self.names) - len(self.misshapen) if self.spec else 0

    @property
    def share(self) -> float:
        """What part of the file and the network together matches; less where the spec is unknown.

        Names alone say little (``model.1.weight`` is in half of all networks), so without a
        network to compare with they count a tenth.
        """
        everything = len(self.names) + len(self.missing) + len(self.unknown)
        if not everything:
            return 0.0
        return self.matched / everything if self.spec else 0.1 * len(self.names) / everything


def clean(tensors: Tensors) -> Cleaned:
    """Take prefixes off the names, and what is left over from profilers and old norms away."""
    prefix = ""
    while found := next(
        (w for w in WRAPPERS if all(k.startswith(prefix + w) for k in tensors)), ""
    ):
        prefix += found
    kept: Tensors = {}
    original: dict[str, str] = {}
    dropped: dict[str, str] = {}
    for key, tensor in tensors.items():
        name = key.removeprefix(prefix)
        layer, _, last = name.rpartition(".")
        if last in ("total_ops", "total_params"):
            dropped[key] = "a count that thop left behind"
        elif (
            last in ("running_mean", "running_var", "num_batches_tracked")
            and f"{prefix}{layer}.weight" not in tensors
        ):
            dropped[key] = "statistics of an old instance norm, which uses each image's own"
        else:
            kept[name] = tensor.float() if tensor.is_floating_point() else tensor
            original[name] = key
    return Cleaned(kept, original, dropped)


def recognise(tensors: Tensors, format: str, said: Spec) -> Attempt:
    """Find the one network that the tensors are.

    Args:
        tensors: Cleaned.
        format: Of the file.
        said: What the user says of the network: nothing, its family, or more of its specification.

    Raises:
        ValueError: None fits; the message names the nearest, and what does not fit.
    """
    tried = [attempt(layout, tensors, said) for layout in candidates(format, said)]
    if not tried:
        raise ValueError(
            f"no {format} files of {said['family']} networks are known; known for {format}: "
            f"{', '.join(sorted({layout.family for layout in candidates(format, {})}))}"
        )
    best = max(tried, key=lambda one: (one.fits, one.share))
    if not best.fits:
        raise ValueError(refusal(best, tensors, said))
    return best


def candidates(format: str, said: Spec) -> list[Layout]:
    """The layouts that a file of this format may have."""
    kind = "torch" if format == "safetensors" else format
    family = said.get("family")
    return [one for one in LAYOUTS if one.format == kind and family in (None, one.family)]


def attempt(layout: Layout, tensors: Tensors, said: Spec) -> Attempt:
    """See how well a layout fits; never raises for tensors that do not."""
    renaming = layout.rename(tensors, said)
    dropped = dict(renaming.dropped)
    strangers = [key for key in tensors if key not in renaming.names and key not in dropped]
    ours = {new: tensors[key] for key, new in renaming.names.items()}
    names = {new: key for key, new in renaming.names.items()}
    try:
        spec = layout.describe(ours) | said
        ours, notes = layout.convert(ours)
        with torch.device("meta"):
            wanted = build(spec).state_dict()
    except (UnfitError, ValueError, RuntimeError) as error:
        return Attempt(
            layout, problem=str(error), names=names, dropped=dropped, unknown=tuple(strangers)
        )
    ours, folded = fold_biases(ours, wanted)
    for name in folded:
        dropped[names.pop(name)] = "a bias before a batch norm, now in the norm's mean"
    filled = {
        name: "batches seen, which old files do not count"
        for name in wanted
        if name.endswith(".num_batches_tracked") and name not in ours
    }
    ours |= {name: torch.zeros((), dtype=torch.int64) for name in filled}
    misshapen = {
        name: f"{tuple(ours[name].shape)} in the file, {tuple(wanted[name].shape)} in the network"
        for name in wanted
        if name in ours and ours[name].shape != wanted[name].shape
    }
    extra = [names[name] for name in ours if name not in wanted and name not in filled]
    return Attempt(
        layout,
        spec,
        tensors={name: ours[name] for name in wanted if name in ours},
        names={new: key for new, key in names.items() if new in wanted},
        dropped=dropped,
        filled=filled,
        notes=notes,
        missing=tuple(name for name in wanted if name not in ours),
        unknown=(*extra, *strangers),
        misshapen=misshapen,
    )


def fold_biases(tensors: Tensors, wanted: Mapping[str, object]) -> tuple[Tensors, list[str]]:
    """Move biases that a batch norm right behind their convolution cancels into its mean.

    Some codes keep such biases, the networks here do not: to a batch norm, a constant more in
    every pixel of a channel is a mean that is larger by it.

    Returns:
        The tensors, and the names that are gone.
    """
    folded, gone = dict(tensors), []
    for name, bias in tensors.items():
        match = re.fullmatch(r"(.*\.)(\d+)\.bias", name)
        if match is None or name in wanted:
            continue
        mean = f"{match[1]}{int(match[2]) + 1}.running_mean"
        if mean in tensors and tensors[mean].shape == bias.shape:
            folded[mean] = tensors[mean] - bias
            del folded[name]
            gone.append(name)
    return folded, gone


def network_of(found: Attempt) -> nn.Module:
    """The network itself, with the file's weights, in float32."""
    assert found.spec is not None
    network = build(found.spec)
    network.load_state_dict(found.tensors, strict=True)
    return network


def refusal(nearest: Attempt, tensors: Tensors, said: Spec) -> str:
    """What was wrong, and what to try."""
    family, layout = nearest.layout.family, nearest.layout.name
    if nearest.share == 0 and "family" not in said:
        found = f"these tensors are of no network we know: {_some(list(tensors))}"
    else:
        found = f"these tensors are of no network we know; the nearest is {family} ({layout})"
        if "family" in said:
            found = f"these tensors are not those of a {family} network ({layout})"
        if nearest.spec is None:
            found += f" - {nearest.problem}"
        else:
            found += f": {nearest.matched} of {len(nearest.names) + len(nearest.unknown)} match"
    parts = [found]
    if nearest.share and nearest.unknown:
        parts.append(f"it has no place for {_some(nearest.unknown)}")
    if nearest.missing:
        parts.append(f"the file lacks {_some(nearest.missing)}")
    if nearest.misshapen:
        parts.append(_some([f"{name} is {text}" for name, text in nearest.misshapen.items()]))
    parts.append(
        "if you know what it is, say so with --architecture: a specification, or a family of "
        + ", ".join(FAMILIES)
    )
    return "; ".join(parts)


def _some(names: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
