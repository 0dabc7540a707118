"""Compresses quickly: files are timed only briefly, and trade-off curves have one point."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def quick():
    from dbf_keras.compress import judge, search, stopwatch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "_SHARES", (0.4,))
        patch.setattr(judge, "_SECONDS", 0.3)
        patch.setattr(stopwatch, "_SECONDS", 0.01)
        yield
