"""A pytest plugin: the fixture ``latency_gate`` fails a test whose bundle became slower.

    # conftest.py, the topmost
    pytest_plugins = ["deploy.pytest_gate"]

    # test_speed.py
    def test_the_bundle_is_no_slower(latency_gate):
        latency_gate("build/restore/cpu/bundle", baseline="release/bundle")

A suite loads this in every run, also in those that measure nothing, so at import it takes pytest
and the standard library and nothing else.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from deploy.gating import Watching
    from devices.gate.report import GateReport
    from devices.gate.rounds import Measure

INCONCLUSIVE = ("skip", "fail", "pass")
"""What a test may do where the rounds cannot say. A skip is neither green nor red, and is listed
with its reason; a suite that must not go on without an answer says fail."""

KEPT = "latency_gates"
"""Attribute of a test's report: lines of JSON, which pytest-xdist carries to the main process."""


@dataclass(frozen=True)
class Line:
    """A gate, as far as the summary at the end needs it.

    Attributes:
        test: Node id of its test.
        began_s: When it began, seconds since the epoch.
        slowdown: Estimate of the growth of the latency, 0.05 is 5 % more.
        upper: It lies below this with 95 % confidence; None where rounds are too few to say.
        markdown: The whole of it, for a pull request.
    """

    test: str
    began_s: float
    verdict: str
    slowdown: float
    upper: float | None
    floor: float
    rounds: int
    seconds: float
    markdown: str


GATES = pytest.StashKey[list[Line]]()
"""Of a test: the gates that ended since it was last reported."""


class LatencyGate(Protocol):
    """What the fixture ``latency_gate`` is."""

    def __call__(
        self,
        candidate: str | Path,
        *,
        baseline: str | Path,
        budget_ms: float | None = None,
        rounds: int | None = None,
    ) -> GateReport:
        """Compare two bundles on this machine; fail or skip the test, or return the report.

        Args:
            candidate: The bundle that may be slower.
            baseline: The one that is good enough: a folder, here or in ``--latency-baseline DIR``,
                or ``store:NAME``, what `pocketgan gate --accept` put into that folder.
            budget_ms: The median of the candidate must be shown to be at most so much, as well.
            rounds: How often to measure each at most; by default as often as `pocketgan gate`.
        """


@pytest.fixture
def latency_measure() -> Measure:
    """Measures a bundle once; a suite may override it, to measure with another interpreter."""
    from devices.measure_once import in_fresh_process

    return in_fresh_process


@pytest.fixture
def latency_watching() -> Watching | None:
    """Makes what looks at clocks and temperatures meanwhile; None where nothing shall look."""
    from devices.telemetry.readers import readers_of_this_machine
    from devices.telemetry.watch import Watch

    return lambda: Watch(readers_of_this_machine())


@pytest.fixture
def latency_gate(
    request: pytest.FixtureRequest,
    latency_measure: Measure,
    latency_watching: Watching | None,
) -> LatencyGate:
    """Fail the test where a bundle is slower, larger in memory or worse than another."""
    config = request.config

    def compare(
        candidate: str | Path,
        *,
        baseline: str | Path,
        budget_ms: float | None = None,
        rounds: int | None = None,
    ) -> GateReport:
        from deploy.gate_in_suites import NotMeasuredError, measured

        began_s = time.time()
        failed = ""
        try:
            report = measured(
                request.node.name,
                Path(candidate),
                baseline=baseline,
                folder=config.getoption("latency_baseline"),
                budget_ms=budget_ms,
                rounds=rounds,
                measure=latency_measure,
                watching=latency_watching,
            )
        except NotMeasuredError as error:
            failed = str(error)
        # out here, or pytest would print what the sentence was made of as well
        if failed:
            pytest.fail(f"the latency gate could not measure: {failed}", pytrace=False)
        _keep(request.node, report, began_s, config.getoption("latency_json"))
        _settle(report, config.getini("latency_gate_inconclusive"))
        return report

    return compare


