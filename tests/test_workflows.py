"""The workflows and the action: read as YAML, and the action's own steps run as a runner would."""

from __future__ import annotations

import argparse
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from deploy.gate_cli import add_arguments

ROOT = Path(__file__).parents[1]
ACTION = ROOT / ".github" / "actions" / "latency-gate"
WORKFLOWS = [*sorted((ROOT / ".github" / "workflows").glob("*.yml")), ROOT / "examples/ci/gate.yml"]
SCRIPTS = sorted(ACTION.glob("*.sh"))
GATE = yaml.safe_load((ACTION / "action.yml").read_text())
STEPS = GATE["runs"]["steps"]

EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}")

BY_THE_RUNNER = {
    "GITHUB_ACTION_PATH",
    "GITHUB_OUTPUT",
    "GITHUB_PATH",
    "GITHUB_STEP_SUMMARY",
    "HOME",
    "PWD",
    "RUNNER_TEMP",
}
"""Environment variables that a script may use without being given them."""

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


def runs() -> list[tuple[str, str]]:
    """Every script in YAML, and where it is."""
    found = [("action.yml", step["run"]) for step in STEPS if "run" in step]
    for path in WORKFLOWS:
        for job in yaml.safe_load(path.read_text())["jobs"].values():
            found += [(path.name, step["run"]) for step in job["steps"] if "run" in step]
    return found


def uses() -> list[tuple[Path, dict]]:
    """Every step that uses an action."""
    found = [(ACTION / "action.yml", step) for step in STEPS if "uses" in step]
    for path in WORKFLOWS:
        for job in yaml.safe_load(path.read_text())["jobs"].values():
            found += [(path, step) for step in job["steps"] if "uses" in step]
    return found


@pytest.mark.parametrize(("where", "script"), runs())
def test_no_expression_is_pasted_into_a_script(where, script):
    """What is pasted is run: the title of a pull request could hold a command."""
    assert "${{" not in script


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_bash_and_stop_at_the_first_error(path):
    text = path.read_text()
    assert subprocess.run(["bash", "-n", path], capture_output=True).returncode == 0
    assert "\nset -euo pipefail\n" in text
    assert "${{" not in text


@pytest.mark.parametrize(("where", "script"), runs())
def test_scripts_in_yaml_are_bash(where, script):
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0


def test_only_official_actions_are_used_by_their_major_version():
    for path, step in uses():
        ours = r"(\.|OWNER/pocketgan)/\.github/actions/latency-gate(@REVISION)?"
        assert re.fullmatch(rf"actions/[a-z/-]+@v\d+|{ours}", step["uses"]), path


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_may_read_and_no_more_unless_a_job_says_so(path):
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 40
        assert set(job.get("permissions", {}).items()) <= {
            ("contents", "read"),
            ("pull-requests", "write"),
        }


def test_every_input_is_used_and_described_with_its_default():
    text = (ACTION / "action.yml").read_text().partition("\nruns:")[2]
    page = (ACTION / "README.md").read_text()
    for name, given in GATE["inputs"].items():
        assert f"inputs.{name}" in text, name
        default = "required" if given.get("required") else f"`{given['default']}`"
        assert f"\n| `{name}` | {default.replace('``', '-')} |" in page, name
    assert set(re.findall(r"inputs\.([a-z-]+)", text)) == set(GATE["inputs"])
    for name in GATE["outputs"]:
        assert f"\n| `{name}` |" in page


def test_the_project_gates_the_bundle_that_it_makes():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "gate.yml").read_text())
    steps = workflow["jobs"]["gate"]["steps"]
    (made,) = (step["run"] for step in steps if "make" in step.get("run", ""))
    assert "make compress deploy DEVICE=cpu\n" in made
    code, bundle = (step["with"] for step in steps if "latency-gate" in step.get("uses", ""))
    assert code["bundle"] == bundle["candidate"] == "build/restore/cpu/bundle"
    # the revision before must have been fetched
    assert code["baseline"] == "rev:HEAD^1"
    assert steps[0]["with"]["fetch-depth"] == 2


