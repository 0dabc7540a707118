"""What the tests share."""

import fcntl
import gc
import os
import sys

import pytest

# JAX compiles what tests then run a few times on little: that takes two thirds of the time without most optimisations.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Each test and what is made for it draw the same numbers, whatever ran before. Without Keras there are none."""
    backend = sys.modules.get("dbf_keras.backend")
    if backend is not None:
        backend.keras.utils.set_random_seed(0)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown():
    """Frees what a test made, and has no later search for garbage look at what stays.

    TensorFlow's converter and Keras search often, and keep much: the later a test, the longer the searches took.
    """
    result = yield
    gc.collect()
    gc.freeze()
    return result


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
