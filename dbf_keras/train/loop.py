"""``python -m dbf_keras.train``: trains a network, resumes after a kill, writes model, history and learning curve."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import hashlib
import io
import json
import os
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from absl import flags
from dbf_keras.recipes import DEFAULT_RECIPES, RECIPES, Recipe

from dbf_keras import augment, codes, command, data, distributed, engine, networks
from dbf_keras.backend import keras
from dbf_keras.layers import DBFConv2D, custom_objects
from dbf_keras.progress import progress


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A trained model to learn from (Hinton et al., 2015).

    Attributes:
        path: of its .keras file; images 0–255 to class probabilities or logits.
        temperature: by which teacher's and student's logits are divided.
        weight: share of the loss that is the distance to the teacher.

    Raises:
        ValueError: a number out of its range.
    """

    path: str
    temperature: float = 4.0
    weight: float = 0.9

    def __post_init__(self):
        if not self.temperature > 0:
            raise ValueError(f"--temperature must be over 0; got {self.temperature}.")
        if not 0 <= self.weight <= 1:
            raise ValueError(f"--teacher_weight must be from 0 to 1; got {self.weight}.")

    def load(self, dataset: data.Dataset) -> keras.Model:
        """The model, to logits.

        Raises:
            ValueError: it does not fit the images or classes.
            FileNotFoundError: there is no such file.
        """
        if not pathlib.Path(self.path).is_file():
            raise FileNotFoundError(f"The teacher {self.path} does not exist.")
        model = to_logits(keras.models.load_model(self.path, custom_objects=custom_objects(), compile=False))
        shapes = tuple(model.input_shape[1:]), model.output_shape[-1]
        if shapes != (dataset.image_shape, dataset.classes):
            raise ValueError(
                f"The teacher {self.path} takes images {shapes[0]} to {shapes[1]} classes; the data has images "
                f"{dataset.image_shape} and {dataset.classes} classes."
            )
        model.trainable = False
        return model


def to_logits(model: keras.Model) -> keras.Model:
    """Takes the softmax off a model's last layer, in place.

    Raises:
        ValueError: the last layer is neither linear nor a layer with softmax as its activation.
    """
    last = model.layers[-1]
    activation = getattr(last, "activation", None)
    if activation not in (keras.activations.softmax, keras.activations.linear):
        raise ValueError(
            f"The last layer of {model.name}, '{last.name}', must be a dense layer or the like with softmax or no "
            "activation."
        )
    last.activation = keras.activations.linear
    return model


