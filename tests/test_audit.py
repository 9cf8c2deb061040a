"""The report of .ci/run on known vulnerabilities of the installed packages."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / ".ci" / "audit.py"


@pytest.fixture
def audit():
    spec = importlib.util.spec_from_file_location("audit", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FOUND = {"name": "torch", "version": "1.0", "vulns": [
    {"id": "PYSEC-1", "fix_versions": ["1.1", "2.0"], "aliases": ["CVE-1"], "description": "..."},
    {"id": "PYSEC-2", "fix_versions": [], "aliases": []},
]}  # fmt: skip
CLEAN = {"name": "numpy", "version": "2.0", "vulns": []}
UNKNOWN = {"name": "wandb", "skip_reason": "Dependency not found on PyPI"}


def test_vulnerabilities_are_listed(audit):
    assert audit.report(json.dumps({"dependencies": [FOUND, CLEAN, UNKNOWN], "fixes": []})) == (
        "AUDIT: 2 known vulnerabilities in 2 of 3 packages looked up.\n"
        "  torch 1.0: PYSEC-1 (CVE-1), fixed in 1.1, 2.0\n"
        "  torch 1.0: PYSEC-2 (no alias), fixed in no version yet\n"
        "  The registry does not say anything of these 1: wandb."
    )


def test_packages_missing_from_the_registry_are_listed(audit):
    text = audit.report(json.dumps({"dependencies": [UNKNOWN], "fixes": []}))
    assert "in 0 of 1 packages looked up" in text
    assert "wandb" in text


@pytest.mark.parametrize(("program", "reason"), [
    ("import sys; sys.exit('resolving failed')", "resolving failed"),
    ("import sys; sys.exit(3)", "exit status 3"),
    ("print('<html>')", "<html>"),
    ("import time; time.sleep(600)", "timed out"),
])  # fmt: skip
def test_a_failed_lookup_is_reported_without_failing(audit, monkeypatch, program, reason):
    monkeypatch.setattr(audit, "SECONDS", 60 if reason != "timed out" else 1)
    text = audit.report(audit.audit([sys.executable, "-c", program]))
    assert text.startswith("AUDIT: nothing is known of any package. ")
    assert reason in text


def test_a_missing_audit_program_is_reported(audit):
    assert "nothing is known" in audit.report(audit.audit(["/nowhere/pip-audit"]))
