"""The Dockerfile, the manifests and the dashboard say what the program says: read, not run."""

from __future__ import annotations

import ast
import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from serving.settings import PREFIX, ServingSettings

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "examples" / "deploy"
MANIFESTS = sorted(DEPLOY.rglob("*.y*ml"))
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "pocketgan.json"
SETTINGS = {PREFIX + field.upper(): field for field in ServingSettings.model_fields}
PORT = str(ServingSettings().port)


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile and their arguments; continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M)
    lines = text.replace("\\\n", " ").splitlines()
    return [tuple(line.strip().split(maxsplit=1)) for line in lines if line.strip()]


def last(name: str) -> str:
    """The argument of the last instruction of a name: the one that counts in the image."""
    return [argument for keyword, argument in instructions() if keyword == name][-1]


def documents(path: Path) -> list:
    return list(yaml.safe_load_all(path.read_text()))


def kubernetes() -> dict[str, dict]:
    return {document["kind"]: document for document in documents(DEPLOY / "kubernetes.yaml")}


def container() -> dict:
    (only,) = kubernetes()["Deployment"]["spec"]["template"]["spec"]["containers"]
    return only


def exported_metrics() -> dict[str, set[str]]:
    """Names in serving/metrics.py as Prometheus stores them, and their labels; read, not run."""
    exported: dict[str, set[str]] = {}
    for call in ast.walk(ast.parse((ROOT / "serving" / "metrics.py").read_text())):
        if not isinstance(call, ast.Call) or not call.args:
            continue
        kind = getattr(call.func, "id", "")
        name = call.args[0].value if isinstance(call.args[0], ast.Constant) else None
        if not isinstance(name, str):
            continue
        labels = {
            element.value
            for part in [*call.args[1:], *(word.value for word in call.keywords)]
            if isinstance(part, ast.List)
            for element in part.elts
        }
        if kind in ("Counter", "CounterMetricFamily"):
            exported[name + "_total"] = labels
        elif kind in ("Histogram", "HistogramMetricFamily"):
            exported |= {name + end: labels for end in ("_sum", "_count")}
            exported[name + "_bucket"] = labels | {"le"}
        elif kind in ("Gauge", "GaugeMetricFamily"):
            exported[name] = labels
        elif kind == "_gauge":
            exported["pocketgan_" + name] = set()
        elif kind == "InfoMetricFamily":
            words = {word.arg: word.value for word in call.keywords}
            exported[name + "_info"] = {key.value for key in words["value"].keys}
    return exported


