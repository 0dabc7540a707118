"""What a killed training goes on from, and what a finished one has written."""

from __future__ import annotations

import io
import json
import pathlib
from typing import Any

import numpy as np

from dbf_keras import command
from dbf_keras.backend import keras
from dbf_keras.train import distributed

History = list[dict[str, float]]

_NEAR = 0.01  # By what share more coded bytes than the target are near enough to it.


class Checkpoint:
    """The files beside a model that is trained: ``<stem>.checkpoint.npz`` and ``<stem>.history.json``.

    Args:
        output: path of the .keras file.
        run: what the training is: settings that another training of the same result would have too, for JSON.
        variables: all that training changes.
    """

    def __init__(self, output: pathlib.Path, run: dict[str, Any], variables: list):
        self._output = output
        self.path = output.with_suffix(".checkpoint.npz")
        self._history_path = history_path(output)
        self._run = json.loads(json.dumps(run))  # As it will be read back.
        self._variables = variables

    def restore(self) -> History:
        """Reads the checkpoint, if there is one, into the variables and returns the history; else an empty one.

        Raises:
            ValueError: it belongs to another training.
        """
        content = distributed.read(self.path)
        if content is None:
            return []
        with np.load(io.BytesIO(content)) as arrays:
            state = json.loads(str(arrays["state"]))
            if others := differing(state["run"], self._run):
                raise ValueError(
                    f"{self.path} belongs to a run with another {', '.join(others)}. Delete it, or train with the "
                    "settings it was made with."
                )
            for index, variable in enumerate(self._variables):
                variable.assign(arrays[str(index)])
        return state["history"]

    def save(self, history: History) -> None:
        """Writes all that a run needs to go on, in one file, so that its parts are of the same epoch.

        The history is also written where it is expected, unless there it is that of a model which is to be replaced.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = self._text(history)
        if not self._output.exists():
            self.write_history(history)
        values = {str(index): keras.ops.convert_to_numpy(variable) for index, variable in enumerate(self._variables)}
        command.write_atomically(self.path, lambda temporary: np.savez(temporary, state=text, **values))

    def write_history(self, history: History) -> None:
        """Writes settings and history."""
        command.write_atomically(self._history_path, lambda path: path.write_text(self._text(history)))

    def _text(self, history: History) -> str:
        return json.dumps({"run": self._run, "history": history})

    def remove(self) -> None:
        """Removes the checkpoint of a training that is done."""
        self.path.unlink(missing_ok=True)


class Best:
    """The weights of the best epoch so far.

    Attributes:
        variables: hold them.
    """

    def __init__(self, weights: list, coded_kb: float | None):
        """Begins without a best epoch.

        Args:
            weights: of the model that is trained.
            coded_kb: 1,000 coded bytes that an epoch may take at most to count, if it is not the last resort.
        """
        self._weights, self._coded_kb = weights, coded_kb
        self.variables = [keras.Variable(weight, trainable=False, name="best") for weight in weights]

    def row(self, history: History) -> dict[str, float]:
        """The best epoch's."""
        return max(self._fitting(history) or history[-1:], key=lambda row: (row["val_accuracy"], -row["val_loss"]))

    def _fitting(self, history: History) -> History:
        most = None if self._coded_kb is None else self._coded_kb * (1 + _NEAR)
        return [row for row in history if most is None or row["coded_kb"] <= most]

    def note(self, history: History) -> None:
        """Takes the weights as they are after an epoch, if it is the best."""
        if self.row(history) is history[-1]:
            for variable, weight in zip(self.variables, self._weights, strict=True):
                variable.assign(np.array(keras.ops.convert_to_numpy(weight)))  # JAX writes over the weight's array.

    def age(self, history: History) -> int:
        """How many epochs have passed since the best one; 0 as long as none counts."""
        return len(history) - int(self.row(history)["epoch"]) if self._fitting(history) else 0

    def restore(self) -> None:
        """Gives the model the weights of the best epoch."""
        for variable, weight in zip(self.variables, self._weights, strict=True):
            weight.assign(variable)


def history_path(output: pathlib.Path) -> pathlib.Path:
    """The file of a model's history."""
    return output.with_suffix(".history.json")


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The names of the settings in which a run differs from another."""
    return sorted(key for key in {*one, *other} if one.get(key) != other.get(key))


def finished(output: pathlib.Path, run: dict[str, Any]) -> History | None:
    """The history of a finished training of the same settings; None if there is no file at the output.

    Raises:
        ValueError: the model that is there has other settings, or none that we know.
    """
    if not distributed.agree(output.exists()):
        return None
    advice = "Give another --output, or --overwrite to replace it."
    path = history_path(output)
    content = distributed.read(path)
    if content is None:
        raise ValueError(f"{output} exists, and no {path.name} says how it was trained. {advice}")
    state = json.loads(content)
    if others := differing(state["run"], json.loads(json.dumps(run))):
        raise ValueError(f"{output} is a finished model, trained with another {', '.join(others)}. {advice}")
    return state["history"]
