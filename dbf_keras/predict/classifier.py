"""Models that classify pictures, in .tflite or .keras files, with what the files say of classes and pixels."""

from __future__ import annotations

import abc
import functools
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dbf_keras import runtime as runtime_lib
from dbf_keras.benchmark.accuracy import quantize
from dbf_keras.export import metadata

# Scores that add up to one so nearly are probabilities; int8 ones, also where they come out as float32, have steps of
# 1/256, each rounded by up to half of that.
_NEARLY, _STEP = 0.01, 1 / 256
# Data sets of image files, whose networks are trained on images' centres.
_OF_FILES = ("folder", "tfrecords")


class Classifier(abc.ABC):
    """A model that classifies pictures.

    Attributes:
        size: (height, width) of the images that it takes; None where it takes any.
        channels: 1 or 3.
        labels: names of the classes; empty if the file does not tell.
        trained_on_centres: whether it was trained on centres of image files, also of those of its own size.
        notes: what the file does not tell, in words.
    """

    def __init__(self, path: str, shape: Sequence[int | None], labels: Sequence[str] | None, training: Any):
        """Takes what a file says.

        Args:
            path: the file's path.
            shape: of its input, None where it is open.
            labels: names of the classes.
            training: how it was trained.

        Raises:
            ValueError: the model does not take pictures.
        """
        if len(shape) != 4 or shape[3] not in (1, 3):
            shown = ", ".join("?" if size is None else str(size) for size in shape)
            raise ValueError(
                f"{path!r} takes [{shown}], which is no picture: that is [batch, height, width, channels] with 1 or 3 "
                "channels."
            )
        height, width = shape[1:3]
        self.size = None if height is None or width is None else (int(height), int(width))
        self.channels = int(shape[3])
        self.labels = list(labels or ())
        settings = training.get("settings", training) if isinstance(training, Mapping) else {}
        self.trained_on_centres = isinstance(settings, Mapping) and settings.get("dataset") in _OF_FILES
        self.notes: list[str] = []
        if not self.labels:
            self.notes.append(f"{path} does not name the classes, so they are numbers, from 0.")

    def name(self, index: int) -> str:
        """The name of a class."""
        return self.labels[index] if index < len(self.labels) else str(index)

    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """The probability of each class, [classes].

        Args:
            pixels: uint8 [height, width, channels], of the model's size.
        """
        return to_probabilities(self._scores(pixels.astype(np.float32)[None]).reshape(-1))

    @abc.abstractmethod
    def _scores(self, pixels: np.ndarray) -> np.ndarray:
        """The model's scores as real numbers."""


def to_probabilities(scores: np.ndarray) -> np.ndarray:
    """Probabilities from scores that are such, or that a softmax makes such; of one score, by a sigmoid.

    Args:
        scores: real numbers [classes]; of one score, that of the second of two classes.
    """
    scores = np.asarray(scores, np.float64)
    slack = min(0.5, _NEARLY + len(scores) * _STEP / 2)
    if len(scores) == 1:
        share = scores[0] if 0 <= scores[0] <= 1 else 1 / (1 + np.exp(-np.clip(scores[0], -500, 500)))
        return np.array([1 - share, share])
    if scores.min() >= 0 and abs(scores.sum() - 1) <= slack:
        return scores / scores.sum()
    shares = np.exp(scores - scores.max())
    return shares / shares.sum()