def test_steps_refer_to_steps_before_them():
    text = json.dumps(STEPS) + json.dumps(GATE["outputs"])
    ids = [step["id"] for step in STEPS if "id" in step]
    assert set(re.findall(r"steps\.([a-z]+)\.", text)) == set(ids)


def test_who_uses_the_action_gives_it_inputs_that_it_has():
    ours = [(path, step) for path, step in uses() if "latency-gate" in step["uses"]]
    assert len(ours) == 3
    pages = [ROOT / "docs" / "ci.md", ACTION / "README.md"]
    for page in pages:
        blocks = re.findall(r"^```yaml\n(.*?)^```", page.read_text(), flags=re.M | re.S)
        for steps in map(yaml.safe_load, blocks):
            if isinstance(steps, list):
                ours += [(page, step) for step in steps if "latency-gate" in step.get("uses", "")]
    assert len(ours) > 3
    required = {name for name, given in GATE["inputs"].items() if given.get("required")}
    for path, step in ours:
        assert required <= set(step["with"]) <= set(GATE["inputs"]), path


@pytest.mark.parametrize("step", [step for step in STEPS if "run" in step], ids=lambda s: s["run"])
def test_scripts_are_given_every_variable_that_they_use(step):
    assert step["shell"] == "bash"
    text = step["run"]
    for name in re.findall(r"\$GITHUB_ACTION_PATH/([a-z.]+)", text):
        text += (ACTION / name).read_text()
    used = set(re.findall(r"\$\{?!?([A-Z][A-Z_]+)", text)) | set(
        re.findall(r"environ\['(\w+)", text)
    )
    used |= set(re.findall(r'environ\["(\w+)', text))
    ours = {name for name in used if name not in BY_THE_RUNNER and not name.startswith("GITHUB_")}
    assert ours <= set(step["env"])


# --- the action's own steps, run here ------------------------------------------------------------

# for a shell first, since "#!" cannot name an interpreter at a path with a space
POCKETGAN = """#!/bin/sh
''':'
exec "{python}" "$0" "$@"
'''
import json, os, sys
from pathlib import Path

words = sys.argv[1:]
with open({log!r}, "a") as log:
    log.write(json.dumps(words) + "\\n")
given = dict(word.split("=", 1) for word in words if "=" in word)
status, report = {status!r}, {report!r}
if report is not None:
    Path(given["--json"]).write_text(json.dumps(report))
    Path(given["--markdown"]).write_text("### Latency gate\\n")
    Path(given["--junit"]).write_text("<testsuites/>")
    if "--accept" in words and status == 0:
        folder = Path(given["--store"], "restore", "cpu")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "accepted.json").write_text("{{}}")
sys.exit(status)
"""


def report(verdict: str, *slowdowns: float) -> dict:
    """As much of a report as the action reads."""
    cold = {"measured": "cold", "judgement": {"slowdown": 9.0}}
    pairs = [
        {"cells": [{"measured": "steady", "judgement": {"slowdown": slowdown}}, cold]}
        for slowdown in slowdowns
    ]
    return {"verdict": verdict, "pairs": pairs}


