"""What the tests share."""

import fcntl
import os

import pytest


@pytest.fixture(scope="session")
def make_once(tmp_path_factory):
    """A function that returns a folder, filled by the first of pytest-xdist's workers that asks for it by that name."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent

    def make(name, fill):
        done = base / f"{name}.done"
        with open(base / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            folder = base / name
            folder.mkdir(exist_ok=True)
            if not done.exists():
                fill(folder)
                done.touch()
        return folder

    return make