def expressions() -> list[str]:
    """Every query of the dashboard and of the alerts."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    asked = [target["expr"] for panel in panels for target in panel["targets"]]
    (rules,) = documents(DEPLOY / "prometheus" / "alerts.yml")
    return asked + [rule["expr"] for group in rules["groups"] for rule in group["rules"]]


def test_the_image_is_not_root_and_stops_on_what_the_server_drains_on():
    user, group = last("USER").split(":")
    assert int(user) > 0
    assert int(group) > 0
    assert last("STOPSIGNAL") == "SIGTERM"


def test_the_image_holds_the_environment_and_nothing_of_its_making():
    stages = [argument for keyword, argument in instructions() if keyword == "FROM"]
    assert stages == ["${PYTHON} AS build", "${PYTHON}"]
    final = instructions()[instructions().index(("FROM", stages[-1])) :]
    assert [argument for keyword, argument in final if keyword in ("COPY", "ADD", "RUN")] == [
        "--from=build /opt/pocketgan /opt/pocketgan"
    ]


def test_every_installation_of_the_image_is_pinned():
    installs = [
        part
        for keyword, argument in instructions()
        if keyword == "RUN"
        for part in argument.split("&&")
        if " install " in part
    ]
    assert installs
    assert all("--constraint constraints.txt" in install for install in installs)


def test_what_builds_the_wheel_is_in_the_constraints():
    pinned = re.findall(r"^([A-Za-z0-9_.-]+)==", (ROOT / "constraints.txt").read_text(), re.M)
    assert {"build", "hatchling"} <= set(pinned)


def test_the_image_starts_a_verb_of_the_program():
    assert json.loads(last("ENTRYPOINT")) == ["pocketgan"]
    assert json.loads(last("CMD"))[0] == "serve"


def test_the_image_sets_settings_that_exist_and_exposes_their_port():
    words = dict(word.split("=", 1) for word in shlex.split(last("ENV")))
    ours = {key: value for key, value in words.items() if key.startswith(PREFIX)}
    assert ours.keys() <= SETTINGS.keys()
    assert ours["POCKETGAN_PORT"] == last("EXPOSE") == PORT


def test_the_health_check_is_python_and_asks_whether_it_is_ready():
    command = json.loads(last("HEALTHCHECK").partition("CMD ")[2])
    assert command[:2] == ["python", "-c"]
    compile(command[2], "HEALTHCHECK", "exec")
    assert "/readyz" in command[2]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.relative_to(DEPLOY).as_posix())
def test_every_manifest_is_yaml_and_names_settings_that_exist(path):
    assert all(isinstance(document, dict) for document in documents(path))
    named = set(re.findall(rf"\b{PREFIX}[A-Z_]+\b", path.read_text()))
    assert named <= SETTINGS.keys()


def test_the_pod_may_do_nothing_that_a_server_need_not():
    pod, inside = kubernetes()["Deployment"]["spec"]["template"]["spec"], container()
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert str(pod["securityContext"]["runAsUser"]) == last("USER").split(":")[0]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert inside["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert all(mount["readOnly"] for mount in inside["volumeMounts"])
    assert inside["resources"]["limits"] == inside["resources"]["requests"]


def test_the_probes_ask_routes_of_the_server_at_its_port():
    inside = container()
    assert inside["ports"] == [{"name": "http", "containerPort": int(PORT)}]
    asked = {
        probe: inside[f"{probe}Probe"]["httpGet"] for probe in ("startup", "readiness", "liveness")
    }
    assert asked == {
        "startup": {"path": "/readyz", "port": "http"},
        "readiness": {"path": "/readyz", "port": "http"},
        # a server that is only too slow must not be killed for it
        "liveness": {"path": "/healthz", "port": "http"},
    }
    routes = (ROOT / "serving" / "app.py").read_text()
    assert all(f'"{get["path"]}"' in routes for get in asked.values())


def test_the_values_of_the_pod_are_ones_that_the_settings_take():
    given = {one["name"]: one["value"] for one in container()["env"] if "value" in one}
    settings = ServingSettings.model_validate_strings(
        {SETTINGS[name]: value for name, value in given.items()}
    )
    grace_s = kubernetes()["Deployment"]["spec"]["template"]["spec"][
        "terminationGracePeriodSeconds"
    ]
    pause_s = int(re.search(r"sleep\((\d+)\)", str(container()["lifecycle"]))[1])
    assert grace_s > settings.drain_timeout_s + pause_s


def test_the_parts_of_the_cluster_belong_together():
    parts = kubernetes()
    labels = parts["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for kind, path in {
        "Deployment": ("selector", "matchLabels"),
        "Service": ("selector",),
        "PodDisruptionBudget": ("selector", "matchLabels"),
        "NetworkPolicy": ("podSelector", "matchLabels"),
    }.items():
        selected = parts[kind]["spec"]
        for key in path:
            selected = selected[key]
        assert selected == labels, kind
    scaled = parts["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert scaled["name"] == parts["Deployment"]["metadata"]["name"]
    annotations = parts["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == PORT


def test_compose_runs_the_image_as_little_trusted_as_the_pod():
    (compose,) = documents(DEPLOY / "compose.yaml")
    server = compose["services"]["pocketgan"]
    assert server["read_only"] is True
    assert server["user"] == last("USER")
    assert server["cap_drop"] == ["ALL"]
    assert (DEPLOY / server["build"]["context"] / "Dockerfile").is_file()
    assert set(server["build"]["args"]) <= {
        argument.partition("=")[0] for keyword, argument in instructions() if keyword == "ARG"
    }


def test_compose_opens_ports_to_this_machine_only():
    (compose,) = documents(DEPLOY / "compose.yaml")
    ports = [port for one in compose["services"].values() for port in one.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert f"127.0.0.1:{PORT}:{PORT}" in ports


def test_compose_mounts_files_that_are_there():
    (compose,) = documents(DEPLOY / "compose.yaml")
    mounts = [mount for one in compose["services"].values() for mount in one.get("volumes", [])]
    folders = [mount.partition(":")[0] for mount in mounts if mount.startswith("./")]
    assert len(folders) == 3
    assert all((DEPLOY / folder).is_dir() for folder in folders)


def test_prometheus_asks_the_server_of_compose():
    (config,) = documents(DEPLOY / "prometheus" / "prometheus.yml")
    (job,) = config["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"pocketgan:{PORT}"]}]
    assert all((DEPLOY / "prometheus" / name).is_file() for name in config["rule_files"])
    assert '"/metrics"' in (ROOT / "serving" / "metrics.py").read_text()


@pytest.mark.parametrize("expression", expressions())
def test_every_query_asks_for_metrics_and_labels_that_the_server_exports(expression):
    exported = exported_metrics()
    named = set(re.findall(r"\bpocketgan_[a-z_]+", expression))
    assert named <= exported.keys()
    allowed = {"instance", "job"}.union(*(exported[name] for name in named))
    grouped = [
        label.strip()
        for labels in re.findall(r"\bby \(([^)]*)\)", expression)
        for label in labels.split(",")
    ]
    matched = re.findall(r'([a-z_]+)\s*(?:=|!=|=~|!~)\s*"', expression)
    assert {*grouped, *matched} <= allowed


def test_every_metric_of_the_server_is_watched():
    watched = " ".join(expressions())
    silent = {"pocketgan_queue_bytes"}
    families = {re.sub(r"_(total|sum|count|bucket|info)$", "", name) for name in exported_metrics()}
    assert {name for name in families if name not in watched} == silent


def test_the_dashboard_has_panels_of_their_own_places():
    dashboard = json.loads(DASHBOARD.read_text())
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {
            (at["x"] + right, at["y"] + down) for right in range(at["w"]) for down in range(at["h"])
        }
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)


def test_the_dashboard_asks_the_data_source_that_is_provisioned():
    (source,) = documents(DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yaml")
    (uid,) = (one["uid"] for one in source["datasources"])
    used = set(re.findall(r'"uid": "([^"]+)"', DASHBOARD.read_text())) - {"pocketgan"}
    assert used == {uid}