@dataclass
class Runner:
    """Enough of GitHub's runner for this action: inputs, conditions, outputs, environment.

    Attributes:
        skipped: Actions of others, with what they were given; they are not run.
        asked: What `pocketgan` was asked.
    """

    folder: Path
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)
    others: list[tuple[str, dict]] = field(default_factory=list)
    said: str = ""
    failed: int = 0
    event: str = "pull_request"
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def temp(self) -> Path:
        return self.folder / "runner temp"

    @property
    def asked(self) -> list[list[str]]:
        log = self.folder / "asked"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    @property
    def summary(self) -> str:
        path = self.folder / "summary"
        return path.read_text() if path.exists() else ""

    def install(self, status: int, written: dict | None) -> None:
        """Put a `pocketgan` on PATH that ends with a status, after it wrote a report or none."""
        program = self.folder / "bin" / "pocketgan"
        program.parent.mkdir(exist_ok=True)
        log = str(self.folder / "asked")
        program.write_text(
            POCKETGAN.format(python=sys.executable, log=log, status=status, report=written)
        )
        program.chmod(0o755)

    def run(self, **given: str) -> int:
        """Run the action with inputs; underscores stand for hyphens."""
        self.temp.mkdir(exist_ok=True)
        inputs = {
            name: self.fill(one.get("default", ""), {}) for name, one in GATE["inputs"].items()
        }
        inputs |= {name.replace("_", "-"): value for name, value in given.items()}
        for step in STEPS:
            always = "always()" in step.get("if", "")
            if (self.failed and not always) or not self.value(step.get("if", "always()"), inputs):
                continue
            if "uses" in step:
                filled = {key: self.fill(str(text), inputs) for key, text in step["with"].items()}
                self.others.append((step["uses"], filled))
                if step["uses"].startswith("actions/setup-python"):
                    self.outputs[step["id"]] = {"python-path": sys.executable}
                continue
            self.failed = self.failed or self.step(step, inputs)
        return self.failed

    def step(self, step: dict, inputs: dict[str, str]) -> int:
        output = self.folder / "output"
        output.write_text("")
        environ = {key: self.fill(text, inputs) for key, text in step["env"].items()}
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", step["run"]],
            cwd=self.folder,
            env={
                "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
                "HOME": str(self.folder / "home"),
                "RUNNER_TEMP": str(self.temp),
                "GITHUB_ACTION_PATH": str(ACTION),
                "GITHUB_OUTPUT": str(output),
                "GITHUB_STEP_SUMMARY": str(self.folder / "summary"),
                **self.environ,
                **environ,
            },
            capture_output=True,
            text=True,
        )
        self.said += done.stdout + done.stderr
        lines = [line.partition("=") for line in output.read_text().splitlines()]
        self.outputs[step.get("id", "")] = {name: value for name, _, value in lines}
        return done.returncode

    def fill(self, text: str, inputs: dict[str, str]) -> str:
        return EXPRESSION.sub(lambda found: str(self.value(found[1], inputs)), text)

    def value(self, expression: str, inputs: dict[str, str]) -> object:
        """The value of one of the few kinds of expressions that the action has."""
        contexts = {
            "github.event_name": self.event,
            "github.event.pull_request.number": "7",
            "github.run_id": "11",
            "github.run_attempt": "1",
            "github.token": "secret",
            "runner.os": "Linux",
            "runner.arch": "X64",
            "runner.temp": str(self.temp),
        }

        def look_up(found: re.Match[str]) -> str:
            if found[0].startswith("'"):
                return found[0]
            kind, _, name = found[0].partition(".")
            if kind == "inputs":
                return repr(inputs[name])
            if kind == "steps":
                step, _, output = name.partition(".outputs.")
                return repr(self.outputs.get(step, {}).get(output, ""))
            return repr(contexts[found[0]])

        python = expression.replace("&&", " and ").replace("||", " or ")
        python = python.replace("always()", "True")
        python = re.sub(r"'[^']*'|\b(inputs|steps|github|runner)\.[\w.-]+", look_up, python)
        return eval(python.strip(), {"__builtins__": {}})


@pytest.fixture
def runner(tmp_path):
    return Runner(tmp_path)


PATHS = {"baseline": "old bundle", "candidate": "new/bundle", "install": "false"}
STORED = {"baseline": "store:restore", "candidate": "new", "install": "false"}


