"""The manifests of k8s/: they render, are valid by schema, and agree with each other and with the code."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from click.testing import CliRunner
from pydantic_settings import BaseSettings

from api.settings import ApiSettings
from cli.main import main
from contract.settings import PREFIX
from worker.settings import WorkerSettings

ROOT = Path(__file__).parent.parent.parent
OVERLAYS = ("cpu", "gpu", "training", "rollback")
SETTINGS: dict[str, type[BaseSettings]] = {"api": ApiSettings, "worker": WorkerSettings}
# Kinds that a cluster learns from an operator, and the npm package that holds their schema.
OPERATORS = {
    "ScaledObject": "keda/keda.sh/v1alpha1",
    "ServiceMonitor": "prometheus-operator/monitoring.coreos.com/v1",
    "PrometheusRule": "prometheus-operator/monitoring.coreos.com/v1",
}
# What the cluster's operators bring, or the administrator makes: docs/operations.md.
ELSEWHERE = {"tls", "metrics-key"}

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")


@cache
def rendered(overlay: str) -> list[dict[str, Any]]:
    command = ["kubectl", "kustomize", str(ROOT / "k8s" / "overlays" / overlay)]
    return list(yaml.safe_load_all(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def of_kind(overlay: str, *kinds: str) -> list[dict[str, Any]]:
    return [found for found in rendered(overlay) if found["kind"] in kinds]


def workloads(overlay: str) -> list[dict[str, Any]]:
    return of_kind(overlay, "Deployment", "StatefulSet", "Job")


def pod(workload: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = workload["spec"]["template"]["spec"]
    return found


def containers(overlay: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for workload in workloads(overlay):
        for container in pod(workload)["containers"]:
            yield workload["metadata"]["name"], container


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    wanted = selector.get("matchLabels", {} if "matchExpressions" in selector else selector)
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In"
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return all(labels.get(name) == value for name, value in wanted.items())


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_selectors_match_labels_and_named_ports_exist(overlay: str) -> None:
    for workload in workloads(overlay):
        if "selector" in workload["spec"]:
            assert selects(workload["spec"]["selector"], workload["spec"]["template"]["metadata"]["labels"])
    for found in of_kind(overlay, "Service", "PodDisruptionBudget", "NetworkPolicy"):
        selector = found["spec"].get("selector") or found["spec"].get("podSelector")
        matched = [
            one for one in workloads(overlay) if selects(selector, one["spec"]["template"]["metadata"]["labels"])
        ]
        assert matched, found["metadata"]["name"]
        names = {port["name"] for one in matched for container in pod(one)["containers"] for port in container["ports"]}
        wanted = {port.get("targetPort") for port in found["spec"].get("ports", [])}
        wanted |= {port.get("port") for rule in found["spec"].get("ingress", []) for port in rule.get("ports", [])}
        assert {name for name in wanted if isinstance(name, str)} <= names, found["metadata"]["name"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_monitors_watch_services_that_are_there(overlay: str) -> None:
    services = of_kind(overlay, "Service")
    for monitor in of_kind(overlay, "ServiceMonitor"):
        (service,) = [one for one in services if selects(monitor["spec"]["selector"], one["metadata"]["labels"])]
        ports = {port["name"] for port in service["spec"]["ports"]}
        assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= ports


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_containers_run_as_nobody_in_particular_and_cannot_change_themselves(overlay: str) -> None:
    for workload in workloads(overlay):
        assert pod(workload)["securityContext"]["runAsNonRoot"]
        assert pod(workload)["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not pod(workload)["automountServiceAccountToken"]
    for name, container in containers(overlay):
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"], name
        assert context["allowPrivilegeEscalation"] is False, name
        assert context["capabilities"] == {"drop": ["ALL"]}, name
        assert not container["image"].endswith(":latest"), name
        assert ":" in container["image"], name
        assert "memory" in container["resources"]["limits"], name
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_serves_is_probed(overlay: str) -> None:
    for workload in of_kind(overlay, "Deployment", "StatefulSet"):
        for container in pod(workload)["containers"]:
            ports = {port["name"] for port in container["ports"]}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                asked = container[probe].get("httpGet") or container[probe].get("tcpSocket")
                assert asked is None or asked["port"] in ports


@pytest.mark.parametrize("overlay", ["cpu", "gpu"])
def test_every_setting_exists(overlay: str) -> None:
    (settings,) = of_kind(overlay, "ConfigMap")
    for name, process in SETTINGS.items():
        known = {PREFIX + field.upper() for field in process.model_fields}
        (container,) = [found for workload, found in containers(overlay) if workload == name]
        given = set(settings["data"]) | {variable["name"] for variable in container.get("env", [])}
        assert given <= known
        # The process refuses what it does not know, so it can be asked.
        values = settings["data"] | {variable["name"]: variable["value"] for variable in container.get("env", [])}
        assert process(
            **{key.removeprefix(PREFIX).lower(): value for key, value in values.items()} | {"insecure": True}
        )


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_pods_refer_to_is_there(overlay: str) -> None:
    there = {found["metadata"]["name"] for kind in OVERLAYS for found in rendered(kind)} | ELSEWHERE
    text = yaml.safe_dump_all(rendered(overlay))
    assert set(re.findall(r"(?:claimName|secretName): (\S+)", text)) <= there
    for _, container in containers(overlay):
        for source in container.get("envFrom", []):
            (reference,) = source.values()
            assert reference["name"] in there
    for workload in workloads(overlay):
        volumes = {volume["name"] for volume in pod(workload).get("volumes", [])}
        volumes |= {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", [])}
        for container in pod(workload)["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes


@pytest.mark.parametrize("overlay", ["cpu", "gpu"])
def test_workers_write_heads_and_nothing_else_that_lasts(overlay: str) -> None:
    (worker,) = [found for workload, found in containers(overlay) if workload == "worker"]
    writable = {mount["mountPath"] for mount in worker["volumeMounts"] if not mount.get("readOnly")}
    assert writable == {"/heads", "/tmp"}  # noqa: S108
    assert {variable["name"]: variable["value"] for variable in worker["env"]}["NEURON_WORKER_HEADS_DIR"] == "/heads"


def test_jobs_say_what_our_commands_understand() -> None:
    for overlay, command in (("training", "train"), ("rollback", "checkpoint serve")):
        ((_, container),) = containers(overlay)
        shown = CliRunner().invoke(main, [*command.split(), "--help"])
        assert shown.exit_code == 0
        ours = container["args"][container["args"].index("-m") :] if "-m" in container["args"] else container["args"]
        options = {argument.partition("=")[0] for argument in ours if argument.startswith("--")}
        assert all(option in shown.output.split() for option in options)
    assert container["args"][:3] == ["neuron", *command.split()]


def test_grace_periods_leave_room_for_draining() -> None:
    by_name = {workload["metadata"]["name"]: pod(workload) for workload in workloads("gpu")}
    grace = WorkerSettings.model_fields["worker_grace_s"].default
    assert by_name["worker"]["terminationGracePeriodSeconds"] >= grace + 15
    assert by_name["api"]["terminationGracePeriodSeconds"] >= 10 + 30 + 15


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_manifests_are_valid_by_schema(overlay: str) -> None:
    manifests = [found for found in rendered(overlay) if found["kind"] not in OPERATORS]
    for manifest in manifests:
        kubernetes_validate.validate(manifest, "1.32", strict=True)
    assert manifests


@pytest.mark.slow
def test_what_is_for_operators_is_valid_by_their_schema(tmp_path: Path) -> None:
    """An unknown field passes; a missing or mistyped one does not."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    manifests = [found for overlay in OVERLAYS for found in rendered(overlay) if found["kind"] in OPERATORS]
    assert {found["kind"] for found in manifests} == OPERATORS.keys()
    packages = ["@kubernetes-models/keda", "@kubernetes-models/prometheus-operator"]
    install = ["npm", "install", "--silent", "--no-fund", *packages]
    subprocess.run(install, cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "manifests.json").write_text(json.dumps([[OPERATORS[one["kind"]], one] for one in manifests]))
    (tmp_path / "validate.mjs").write_text("""
        import { readFileSync } from "node:fs";
        for (const [place, manifest] of JSON.parse(readFileSync("manifests.json"))) {
          const kinds = await import("@kubernetes-models/" + place);
          new kinds[manifest.kind](manifest).validate();
        }
    """)
    done = subprocess.run(["node", "validate.mjs"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_rules_are_those_of_compose() -> None:
    rules = yaml.safe_load((ROOT / "monitoring/prometheus/rules.yml").read_text())
    (resource,) = of_kind("gpu", "PrometheusRule")
    assert resource["spec"] == rules