class TFLiteClassifier(Classifier):
    """A .tflite file, of any exporter.

    Args:
        path: its path.
        num_threads: threads of the interpreter.
        runtime: as for `dbf_keras.runtime.Interpreter`.

    Raises:
        ValueError: it is no TFLite file, or none that classifies pictures.
        ImportError: no runtime is installed.
    """

    def __init__(self, path: str, num_threads: int = 1, runtime: str | None = None):
        with open(path, "rb") as file:
            data = file.read()
        if data[4:8] != b"TFL3":
            raise ValueError(f"{path!r} is not a TFLite model. Export one: dbf export")
        try:
            told = metadata.read(data)
            self._interpreter = runtime_lib.Interpreter(path, num_threads=num_threads, runtime=runtime)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"{path!r}: {error}") from error
        sources, targets = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        if len(sources) != 1:
            raise ValueError(f"{path!r} takes {len(sources)} inputs; a model of pictures takes one.")
        self._source = sources[0]
        shape = [None if size == -1 else int(size) for size in self._source.get("shape_signature", ())]
        shape = shape or [int(size) for size in self._source["shape"]]
        details = told.get("details", {})
        super().__init__(path, shape, told.get("labels"), details.get("training"))
        graph = (told.get("subgraph_metadata") or [{}])[0]
        self._target = self._scores_among(path, targets, graph.get("output_tensor_metadata", []))
        self._normalization = _normalization((graph.get("input_tensor_metadata") or [{}])[0])
        if self._normalization is None:
            self.notes.append(f"{path} does not say how it takes pixels, so they go in as they are, from 0 to 255.")

    def _scores_among(self, path: str, targets: list[dict], told: list[dict]) -> dict:
        """The output that has the classes: the one with labels, or the first that has scores only."""
        labelled = [number for number, output in enumerate(told[: len(targets)]) if output.get("associated_files")]
        flat = [number for number, target in enumerate(targets) if len(target["shape"]) == 2]
        if not (labelled or flat):
            shapes = ", ".join(str(target["shape"].tolist()) for target in targets)
            raise ValueError(f"{path!r} gives {shapes}, which are no scores of classes: those are [batch, classes].")
        return targets[(labelled or flat)[0]]

    def _scores(self, pixels: np.ndarray) -> np.ndarray:
        mean, std = self._normalization or (0.0, 1.0)
        source, target = self._source, self._target
        wanted = (max(1, int(source["shape"][0])), *pixels.shape[1:])
        if tuple(source["shape"]) != wanted:
            self._interpreter.resize_tensor_input(source["index"], wanted)
            self._interpreter.allocate_tensors()
            self._source = self._interpreter.get_input_details()[0]
        values = np.broadcast_to((pixels - mean) / std, wanted)
        self._interpreter.set_tensor(source["index"], quantize(values, source))
        self._interpreter.invoke()
        scores = self._interpreter.get_tensor(target["index"])[0]
        scale, zero_point = target["quantization"]
        if not np.issubdtype(scores.dtype, np.integer) or not scale:
            return scores.astype(np.float64)
        return (scores.astype(np.float64) - zero_point) * scale


def _normalization(told: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean and standard deviation, by channel or one for all, by an input's metadata."""
    for unit in told.get("process_units", []):
        options = unit.get("options", {})
        if "mean" in options and "std" in options:
            return np.asarray(options["mean"], np.float32), np.asarray(options["std"], np.float32)
    return None


class KerasClassifier(Classifier):
    """A .keras file.

    Args:
        path: its path.

    Raises:
        ValueError: it is no .keras file, or its model does not take pictures.
        ImportError: Keras is not installed.
    """

    def __init__(self, path: str):
        if not zipfile.is_zipfile(path):
            raise ValueError(f"{path!r} is no .keras file, or damaged.")
        try:
            from dbf_keras import keras_file
            from dbf_keras.export import verify
        except ModuleNotFoundError as error:
            raise ImportError(
                f"A .keras file needs {error.name}, not installed here. Export the model where it is: dbf export"
            ) from error
        self._model = keras_file.load(path)
        inputs = self._model.inputs or []
        if len(inputs) != 1:
            raise ValueError(f"{path!r} takes {len(inputs)} inputs; a model of pictures takes one.")
        super().__init__(path, inputs[0].shape, keras_file.labels(path), keras_file.training(path))
        if len(self._model.outputs) != 1 or len(self._model.outputs[0].shape) != 2:
            raise ValueError(f"{path!r} gives something else than scores of classes, [batch, classes].")
        self._call = functools.partial(self._model, training=False)
        if not verify.takes_pixels(self._model):
            self.notes.append(f"{path} does not say how it takes pixels, so they go in as they are, from 0 to 255.")

    def _scores(self, pixels: np.ndarray) -> np.ndarray:
        from dbf_keras.backend import ops

        batch = self._model.inputs[0].shape[0] or 1
        scores = self._call(np.broadcast_to(pixels, (batch, *pixels.shape[1:])))
        while isinstance(scores, list | tuple | dict):  # Some models wrap their one output.
            [scores] = scores.values() if isinstance(scores, dict) else scores
        return np.asarray(ops.convert_to_numpy(scores), np.float64)[0]
