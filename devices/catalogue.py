"""What there is to say of a profile and of this machine, as text for the command line."""

from __future__ import annotations

from collections.abc import Iterator

from devices.machine import Machine, available
from devices.profile import DeviceProfile, LatencyBudget, PowerMode


def facts_of(profile: DeviceProfile) -> dict[str, str]:
    """A profile's values by what they are, in the order a person asks; nothing that is empty."""
    facts = {
        "name": profile.name,
        "device": profile.description,
        "refused": profile.refused,
        "architecture": profile.architecture,
        "board": profile.board or "any",
        "software": profile.software,
        "tensorrt": _tensorrt(profile),
        "runtimes": ", ".join(profile.backends),
        "providers": ", ".join(profile.execution_providers),
        "options": "; ".join(
            f"{name}: {', '.join(f'{key}={value}' for key, value in options.items())}"
            for name, options in profile.provider_options.items()
        ),
        "precisions": ", ".join(profile.precisions),
        "opset": f"{profile.opset} at most",
        "lacks": ", ".join(profile.unsupported_operators),
        "slow at": ", ".join(profile.slow_operators),
        "image": f"{profile.image_size} x {profile.image_size} pixels",
        "threads": str(profile.threads),
        "memory": f"{profile.memory_mib} MiB",
        "channels": f"multiples of {profile.channel_multiple}",
        "budget": "" if profile.refused else budget_text(profile.budget),
        "source": profile.source,
    }
    return {name: fact for name, fact in facts.items() if fact}


def mode_row(mode: PowerMode) -> tuple[str, ...]:
    """One row of a board's power switch: name, W, GPU MHz, CPU MHz, p50 / p90 / p99 ms, source."""
    numbers = (f"{limit:g}" if limit else "" for limit in (mode.watts, mode.gpu_mhz, mode.cpu_mhz))
    budget = mode.budget
    promise = f"{budget.p50_ms:g} / {budget.p90_ms:g} / {budget.p99_ms:g}" if budget else ""
    return (mode.name, *numbers, promise, mode.source)


def budget_text(budget: LatencyBudget) -> str:
    """A latency promise, in words."""
    return f"p50 {budget.p50_ms:g} ms, p90 {budget.p90_ms:g} ms, p99 {budget.p99_ms:g} ms"


def about_machine(profile: DeviceProfile, machine: Machine, free_mib: float) -> Iterator[str]:
    """Whether a machine is a profile's device, and what would disturb it there.

    Args:
        profile: The device.
        machine: What to judge.
        free_mib: Memory free on it, in MiB.
    """
    reasons = available(profile, machine)
    if reasons:
        yield "no: " + "; ".join(reasons)
        return
    yield "yes"
    if machine.cores < profile.threads:
        yield (
            f"it has {machine.cores} cores and sessions use {profile.threads} threads, so what is "
            "measured here is slower than on the device that is meant"
        )
    if free_mib < profile.memory_mib:
        yield f"{free_mib:.0f} MiB are free, {profile.memory_mib} are allowed: stop other programs"
    if machine.power_mode is not None:
        known = [mode.name for mode in profile.power_modes]
        if known and machine.power_mode not in known:
            yield f"power mode {machine.power_mode} is not in the profile ({', '.join(known)})"
        else:
            promised = budget_text(profile.budget_in(machine.power_mode))
            yield f"power mode {machine.power_mode}: {promised}"
    installed = machine.runtimes.get("tensorrt")
    if profile.tensorrt is not None and installed is not None:
        expected = profile.tensorrt.version
        if not f"{installed}.".startswith(f"{expected}."):
            yield f"it has TensorRT {installed}, the profile is of {expected}; change it in a copy"


def _tensorrt(profile: DeviceProfile) -> str:
    tensorrt = profile.tensorrt
    if tensorrt is None:
        return ""
    dla = f"{tensorrt.dla_cores} DLA" if tensorrt.dla_cores else "no DLA"
    used = ", one used" if tensorrt.use_dla else ""
    return (
        f"{tensorrt.version}, compute capability {tensorrt.compute_capability}, "
        f"{tensorrt.workspace_mib} MiB to build in, {dla}{used}"
    )
