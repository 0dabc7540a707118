"""What networks and their files are worth: accuracy on images set aside, bytes, and time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from dbf_keras import command, runtime
from dbf_keras.backend import keras
from dbf_keras.benchmark.accuracy import answers, classes_of
from dbf_keras.benchmark.timing import prepare, time_interleaved
from dbf_keras.compress import examples
from dbf_keras.data import Dataset
from dbf_keras.export import calibration, converter, verify
from dbf_keras.export.conversion import convert
from dbf_keras.forms import INT8, Form
from dbf_keras.train.recipes import Recipe

# Training images that sensitivities are found on, and int8 files are calibrated with.
_LOOKED_AT = 1000

# Seconds of timing of a file.
_SECONDS = 1.0


class Judge:
    """Tries networks that are made of one original.

    Attributes:
        model: the original.
        dataset: its training images, some of them set aside; None without data.
        samples: typical inputs, as `calibration.to_samples` returns them; None without data.
        normalization: mean and standard deviation of pixels, if the model does not normalise them itself.
    """

    def __init__(
        self,
        model: keras.Model,
        data: Any,
        labels: Sequence[str] | None = None,
        normalization: tuple[Any, Any] | None = None,
    ):
        """Checks that data fit the model.

        Args:
            model: the original.
            data: as `examples.to_dataset` takes it, or None.
            labels: names of the classes.
            normalization: see above.

        Raises:
            ValueError: the data do not fit.
        """
        self.model, self.normalization, self._labels = model, normalization, labels
        self.dataset: Dataset | None = None
        self.samples: list[list[np.ndarray]] | None = None
        self._test: Dataset | None = None
        if data is not None:
            self.dataset = examples.to_dataset(data, model, labels)
            self._test = data if isinstance(data, Dataset) and not data.held_out else self.dataset
            images, _ = examples.calibration_examples(self.dataset, _LOOKED_AT)
            self.samples = calibration.to_samples(model, self._normalized(images))

    @property
    def labels(self) -> Sequence[str] | None:
        """The names of the classes, if they are known and have a score each."""
        if self.model.output_shape[-1] == 1:
            return None
        return self._labels if self._labels is not None or self.dataset is None else self.dataset.class_names

    @property
    def image_size(self) -> tuple[int, int] | None:
        """(height, width) to plan for where the model leaves them open; None where it does not."""
        if not verify.leaves_size_open(self.model):
            return None
        return command.OPEN_SIZE if self.dataset is None else self.dataset.image_shape[:2]

    @property
    def tested(self) -> int:
        """How many images files are tested on."""
        return 0 if self._test is None else len(self._test.y_test)

    def _normalized(self, images: np.ndarray) -> np.ndarray:
        if self.normalization is None:
            return images
        mean, std = (np.asarray(values, np.float32) for values in self.normalization)
        return (images - mean) / std

    def doubt(self) -> str:
        """What to say of an original that knows no better than chance about the images set aside; "" of others."""
        if self.dataset is None:
            return ""
        labels, known = self.dataset.y_test, self.accuracy(self.model)
        chance = float(np.bincount(labels).max()) / len(labels)
        if known >= chance + 3 * math.sqrt(chance * (1 - chance) / len(labels)):
            return ""
        return (
            f"The model is right about {100 * known:.1f} % of {len(labels)} images, no better than always naming "
            f"the most frequent class ({100 * chance:.1f} %). Give a trained model, the labels it was trained on "
            "in the same order, and images as it takes them: --mean and --std (`normalization`) for pixels that "
            "it does not normalise itself."
        )

    def accuracy(self, model: keras.Model) -> float:
        """A network's accuracy on the images that are set aside; NaN without data."""
        if self.dataset is None:
            return math.nan
        return self._accuracy(model, examples.in_batches(self.dataset))

    def _accuracy(self, model: keras.Model, batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> float:
        rows = [(np.asarray(converter.run(model, [self._normalized(images)])[0]), labels) for images, labels in batches]
        scores, labels = map(np.concatenate, zip(*rows, strict=True))
        return float(np.equal(classes_of(scores), labels).mean())

    def accuracies(self, recipe: Recipe) -> tuple[float, float]:
        """The original's accuracy on training images as they are, and as a recipe augments them."""
        assert self.dataset is not None
        images, changed, labels = examples.augmented_examples(self.dataset, recipe, _LOOKED_AT)
        return self._accuracy(self.model, [(images, labels)]), self._accuracy(self.model, [(changed, labels)])

    def file(self, model: keras.Model, form: Form, max_kb: float | None = None) -> bytes:
        """The .tflite file of a network; layers that are plain stay standard ops.

        Args:
            model: the network.
            form: of the file.
            max_kb: 1,000 bytes that it may have; levels are chosen anew if they take more.
        """
        limited = max_kb is not None and form.coding and self.samples is not None
        images = None
        if self.samples is not None and (form.quantize in INT8 or limited):
            images = [np.concatenate([sample[0] for sample in self.samples])]

        def converted(examples: Any, most: float | None) -> bytes:
            return convert(
                model,
                *form,
                representative_data=examples,
                max_kb=most,
                labels=self.labels,
                normalization=self.normalization,
                ordinary_coding=False,
                check=False,
            ).data

        data = converted(images if form.quantize in INT8 else None, None)
        if limited and max_kb is not None and len(data) > 1e3 * max_kb:
            return converted(images, max_kb)
        return data

    def seconds(self, files: Sequence[bytes]) -> list[float]:
        """Seconds of an inference of each file here on one thread, in turn; NaN where they cannot be run."""
        if runtime.library_path() is None or not runtime.installed_runtimes():
            return [math.nan] * len(files)
        size = self.image_size or command.OPEN_SIZE
        sides = [prepare(runtime.Interpreter(model_content=file), size=size) for file in files]
        return [float(np.median(times)) for times in time_interleaved(sides, _SECONDS)]

    def file_accuracy(self, data: bytes) -> float | None:
        """The accuracy of a file on the test set, or else on the images that are set aside; None without data."""
        if self._test is None:
            return None
        interpreter = runtime.Interpreter(model_content=data)
        detail = interpreter.get_input_details()[0]
        interpreter.resize_tensor_input(detail["index"], (1, *self._test.image_shape))
        interpreter.allocate_tensors()
        images = self._test.x_test
        if self.normalization is not None:
            images = self._normalized(np.asarray(images[np.arange(len(images))], np.float32))
        return float(np.equal(answers(interpreter, images), self._test.y_test).mean())