@contextlib.contextmanager
def _precision(policy: str) -> Iterator[None]:
    """Layers made inside take this dtype policy."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def train(
    model_fn: Callable[[], keras.Model],
    dataset: data.Dataset,
    recipe: Recipe,
    output: str | os.PathLike,
    seed: int = 0,
    teacher: Teacher | None = None,
    precision: str = "float32",
    start: str | None = None,
    verbose: bool = True,
) -> list[dict[str, float]]:
    """Trains a model, or goes on from the checkpoint that a killed run left beside the output.

    Writes ``<output>`` (.keras), ``<stem>.history.json``, ``<stem>.png``, and while it runs ``<stem>.checkpoint.npz``
    after each epoch; every file whole or not at all. Order, augmentation and dropout depend on seed and epoch only, so
    that a resumed run does what it would have done. Arrays are held on the device, folders of images are streamed.
    Of several processes (`dbf_keras.distributed`) each calls this; the first alone reads and writes these files.

    Args:
        model_fn: builds the model, images 0–255 [batch, H, W, C] to class probabilities.
        dataset: the images.
        recipe: how to train.
        output: path of the .keras file.
        seed: of weights, order, augmentation and dropout.
        teacher: a model to learn from besides the labels.
        precision: the dtype policy to train under: ``"float32"``, ``"mixed_bfloat16"`` or ``"mixed_float16"``. The
            file written is float32.
        start: the path of the model that `model_fn` starts from, if it does: a checkpoint of a run from another is
            not continued.
        verbose: whether to print a line an epoch and to show a bar.

    Returns:
        The history, a row an epoch: epoch, loss, accuracy, val_loss, val_accuracy (on the test set).

    Raises:
        ValueError: the output is no .keras path, the checkpoint belongs to a run with other settings, fewer images
            than one batch, or a batch that the devices cannot share.
    """
    output = pathlib.Path(output)
    if output.suffix != ".keras":
        raise ValueError(f"The output must end in .keras; got {output}.")
    steps = len(dataset.y_train) // recipe.batch_size
    if not steps:
        raise ValueError(f"A batch of {recipe.batch_size} is more than the {len(dataset.y_train)} training images.")
    if recipe.batch_size % distributed.devices():
        raise ValueError(f"{distributed.devices()} devices cannot share a batch of {recipe.batch_size} evenly.")

    verbose = verbose and distributed.is_first()
    keras.utils.set_random_seed(seed)
    with _precision(precision):
        model = model_fn()
        architecture = hashlib.sha256(model.to_json().encode()).hexdigest()
        trainer = engine.Engine(
            to_logits(model),
            recipe.optimizer(steps),
            dataset.classes,
            recipe.label_smoothing,
            augment.Augmentation(**recipe.augmentation) if recipe.augmentation else None,
            **({} if teacher is None else _lesson(teacher, dataset)),
        )
    run = {
        "recipe": dataclasses.asdict(recipe),
        "seed": seed,
        "architecture_sha256": architecture,
        "train_images": len(dataset.y_train),
        "precision": precision,
        "start": start,
        "teacher": teacher and dataclasses.asdict(teacher),
        "backend": keras.backend.backend(),
    }
    run = json.loads(json.dumps(run))  # As it will be read back.
    checkpoint = output.with_suffix(".checkpoint.npz")
    history = _restore(checkpoint, run, trainer.variables)
    if history and verbose:
        print(f"Going on after epoch {len(history)} of {recipe.epochs} from {checkpoint}")

    training = _source(dataset.x_train, dataset.y_train, recipe.crop)
    test = _source(dataset.x_test, dataset.y_test)
    with progress(output.name) if verbose else contextlib.nullcontext(lambda done: None) as show:
        for epoch in range(len(history), recipe.epochs):
            show(epoch / recipe.epochs)
            start = time.perf_counter()
            rng = np.random.default_rng([seed, epoch])
            order = rng.permutation(len(dataset.y_train))[: steps * recipe.batch_size]
            order = order.astype(np.int32).reshape(steps, recipe.batch_size)
            loss, accuracy = trainer.train(training, order, rng.integers(2**30, size=(steps, 2), dtype=np.int32))
            seconds = time.perf_counter() - start
            val_loss, val_accuracy = trainer.evaluate(test, len(dataset.y_test), recipe.batch_size)
            row = {"loss": loss, "accuracy": accuracy, "val_loss": val_loss, "val_accuracy": val_accuracy}
            history.append({"epoch": epoch + 1, **row})
            if distributed.is_first():
                output.parent.mkdir(parents=True, exist_ok=True)
                _write_history(output, run, history)
                _save(checkpoint, run, history, trainer.variables)
            if verbose:
                print(
                    f"epoch {epoch + 1}/{recipe.epochs}: loss {loss:.4f}, accuracy {accuracy:.4f}; test: loss "
                    f"{val_loss:.4f}, accuracy {val_accuracy:.4f}; {seconds:.1f} s",
                    flush=True,
                )
    trained = model_fn()
    trained.set_weights(model.get_weights())
    for layer in trained.layers:
        if isinstance(layer, DBFConv2D):
            layer.fix_rounding()
    if distributed.is_first():
        _write_history(output, run, history)
        command.write_atomically(output.with_suffix(".png"), lambda path: plot_history(history, path))
        command.write_atomically(output, trained.save)
        checkpoint.unlink(missing_ok=True)
    return history


def _lesson(teacher: Teacher, dataset: data.Dataset) -> dict[str, Any]:
    return {
        "teacher": teacher.load(dataset),
        "temperature": teacher.temperature,
        "teacher_weight": teacher.weight,
    }


def _source(images, labels: np.ndarray, crop: float | None = None) -> engine.Source:
    if isinstance(images, np.ndarray):
        return engine.resident(images, labels)
    return engine.streamed(images, labels, crop=crop)


def _write_history(output: pathlib.Path, run: dict, history: list) -> None:
    text = json.dumps({"run": run, "history": history})
    command.write_atomically(output.with_suffix(".history.json"), lambda path: path.write_text(text))


def _save(path: pathlib.Path, run: dict, history: list, variables: list) -> None:
    """Writes a checkpoint: all that a run needs to go on, in one file, so that its parts are of the same epoch."""
    values = {str(index): keras.ops.convert_to_numpy(variable) for index, variable in enumerate(variables)}
    text = json.dumps({"run": run, "history": history})
    command.write_atomically(path, lambda temporary: np.savez(temporary, state=text, **values))


def _restore(path: pathlib.Path, run: dict, variables: list) -> list[dict[str, float]]:
    """Reads a checkpoint, if there is one, into the variables and returns the history.

    Raises:
        ValueError: it belongs to another run.
    """
    content = distributed.read(path)
    if content is None:
        return []
    with np.load(io.BytesIO(content)) as arrays:
        state = json.loads(str(arrays["state"]))
        differing = sorted(key for key in run if state["run"].get(key) != run[key])
        if differing:
            raise ValueError(
                f"{path} belongs to a run with another {', '.join(differing)}. Delete it, or train with the settings "
                "it was made with."
            )
        for index, variable in enumerate(variables):
            variable.assign(arrays[str(index)])
    return state["history"]


def plot_history(history: list[dict[str, float]], path: str | os.PathLike) -> None:
    """Draws loss and error rate on training and test set against the epoch, as a PNG."""
    from matplotlib.figure import Figure

    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    loss, error = figure.subplots(1, 2)
    for prefix, label in (("", "training"), ("val_", "test")):
        loss.plot(epochs, [row[f"{prefix}loss"] for row in history], label=label)
        error.plot(epochs, [100 * (1 - row[f"{prefix}accuracy"]) for row in history], label=label)
    loss.set(xlabel="epoch", ylabel="loss")
    error.set(xlabel="epoch", ylabel="error rate, %", yscale="symlog", ylim=(0, None))
    for axes in (loss, error):
        axes.legend(frameon=False)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def parse_ratio(text: str) -> float | dict[str, float]:
    """A number, or a schedule ``pattern=number,pattern=number``: first match counts."""
    try:
        if "=" not in text:
            return float(text)
        return {pattern: float(value) for pattern, value in (part.split("=") for part in text.split(","))}
    except ValueError:
        raise ValueError(f"--ratio takes a number or 'pattern=number,...'; got {text!r}.") from None


def parse_selection(selection: Any) -> Any:
    """A selection of `dbf_keras.networks.builder.NetworkBuilder`: text as for the flag; all else as it is.

    ``pattern=selection,pattern=selection`` is a mapping, and ``energy:FILE`` the ranked codes of each layer of that
    trained model.
    """
    if not isinstance(selection, str):
        return selection
    if selection.startswith("energy:"):
        return ranked_by_energy(selection.removeprefix("energy:"))
    return dict(part.split("=", 1) for part in selection.split(",")) if "=" in selection else selection


def ranked_by_energy(path: str) -> dict[str, list[int]]:
    """The codes of each convolution of a trained model, those that carry most of its filters first.

    Args:
        path: of a .keras file, plain or with DBF layers of ρ = 1.

    Returns:
        From layer name to grid indices; layers of one code, and names that another network lacks, do no harm.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"energy:{path}: there is no such file to take the order from.")
    model = keras.models.load_model(path, custom_objects=custom_objects(), compile=False)
    kernels = {
        layer.name: keras.ops.convert_to_numpy(layer.kernel)
        for layer in model.layers
        if isinstance(layer, keras.layers.Conv2D)
    }
    return {name: codes.order_by_energy(np.moveaxis(kernel, -1, 0)).tolist() for name, kernel in kernels.items()}


