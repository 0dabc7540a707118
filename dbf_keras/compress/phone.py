"""How long layers take on a phone, by what the app of android_demo/ wrote of their files."""

from __future__ import annotations

import hashlib
import os
import pathlib
from collections.abc import Sequence

from dbf_keras import command
from dbf_keras.benchmark.report import from_json

_RESULTS = "benchmark.json"
_ON_THE_PHONE = "/sdcard/Android/data/org.dbfkeras.demo/files"


class Phone:
    """Times of files by their content, in a folder of such files and of the app's results.

    Args:
        folder: where files are written that were not timed yet, and where ``benchmark.json`` is once some were.

    Raises:
        ValueError: the results there are no results of the app, or a file could not be run.
    """

    def __init__(self, folder: str | os.PathLike):
        self._folder = pathlib.Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._known: dict[str, float] = {}
        self._untimed = 0
        results = self._folder / _RESULTS
        if results.exists():
            try:
                report = from_json(results.read_text("utf-8"))
            except ValueError as error:
                raise ValueError(f"{results}: {error}") from error
            for name, reason in report.failures.items():
                raise ValueError(f"{results}: {name} could not be run: {reason}")
            self._known = {pathlib.PurePosixPath(result.path).stem: result.median for result in report.results}

    def measure(self, files: Sequence[bytes]) -> list[float]:
        """Seconds of an inference of each file; 0 for those that are not timed yet, which are written."""
        return [self._seconds(file) for file in files]

    def _seconds(self, file: bytes) -> float:
        name = hashlib.sha256(file).hexdigest()[:16]
        if name not in self._known:
            self._untimed += 1
            path = self._folder / f"{name}.tflite"
            if not path.exists():
                command.write_atomically(path, lambda at: at.write_bytes(file))
        return self._known.get(name, 0.0)

    def require_all(self) -> None:
        """Raises ValueError if files are not timed yet; says how to time them."""
        if self._untimed:
            raise ValueError(
                f"{self._untimed} files in {self._folder} are to be timed on the phone, single layers most of them:\n"
                f"    adb push {self._folder}/. {_ON_THE_PHONE}/layers/\n"
                f"    adb shell am instrument -w -e models {_ON_THE_PHONE}/layers -e runs 30 "
                "org.dbfkeras.demo/.BenchmarkInstrumentation\n"
                f"    adb pull {_ON_THE_PHONE}/{_RESULTS} {self._folder}/\n"
                "Then ask for the same again."
            )
