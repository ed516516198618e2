"""Which Python `make` works with; nothing is installed, make only says what it would do."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def planned(tmp_path):
    """Return what `make test` would run with a Python of a version, beside a virtualenv that 3.12.0 has made."""
    if not shutil.which("make"):
        pytest.skip("there is no make here")
    venv = tmp_path / "venv"
    venv.mkdir()
    for name in (".made-by-opt-3.12.0", ".runtime", ".dev"):
        (venv / name).touch()

    def plan(version):
        python = tmp_path / "python"
        python.write_text(f"#!/bin/sh\necho -opt-{version}\n", encoding="utf-8")
        python.chmod(0o755)
        make = ("make", "--dry-run", "--directory", ROOT, f"VENV={venv}", f"PYTHON={python}", "test")
        return subprocess.run(make, capture_output=True, text=True, check=True).stdout

    return plan


class TestPython:
    def test_a_virtualenv_is_kept_for_its_python(self, planned):
        assert "pip install" not in planned("3.12.0")
        assert "-m pytest" in planned("3.12.0")

    def test_another_python_gets_another(self, planned):
        """Or `make test PYTHON=/usr/bin/python3` passes with whatever Python made .venv first."""
        plan = planned("3.11.2")

        assert "python -m venv --clear" in plan
        assert plan.index("-m venv") < plan.index("pip install") < plan.index("-m pytest")