def _keep(item: pytest.Item, report: GateReport, began_s: float, folder: Path | None) -> None:
    from deploy.gate_in_suites import file_name
    from devices.gate.markdown import markdown

    steady = report.pairs[0].cell("steady")
    lines = item.stash.setdefault(GATES, [])
    lines.append(
        Line(
            test=item.nodeid,
            began_s=began_s,
            verdict=report.verdict,
            slowdown=steady.slowdown,
            upper=steady.upper,
            floor=steady.floor,
            rounds=steady.rounds,
            seconds=report.seconds,
            markdown=markdown(report, [f"This was the test {item.nodeid}."]),
        )
    )
    if folder is not None:
        (folder / file_name(item.nodeid, began_s)).write_text(report.model_dump_json() + "\n")


def _settle(report: GateReport, inconclusive: str) -> None:
    sentences = "\n".join(f"  {sentence}" for sentence in report.reasons)
    if report.verdict == "slower":
        pytest.fail(f"latency gate: slower\n{sentences}", pytrace=False)
    if report.verdict == "inconclusive" and inconclusive == "fail":
        pytest.fail(f"latency gate: inconclusive\n{sentences}", pytrace=False)
    if report.verdict == "inconclusive" and inconclusive == "skip":
        pytest.skip(f"latency gate: inconclusive: {report.reasons[0]}")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options and the setting."""
    group = parser.getgroup("latency gate")
    group.addoption(
        "--latency-baseline",
        type=Path,
        metavar="DIR",
        help="where baselines are, those that a test names and that are no path from here",
    )
    group.addoption(
        "--latency-json", type=Path, metavar="DIR", help="write all that each gate measured there"
    )
    group.addoption(
        "--latency-markdown",
        type=Path,
        metavar="FILE",
        help="append a summary for a pull request, e.g. to $GITHUB_STEP_SUMMARY",
    )
    parser.addini(
        "latency_gate_inconclusive",
        f"what a test does where a gate cannot say: {', '.join(INCONCLUSIVE)} (default: skip)",
        default="skip",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Refuse before anything is measured what could not be written after it.

    Raises:
        pytest.UsageError: An option or the setting makes no sense.
    """
    inconclusive = config.getini("latency_gate_inconclusive")
    if inconclusive not in INCONCLUSIVE:
        raise pytest.UsageError(
            f"latency_gate_inconclusive = {inconclusive!r}; it is one of {', '.join(INCONCLUSIVE)}"
        )
    folder: Path | None = config.getoption("latency_json")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    file: Path | None = config.getoption("latency_markdown")
    if file is not None and not file.parent.is_dir():
        raise pytest.UsageError(
            f"--latency-markdown {file}: there is no folder {file.parent}; make it first"
        )
    # a worker of pytest-xdist reports to the main process, which sums up
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Summary(file), "latency-gate-summary")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Hang what gates said of a test on its report."""
    report = yield
    lines = item.stash.get(GATES, [])
    if lines:
        vars(report)[KEPT] = [json.dumps(asdict(line)) for line in lines]
        lines.clear()
    return report


class Summary:
    """Collects the gates of a session and tells of them at its end."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._lines: list[Line] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take what a test's report carries, from this process or a worker."""
        self._lines += [Line(**json.loads(line)) for line in vars(report).get(KEPT, [])]

    def pytest_sessionfinish(self) -> None:
        """Write the Markdown; nothing where no gate ran."""
        if self._file is not None and self._lines:
            with self._file.open("a") as file:
                file.writelines(f"{line.markdown.rstrip()}\n\n" for line in self._sorted())

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print a table of all gates, in the order they began."""
        if self._lines:
            terminalreporter.section("latency gates")
            for row in table(self._sorted()):
                terminalreporter.write_line(row)

    def _sorted(self) -> list[Line]:
        return sorted(self._lines, key=lambda line: line.began_s)


def table(lines: Sequence[Line]) -> list[str]:
    """The lines as a table for a terminal."""
    columns: dict[str, Callable[[Line], str]] = {
        "verdict": lambda line: line.verdict,
        "growth": lambda line: f"{line.slowdown:+.1%}",
        "at most": lambda line: "-" if line.upper is None else f"{line.upper:+.1%}",
        "floor": lambda line: f"{line.floor:.0%}",
        "rounds": lambda line: str(line.rounds),
        "seconds": lambda line: f"{line.seconds:.0f}",
        "test": lambda line: line.test,
    }
    rows = [list(columns), *([show(line) for show in columns.values()] for line in lines)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if name in ("verdict", "test") else cell.rjust(width)
            for name, cell, width in zip(columns, row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]
