"""Rules, alerts and dashboard: they are valid, name metrics that exist, and the alerts fire when they should."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.metrics import every, table
from monitoring import dashboard

ROOT = Path(__file__).parent.parent.parent
RULES = ROOT / "monitoring" / "prometheus" / "rules.yml"
# What a family's type adds to its name.
SERIES = {
    "counter": ["_total"],
    "histogram": ["_bucket", "_sum", "_count"],
    "summary": ["_sum", "_count"],
    "gauge": [""],
}
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


def known() -> set[str]:
    """Names of all series that the code's metrics and the recording rules make."""
    families = [metric.describe()[0] for _, metric in every()]
    return {family.name + suffix for family in families for suffix in SERIES[family.type]} | recorded()


def recorded() -> set[str]:
    return {rule["record"] for group in rules() for rule in group["rules"] if "record" in rule}


def rules() -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"]
    return groups


def named(text: str) -> set[str]:
    """Our metrics that an expression names."""
    return set(re.findall(r"\bneuron[_:][a-z0-9_:]+", text))


@pytest.mark.parametrize("path", ["monitoring/prometheus/rules.yml", "monitoring/prometheus/rules.test.yml"])
def test_rules_name_metrics_that_exist(path: str) -> None:
    found = named((ROOT / path).read_text())
    assert found
    assert found <= known()


@pytest.mark.parametrize("path", sorted((ROOT / "k8s").rglob("*.yaml")), ids=str)
def test_manifests_name_metrics_that_exist(path: Path) -> None:
    assert named(path.read_text()) <= known()


def test_panels_name_metrics_that_exist() -> None:
    for row in dashboard.ROWS.values():
        for panel in row:
            for expression in panel.expressions.values():
                assert named(expression) or "process_resident_memory_bytes" in expression
                assert named(expression) <= known(), panel.title


def test_the_dashboard_is_the_one_that_the_code_writes() -> None:
    assert json.loads(dashboard.FILE.read_text()) == dashboard.dashboard()


@needs_promtool
def test_rules_and_configuration_are_valid() -> None:
    subprocess.run(["promtool", "check", "rules", RULES], check=True, capture_output=True)
    configuration = RULES.with_name("prometheus.yml")
    subprocess.run(["promtool", "check", "config", "--syntax-only", configuration], check=True, capture_output=True)


@needs_promtool
def test_alerts_fire_when_they_should_and_only_then() -> None:
    tests = RULES.with_name("rules.test.yml")
    done = subprocess.run(["promtool", "test", "rules", tests], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    cases = [case for test in yaml.safe_load(tests.read_text())["tests"] for case in test.get("alert_rule_test", [])]
    tried = {case["alertname"] for case in cases}
    alerts = {rule["alert"] for group in rules() for rule in group["rules"] if "alert" in rule}
    assert tried == alerts


def test_every_alert_and_every_metric_is_explained() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    for group in rules():
        for rule in group["rules"]:
            assert "alert" not in rule or f"| `{rule['alert']}` |" in text
    assert table() in text


@pytest.mark.slow
def test_the_dashboard_fits_grafanas_schema(tmp_path: Path) -> None:
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    (tmp_path / "dashboard.ts").write_text(
        'import * as raw from "@grafana/schema";\nexport const dashboard: raw.Dashboard = ' + dashboard.FILE.read_text()
    )
    packages = ["@grafana/schema@12", "typescript@5", "@types/react@18"]
    install = ["npm", "install", "--silent", "--no-fund", *packages]
    subprocess.run(install, cwd=tmp_path, check=True, capture_output=True)
    options = ["--noEmit", "--skipLibCheck", "--strict", "--module", "esnext", "--target", "es2022"]
    command = ["npx", "tsc", *options, "--moduleResolution", "bundler", "dashboard.ts"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
