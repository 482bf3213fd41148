"""A repository with a remote for the tests of the nightly job."""

import os
from pathlib import Path

import pytest
from nightly.nights import World


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A repository with a remote, on which no night has run, outside GitHub Actions and without the user's git settings."""
    for name in ("SERVER_URL", "REPOSITORY", "RUN_ID", "STEP_SUMMARY", "OUTPUT"):
        monkeypatch.delenv(f"GITHUB_{name}", raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")  # no packing of a repository of a dozen commits: it took a tenth of the time
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "maintenance.auto")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "false")
    return World.new(tmp_path)
