"""Look up known vulnerabilities of what is installed here, and say plainly what could not be looked up.

pip-audit alone reports "No known vulnerabilities found" even where its service knew none of the packages. Fails where
a vulnerability is found; what was not looked up is reported last, so that a machine without the service can still lint.
"""

import json
import subprocess
import sys
import tempfile
from importlib.metadata import distributions

OURS = "sentiment-neuron"


def main() -> int:
    installed = {found.name: found.version for found in distributions() if found.name != OURS}
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as pins:
        # PyPI knows torch 2.13.0, not 2.13.0+cpu.
        pins.writelines(f"{name}=={version.partition('+')[0]}\n" for name, version in sorted(installed.items()))
        pins.flush()
        command = [sys.executable, "-m", "pip_audit", "--progress-spinner", "off", "--format", "json"]
        command += ["--disable-pip", "--no-deps", "--requirement", pins.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own pins
    try:
        audited = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        audited, reason = [], (done.stderr.strip() or "no answer").splitlines()[-1]
    else:
        reason = next((found["skip_reason"] for found in audited if "skip_reason" in found), "")
    looked_up = [found for found in audited if "vulns" in found]
    vulnerable = [found for found in looked_up if found["vulns"]]
    for found in vulnerable:
        for fault in found["vulns"]:
            fixed = ", ".join(fault["fix_versions"]) or "no version yet"
            sys.stdout.write(f"{found['name']} {found['version']}: {fault['id']}, fixed in {fixed}\n")
    sys.stdout.write(f"pip-audit: {len(vulnerable)} of {len(looked_up)} packages have known vulnerabilities\n")
    if len(looked_up) < len(installed):
        missing = len(installed) - len(looked_up)
        sys.stdout.write(f"NOT AUDITED: {missing} of {len(installed)} packages could not be looked up: {reason}\n")
    return 1 if vulnerable else 0


sys.exit(main())
