"""Reports what pip-audit knows of the packages in a folder: `python .ci/audit.py PIP_AUDIT SITE_PACKAGES`.

Findings are printed and fail nothing, for a new one in somebody else's package is no fault of a change. A registry that
does not answer is named: pip-audit itself says "No known vulnerabilities found" where it could look up none.
"""

import json
import subprocess
import sys

SECONDS = 300  # for all of it, where the network neither answers nor refuses


def audit(command: list[str]) -> str:
    """What pip-audit says of all packages, as JSON; or why it says nothing, as a sentence."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"pip-audit gave no answer: {error}"
    last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
    return done.stdout.strip() or f"pip-audit gave no answer: {last[0]}"


def report(text: str) -> str:
    """The findings of pip-audit's JSON, a line each, under a heading that says how many packages were looked up."""
    try:
        packages = json.loads(text)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return f"AUDIT: nothing is known of any package. {text}"
    known = [package for package in packages if "skip_reason" not in package]
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    found = [
        f"  {package['name']} {package['version']}: {flaw['id']} ({', '.join(flaw.get('aliases', [])) or 'no alias'}), "
        f"fixed in {', '.join(flaw['fix_versions']) or 'no version yet'}"
        for package in known
        for flaw in package["vulns"]
    ]
    lines = [
        f"AUDIT: {len(found)} known vulnerabilities in {len(known)} of {len(packages)} packages looked up.",
        *found,
    ]
    if unknown:
        lines.append(f"  The registry does not say anything of these {len(unknown)}: {', '.join(unknown)}.")
    return "\n".join(lines)


if __name__ == "__main__":
    pip_audit, folder = sys.argv[1:]
    options = ["--path", folder, "--format", "json", "--progress-spinner", "off", "--timeout", "15"]
    print(report(audit([pip_audit, *options])))
