"""A gate as Markdown, for a pull request or the summary of a CI job."""

from __future__ import annotations

from collections.abc import Sequence

from devices.gate.report import GateReport, PairReport
from devices.gate.table import Answer, answers, could_see, facts, headline, images_line, word
from devices.reporting.markdown import plain, table_line

MARKS = {"pass": ":white_check_mark:", "slower": ":x:", "inconclusive": ":grey_question:"}
"""Beside the words, which say all: a list of many checks is read by its marks."""


def markdown(report: GateReport, notes: Sequence[str] = ()) -> str:
    """The verdict first, then a line for each pair, and the rest folded away.

    Names, paths and reasons come from files of others: none of them can be a link, a cell or HTML.

    Args:
        report: What was measured.
        notes: What else is to be said, a sentence each.
    """
    mark = MARKS[report.verdict]
    lines = [f"### {mark} Latency gate: {word(report)}", "", f"**{plain(headline(report))}**", ""]
    rest = [*report.reasons[1:], *notes]
    if rest:
        lines += [*(f"- {plain(sentence)}" for sentence in rest), ""]
    questions = [answer.name for answer in answers(report.pairs[0])]
    lines += [
        table_line("pair", *questions, "images"),
        table_line(*["---"] * (len(questions) + 2)),
        *(_pair(pair) for pair in report.pairs),
        "",
        "What it could have seen:",
        "",
        *(f"- {plain(pair.name)}: {plain(could_see(pair))}" for pair in report.pairs),
        "",
        "<details><summary>conditions and machine</summary>",
        "",
        table_line("", ""),
        table_line("---", "---"),
        *(table_line(name, plain(fact)) for name, fact in facts(report).items()),
        *(table_line(*_digests(pair)) for pair in report.pairs),
        "",
        "</details>",
        "",
    ]
    return "\n".join(lines)


def not_compared(why: str, said: Sequence[str]) -> str:
    """A gate without a baseline: why, and what was measured all the same, a sentence each."""
    lines = ["### Latency gate: no baseline", "", f"**{plain(why)}**", ""]
    return "\n".join([*lines, *(f"- {plain(sentence)}" for sentence in said), ""])


def _pair(pair: PairReport) -> str:
    cells = [_cell(answer) for answer in answers(pair)]
    return table_line(plain(pair.name), *cells, plain(images_line(pair.images)))


def _cell(answer: Answer) -> str:
    change = f"{answer.before} to {answer.after} ({answer.change})"
    # what is not as it should be must be found at a glance, in colour or without
    verdict = answer.word if answer.verdict == "pass" else f"**{answer.word}**"
    return f"{plain(change)}: {verdict}"


def _digests(pair: PairReport) -> tuple[str, str]:
    digests = f"baseline {pair.baseline_sha256}, candidate {pair.candidate_sha256}"
    return f"manifests of {plain(pair.name)}", digests