@pytest.mark.parametrize(
    ("status", "verdict", "inconclusive", "ends", "said"),
    [
        (0, "pass", "fail", 0, ""),
        (1, "slower", "warn", 1, "::error title=latency-gate::the candidate is slower or worse"),
        (2, "inconclusive", "warn", 0, "::warning title=latency-gate::these rounds cannot say"),
        (2, "inconclusive", "fail", 2, "::error title=latency-gate::these rounds cannot say"),
    ],
)
def test_each_verdict_ends_the_action_as_it_should(
    runner, status, verdict, inconclusive, ends, said
):
    runner.install(status, report(verdict, 0.0123, 0.2))
    assert runner.run(**PATHS, inconclusive=inconclusive) == ends
    assert said in runner.said
    assert runner.said.count("::") == (2 if said else 0)
    outputs = runner.outputs["gate"]
    assert outputs["verdict"] == verdict
    assert outputs["slowdown"] == "0.2000"
    assert json.loads(Path(outputs["report"]).read_text())["verdict"] == verdict
    assert runner.summary == "### Latency gate\n"
    uploaded = dict(runner.others)["actions/upload-artifact@v4"]
    assert uploaded["name"] == "latency-gate-latency"
    assert Path(uploaded["path"], "junit.xml").is_file()


def test_a_gate_that_could_not_measure_is_not_taken_for_one_that_cannot_say(runner):
    runner.install(2, None)
    assert runner.run(**PATHS, inconclusive="warn") == 2
    assert "the gate could not measure (status 2)" in runner.said
    assert "verdict" not in runner.outputs["gate"]
    assert "actions/upload-artifact@v4" not in dict(runner.others)


def test_a_report_of_an_earlier_run_is_not_taken_for_one_of_this(runner):
    runner.install(0, report("pass", 0.0))
    assert runner.run(**PATHS) == 0
    runner.install(2, None)
    assert runner.run(**PATHS) == 2


