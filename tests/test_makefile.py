"""The virtualenv belongs to the Python that `make` is told to use. These are dry runs, nothing is installed."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def planned(tmp_path):
    """Return the commands of `make test` with a Python of some version, if 3.12.0 has created the virtualenv."""
    if not shutil.which("make"):
        pytest.skip("make is not installed")
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
    def test_the_same_python_keeps_the_virtualenv(self, planned):
        assert "pip install" not in planned("3.12.0")
        assert "-m pytest" in planned("3.12.0")

    def test_another_python_recreates_the_virtualenv(self, planned):
        """Otherwise `make test PYTHON=...` would run with the Python that created .venv."""
        plan = planned("3.11.2")

        assert "python -m venv --clear" in plan
        assert plan.index("-m venv") < plan.index("pip install") < plan.index("-m pytest")