def start_from(model: keras.Model, path: str) -> None:
    """Sets a network's weights to a trained one's, filters of DBF layers as near as their codes come (paper Eq. 2).

    Args:
        model: built; changed in place.
        path: of a .keras file, plain or with DBF layers of any ρ, whose layers have the same names and shapes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a layer of the network is not in the file, or has another shape there.
    """
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"--start={path}: there is no such file to start from.")
    trained = keras.models.load_model(path, custom_objects=custom_objects(), compile=False)
    sources = {layer.name: layer for layer in trained.layers}
    for layer in model.layers:
        if not layer.weights:
            continue
        source = sources.get(layer.name)
        if source is None:
            raise ValueError(f"--start={path}: it has no layer '{layer.name}'; it has {', '.join(sources)}.")
        if isinstance(layer, DBFConv2D):
            layer.fit_kernel(keras.ops.convert_to_numpy(source.kernel))
            if layer.bias is not None:
                layer.bias.assign(source.bias)
        else:
            layer.set_weights(source.get_weights())


def parse_options(texts: list[str]) -> dict[str, Any]:
    """Network options ``name=value``, the value a Python literal or else a string."""
    options = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--option takes name=value; got {text!r}.")
        try:
            options[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[name] = value
    return options


@dataclasses.dataclass(frozen=True)
class Settings:
    """All that says what is trained, and how: the flags of the command line, or a run of a sweep.

    Attributes whose value is None leave the recipe's.
    """

    dataset: str = "digits"
    data_dir: str | None = None
    image_size: int = 224
    train_images: int | None = None
    network: str = "dbfnet_micro"
    ratio: Any = "0.25"
    selection: Any = codes.DEFAULT_SELECTION
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    recipe: str | None = None
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    alpha_rate: float | None = None
    label_smoothing: float | None = None
    crop: float | None = None
    cutout: float | None = None
    mixup: float | None = None
    start: str | None = None
    teacher: str | None = None
    temperature: float = 4.0
    teacher_weight: float = 0.9
    mixed_precision: str | None = None
    seed: int = 0

    def load_data(self) -> data.Dataset:
        """The data set, with so many of the training images as `train_images` says.

        Raises:
            ValueError: there are fewer training images.
        """
        dataset = data.load(self.dataset, self.data_dir, self.image_size)
        return dataset if self.train_images is None else dataset.part(self.train_images)

    def training_recipe(self) -> Recipe:
        """The recipe with what the settings change in it.

        Raises:
            ValueError: an unknown recipe, or a number out of its range.
        """
        name = self.recipe or DEFAULT_RECIPES[self.dataset]
        if name not in RECIPES:
            raise ValueError(f"Unknown recipe {name!r}. Known: {', '.join(sorted(RECIPES))}.")
        names = ("epochs", "batch_size", "learning_rate", "weight_decay", "alpha_rate", "label_smoothing", "crop")
        added = {name: getattr(self, name) for name in ("cutout", "mixup") if getattr(self, name) is not None}
        return RECIPES[name].change(augmentation=added, **{name: getattr(self, name) for name in names})

    def build(self, dataset: data.Dataset) -> keras.Model:
        """The network, for the images of a data set, as it starts."""
        ratio = parse_ratio(self.ratio) if isinstance(self.ratio, str) else self.ratio
        model = networks.build(
            self.network,
            **{
                "input_shape": dataset.image_shape,
                "classes": dataset.classes,
                "ratio": ratio,
                "selection": parse_selection(self.selection),
                **self.options,
            },
        )
        if self.start is not None:
            start_from(model, self.start)
        return model

    def train(self, dataset: data.Dataset, output: str | os.PathLike, verbose: bool = True) -> list[dict[str, float]]:
        """Trains as the settings say; see `train`."""
        return train(
            lambda: self.build(dataset),
            dataset,
            self.training_recipe(),
            output,
            self.seed,
            Teacher(self.teacher, self.temperature, self.teacher_weight) if self.teacher else None,
            f"mixed_{self.mixed_precision}" if self.mixed_precision else "float32",
            self.start,
            verbose,
        )


_FLAGS = flags.FLAGS


def define_flags(output_required: bool = True) -> None:
    """Defines the flags of the command line, one for each of the settings."""
    flags.DEFINE_enum("dataset", "digits", data.DATASETS, "Image set.")
    flags.DEFINE_string("data_dir", None, "Where <dataset>.npz, or train/ and test/, or the TFRecords are.")
    flags.DEFINE_integer("image_size", 224, "Side to which images of files are scaled.")
    flags.DEFINE_integer("train_images", None, "Train on so many images only, always the same.")
    flags.DEFINE_enum("network", "dbfnet_micro", sorted(networks.NETWORKS), "Network.")
    flags.DEFINE_string("ratio", "0.25", "Share of the codes kept: a number, or 'pattern=number,...' by layer name.")
    flags.DEFINE_string(
        "selection",
        codes.DEFAULT_SELECTION,
        "Which codes are kept: an order of dbf_keras.codes.order, sp_ovsf, energy:FILE.keras for those that a trained "
        "model uses most, or 'pattern=selection,...' by layer name.",
    )
    flags.DEFINE_multi_string("option", [], "Another option of the network, e.g. --option kernel_size=3.")
    flags.DEFINE_enum("recipe", None, sorted(RECIPES), "Recipe; by default one for the dataset.")
    flags.DEFINE_integer("epochs", None, "Epochs, if not the recipe's; drops of the learning rate move along.")
    flags.DEFINE_integer("batch_size", None, "Images a step, if not the recipe's.")
    flags.DEFINE_float("learning_rate", None, "Highest learning rate, if not the recipe's.")
    flags.DEFINE_float("weight_decay", None, "Decoupled weight decay, if not the recipe's.")
    flags.DEFINE_float("alpha_rate", None, "Factor on the learning rate of the coefficients, if not the recipe's.")
    flags.DEFINE_float("label_smoothing", None, "Share of the target spread over all classes, if not the recipe's.")
    flags.DEFINE_float("crop", None, "Least share of the area in random parts of images in files, if not the recipe's.")
    flags.DEFINE_float("cutout", None, "Side of a blank square in each image, as a share of the image's.")
    flags.DEFINE_float("mixup", None, "α of mixup, such as 0.2.")
    flags.DEFINE_string("start", None, "A trained .keras file of the same layers, DBF or plain, to start from.")
    flags.DEFINE_string("teacher", None, "A trained .keras file to learn from, besides the labels.")
    flags.DEFINE_float("temperature", 4.0, "With --teacher: by which logits are divided.")
    flags.DEFINE_float("teacher_weight", 0.9, "With --teacher: its share of the loss.")
    flags.DEFINE_enum("mixed_precision", None, ["bfloat16", "float16"], "Compute in this type, keep float32 weights.")
    flags.DEFINE_integer("seed", 0, "Seed of weights, order, augmentation and dropout.")
    flags.DEFINE_string("output", None, "The .keras file to write.", required=output_required)
    flags.DEFINE_string("coordinator", None, "To train by several processes, on JAX: host:port of process 0.")
    flags.DEFINE_integer("processes", 1, "With --coordinator: how many processes train, with all of their devices.")
    flags.DEFINE_integer("process", 0, "With --coordinator: the number of this process, from 0.")


def settings_of_flags() -> Settings:
    """The settings that the flags give."""
    names = [field.name for field in dataclasses.fields(Settings) if field.name != "options"]
    return Settings(options=parse_options(_FLAGS.option), **{name: _FLAGS[name].value for name in names})


def main(arguments: list[str]) -> None:
    """Trains as the flags say and prints the test accuracy of the last epoch."""
    settings = settings_of_flags()
    if _FLAGS.coordinator is not None:
        distributed.join(_FLAGS.coordinator, _FLAGS.processes, _FLAGS.process)
    elif _FLAGS.processes > 1:
        raise ValueError("--processes needs --coordinator=host:port of process 0.")
    history = settings.train(settings.load_data(), _FLAGS.output)
    if distributed.is_first():
        accuracy = 100 * history[-1]["val_accuracy"]
        print(f"Test accuracy after epoch {len(history)}: {accuracy:.2f} %. Wrote {_FLAGS.output}")


if __name__ == "__main__":
    define_flags()
    command.run(main)
