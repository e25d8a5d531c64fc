"""Look inside a network while it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn


def forward_with_features(
    network: nn.Module, images: Tensor, layers: Sequence[str]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Run a network once; return its output and the outputs of named layers.

    The hooks live for this one pass, so a later pass (another image, an evaluation) can never
    overwrite what this one saw. Features come in the order in which ``layers`` names them.

    Raises:
        KeyError: The network has no layer of that name, or the pass did not go through it.
    """
    known = dict(network.named_modules())
    unknown = [name for name in layers if name not in known]
    if unknown:
        raise KeyError(f"{type(network).__name__} has no layers {unknown}")
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            seen[name] = output

        return hook

    handles = [known[name].register_forward_hook(keep(name)) for name in layers]
    try:
        output = network(images)
    finally:
        for handle in handles:
            handle.remove()
    silent = [name for name in layers if name not in seen]
    if silent:
        raise KeyError(f"{type(network).__name__} did not run its layers {silent}")
    return output, {name: seen[name] for name in layers}