def options(words: list[str]) -> argparse.Namespace:
    """What the real program makes of the words."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_arguments("gate", parser)
    assert words[0] == "gate"
    return parser.parse_args(words[1:])


@pytest.mark.parametrize(
    ("given", "understood"),
    [
        (PATHS, {"baseline": "old bundle", "candidate": "new/bundle", "rounds": 40}),
        ({**PATHS, "rounds": "18"}, {"rounds": 18}),
        (
            {"baseline": "rev:HEAD^1", "candidate": "rev:HEAD", "bundle": "b", "install": "false"},
            {"baseline": "rev:HEAD^1", "candidate": "rev:HEAD", "bundle": Path("b")},
        ),
        (STORED, {"baseline": "store:restore", "accept": False}),
        ({**STORED, "accept": "true"}, {"accept": True}),
        (
            {"baseline": "a.onnx", "candidate": "b.onnx", "install": "false"},
            {"baseline": "a.onnx", "device": "cpu"},
        ),
    ],
)
def test_the_program_understands_what_the_action_asks(runner, given, understood):
    runner.install(0, report("pass", 0.0))
    assert runner.run(**given) == 0
    (asked,) = runner.asked
    parsed = vars(options(asked))
    assert {name: parsed[name] for name in understood} == understood
    (folder,) = {parsed[name].parent for name in ("json", "markdown", "junit")}
    assert folder == runner.temp / "latency-gate" / "latency" / "report"
    assert (parsed["store"] is not None) == given["baseline"].startswith("store:")


def test_a_baseline_may_be_an_artifact(runner):
    runner.install(0, report("pass", 0.0))
    inputs = {"baseline": "artifact:release", "candidate": "new", "install": "false"}
    assert runner.run(**inputs) == 0
    (asked,) = runner.asked
    fetched = dict(runner.others)["actions/download-artifact@v4"]
    assert options(asked).baseline == fetched["path"]
    assert fetched["name"] == "release"
    assert (fetched["run-id"], fetched["github-token"]) == ("11", "")
    runner.others.clear()
    assert runner.run(**inputs, baseline_run_id="5") == 0
    fetched = dict(runner.others)["actions/download-artifact@v4"]
    assert (fetched["run-id"], fetched["github-token"]) == ("5", "secret")


def test_the_store_comes_from_the_cache_and_goes_there_when_something_was_accepted(runner):
    runner.install(0, report("pass", 0.0))
    assert runner.run(**STORED) == 0
    used = dict(runner.others)
    assert "actions/cache/save@v4" not in used
    restored = used["actions/cache/restore@v4"]
    assert restored["key"].startswith(restored["restore-keys"])
    runner.others.clear()

    assert runner.run(**STORED, accept="true") == 0
    saved = dict(runner.others)["actions/cache/save@v4"]
    assert saved == {key: restored[key] for key in ("key", "path")}
    store = saved["path"].replace("~", str(runner.folder / "home"))
    assert str(options(runner.asked[-1]).store) == store
    runner.others.clear()

    # the same bundle again: nothing new to keep
    assert runner.run(**STORED, accept="true") == 0
    assert "actions/cache/save@v4" not in dict(runner.others)


def test_what_is_slower_is_not_accepted(runner):
    runner.install(1, report("slower", 0.3))
    assert runner.run(**STORED, accept="true") == 1
    assert "actions/cache/save@v4" not in dict(runner.others)


@pytest.mark.parametrize(("inconclusive", "ends"), [("warn", 0), ("fail", 2)])
def test_an_empty_store_is_no_pass(runner, inconclusive, ends):
    runner.install(0, {"schema_version": 1, "kind": "steady", "medians_ms": [4.0]})
    assert runner.run(**STORED, inconclusive=inconclusive) == ends
    assert runner.outputs["gate"]["verdict"] == "none"
    assert runner.outputs["gate"]["slowdown"] == ""
    assert "the store holds no baseline" in runner.said


def test_the_first_baseline_is_welcome(runner):
    runner.install(0, {"schema_version": 1, "kind": "steady", "medians_ms": [4.0]})
    assert runner.run(**STORED, accept="true", inconclusive="fail") == 0
    assert "the candidate is the first one" in runner.said
    assert "actions/cache/save@v4" in dict(runner.others)


def test_by_default_it_runs_what_it_installed(runner, tmp_path):
    """With a Python that only notes what it is asked."""
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\n"
        f'echo "$@" >> "{tmp_path}/pip"\n'
        'if [ "$2" = venv ]; then\n'
        '  mkdir -p "$3/bin"\n'
        f'  cp "$0" "$3/bin/python"\n'
        f'  cp "{tmp_path}/bin/pocketgan" "$3/bin/pocketgan"\n'
        "fi\n"
    )
    python.chmod(0o755)
    runner.install(0, report("pass", 0.0))
    (step,) = (step for step in STEPS if step.get("id") == "install")
    environment = runner.temp / "latency-gate" / "environment"
    asked = {}
    for device, baseline in (("cpu", "old"), ("raspberrypi5", "old"), ("cpu", "rev:main")):
        (tmp_path / "pip").unlink(missing_ok=True)
        given = {"DEVICE": device, "BASELINE": baseline, "PYTHON": str(python)}
        assert runner.step({**step, "env": given}, {}) == 0, runner.said
        venv, pip = (tmp_path / "pip").read_text().splitlines()
        assert venv == f"-m venv {environment}"
        asked[device, baseline] = pip.partition(f"--constraint {ROOT}/constraints.txt ")[2]
    assert asked["cpu", "old"] == f"{ROOT}[serving,openvino]"
    assert asked["raspberrypi5", "old"] == f"{ROOT}[serving]"
    assert asked["cpu", "rev:main"] == f"{ROOT}[serving,openvino] hatchling"
    assert runner.outputs["install"]["program"] == f"{environment}/bin/pocketgan"


def test_a_device_that_there_is_not_is_named_before_anything_is_installed(runner):
    assert runner.run(baseline="old", candidate="new", device="toaster") == 2
    assert "there is no device profile 'toaster'" in runner.said
    assert runner.asked == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"baseline": "old\n::add-mask::x"}, "the input baseline holds a line break"),
        ({"baseline": ""}, "which baseline?"),
        ({"candidate": ""}, "which candidate?"),
        ({"name": "a/../b"}, "name is 'a/../b'"),
        ({"device": "../x"}, "device is '../x'"),
        ({"rounds": "many"}, "rounds is 'many'"),
        ({"inconclusive": "ignore"}, "inconclusive is 'ignore'"),
        ({"accept": "yes"}, "accept is 'yes'"),
        ({"accept": "true"}, "the baseline must be store:NAME"),
        ({"baseline": "artifact:"}, "name the artifact"),
        ({"baseline": "store:../x"}, "after store:"),
        ({"baseline": "rev:main"}, "compare two revisions"),
        ({"baseline": "rev:main", "candidate": "rev:HEAD"}, "name it in the input bundle"),
    ],
)
def test_inputs_that_make_no_sense_are_refused_before_anything_runs(runner, wrong, said):
    runner.install(0, report("pass", 0.0))
    assert runner.run(**{**PATHS, **wrong}) == 2
    assert said in runner.said
    assert "add-mask" not in runner.said
    assert runner.asked == []
    assert runner.others == []


def test_words_of_an_input_stay_words(runner):
    runner.install(0, report("pass", 0.0))
    odd = "$(touch pwned) `touch pwned`; touch pwned && * \"'"
    assert runner.run(**{**PATHS, "candidate": odd}) == 0
    assert options(runner.asked[0]).candidate == odd
    assert not (runner.folder / "pwned").exists()


class GitHub(http.server.BaseHTTPRequestHandler):
    """As much of GitHub's REST API as the comment needs."""

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        self.server.asked.append((self.command, self.path, self.headers["Authorization"], body))
        self.send_response(self.server.status)
        self.end_headers()
        found = self.server.comments if self.command == "GET" else {"html_url": "the address"}
        self.wfile.write(json.dumps(found).encode())

    do_GET = do_POST = do_PATCH = answer  # noqa: N815

    def log_message(self, *words) -> None:
        pass


@pytest.fixture
def github(runner):
    server = http.server.HTTPServer(("127.0.0.1", 0), GitHub)
    server.asked, server.comments, server.status = [], [], 200
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    runner.environ = {
        "GITHUB_API_URL": f"http://127.0.0.1:{server.server_port}",
        "GITHUB_REPOSITORY": "somebody/project",
    }
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_comment_is_written_once_and_then_changed(runner, github):
    runner.install(1, report("slower", 0.3))
    assert runner.run(**PATHS, comment="true") == 1
    get, post = github.asked
    assert get[1] == "/repos/somebody/project/issues/7/comments?per_page=100&page=1"
    marker = "<!-- latency-gate: latency -->\n"
    assert post == (
        "POST",
        "/repos/somebody/project/issues/7/comments",
        "Bearer secret",
        {"body": f"{marker}### Latency gate\n"},
    )
    github.asked.clear()
    github.comments = [
        {"id": 1, "body": None, "user": {"type": "Bot"}},
        {"id": 2, "body": "<!-- latency-gate: other -->\n", "user": {"type": "Bot"}},
        {"id": 3, "body": marker, "user": {"type": "User"}},
        {"id": 4, "body": marker, "user": {"type": "Bot"}},
    ]
    runner.failed = 0
    runner.run(**PATHS, comment="true")
    assert [one[:2] for one in github.asked[1:]] == [
        ("PATCH", "/repos/somebody/project/issues/comments/4")
    ]


def test_a_comment_that_may_not_be_written_fails_nothing(runner, github):
    runner.install(0, report("pass", 0.0))
    github.status = 403
    assert runner.run(**PATHS, comment="true") == 0
    assert "GitHub answered 403; the job needs `permissions: pull-requests: write`" in runner.said


def test_there_is_no_comment_without_a_pull_request(runner, github):
    runner.install(0, report("pass", 0.0))
    runner.event = "push"
    assert runner.run(**PATHS, comment="true") == 0
    assert github.asked == []
