"""What others use to make trained networks smaller, on the same network, images and fine-tuning.

    python benchmarks/peers/peers.py --model=resnet18_k4_plain_cifar10 --dataset=cifar10 --data_dir=$DBF_DATA_DIR \
        --epochs=3 --budgets=48,96 --ours=small.tflite --output=peers

Each method starts from the trained network, is made as large as the budget lets it, and is trained for as many epochs
by the same recipe, with the network as it was as its teacher; methods.py says what differs. Bytes are those of a file
with int8 weights (int8 throughout with --budget_of=int8), with int4 weights where it is trained for these, and zipped
with tensorflow-model-optimization, as those who use it count. Each network is then written in every way. What is
trained already is not trained again.

Files are timed in turns in one process: medians of one image and one thread. Accuracy is of all test images. At each
budget, and at the bytes of each of our files, the most accurate file of no more bytes wins. peers.json and peers.png
are written beside the networks and files.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import threadpoolctl
from absl import flags

import pruning
import quantized
from dbf_keras import Interpreter, command, data, keras_file, plots, zoo
from dbf_keras.backend import keras
from dbf_keras.benchmark import prepare, time_interleaved
from dbf_keras.benchmark.accuracy import accuracy
from dbf_keras.benchmark.report import describe_machine, print_table
from dbf_keras.train.loop import train
from dbf_keras.train.recipes import DEFAULT_RECIPES, RECIPES, Recipe
from dbf_keras.train.settings import precision_of
from dbf_keras.train.teacher import Teacher
from methods import METHODS, Method

_FLAGS = flags.FLAGS
flags.DEFINE_string("model", "resnet18_k4_plain_cifar10", "Plain network: a name of the zoo, or a .keras file.")
flags.DEFINE_enum("dataset", "cifar10", data.DATASETS, "Image set.")
flags.DEFINE_string("data_dir", None, "Where that is.")
flags.DEFINE_integer("train_images", None, "Train on so many images only.")
flags.DEFINE_list("methods", list(METHODS), f"Methods, of {', '.join(METHODS)}.")
flags.DEFINE_list("budgets", ["48", "96"], "Sizes of files in kB, of 1000 bytes.")
flags.DEFINE_enum("budget_of", "weights", ["weights", "int8"], "Of which files: those of float or of int8 arithmetic.")
flags.DEFINE_list("ours", [], "TFLite files of ours to compare with.")
flags.DEFINE_integer("epochs", 3, "Epochs of each training.", lower_bound=1)
flags.DEFINE_enum("recipe", None, list(RECIPES), "Recipe; by default the data set's.")
flags.DEFINE_float("learning_rate", 0.02, "Highest learning rate where weights are not new.")
flags.DEFINE_integer("batch_size", None, "Images a step, if not the recipe's.")
flags.DEFINE_enum("mixed_precision", None, ["bfloat16"], "Train in this type, but for tensorflow-model-optimization's.")
flags.DEFINE_integer("seed", 0, "Seed of each training.")
flags.DEFINE_float("seconds", 1.0, "Seconds to time each file.")
flags.DEFINE_string("output", "peers", "Folder to write to; networks that it holds are not trained again.")

_KNOWN_KINDS = {**quantized.CONVERTED, **quantized.RECIPES}
_ZIP_MARGIN = 1.02  # Weights that are trained can be zipped a little less.
_SIZING_IMAGES = 8  # Calibrate files of which the bytes only are wanted.


class Case(NamedTuple):
    """A network to be made: a key of `METHODS`, and its budget in bytes if it has a knob."""

    key: str
    budget: float | None

    @property
    def method(self) -> Method:
        """The method."""
        return METHODS[self.key]

    @property
    def name(self) -> str:
        """What its files are called."""
        return self.key if self.budget is None else f"{self.key}_{self.budget / 1000:g}"


class Comparison:
    """A trained network, its images, and the networks that methods make of it.

    Args:
        folder: where networks and files are written.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        named = _FLAGS.model.endswith(keras_file.SUFFIX)
        self.path = pathlib.Path(_FLAGS.model) if named else zoo.path(_FLAGS.model)
        self.model = keras_file.load(self.path, "--model")
        if named and any(METHODS[key].few_values for key in _FLAGS.methods):
            raise ValueError("tensorflow-model-optimization is tried on networks of the zoo only; choose --methods.")
        self.dataset = data.load(_FLAGS.dataset, _FLAGS.data_dir, tuple(self.model.input_shape[1:3]))
        if _FLAGS.train_images is not None:
            self.dataset = self.dataset.part(_FLAGS.train_images)

    def knob(self, case: Case) -> float | None:
        """The largest value of a method's knob whose file is not over the budget; None if all are."""
        kind = case.method.kinds[_FLAGS.budget_of == "int8"]
        fitting, over = -1, len(case.method.knobs)
        while over - fitting > 1:
            middle = (fitting + over) // 2
            network = case.method.finish(case.method.start(self.model, case.method.knobs[middle]))
            _unlike_zero(network)
            file = quantized.write(network, kind, self.dataset, _SIZING_IMAGES)
            margin = _ZIP_MARGIN if case.method.few_values else 1.0
            if margin * _counted(case.method, file) <= case.budget:
                fitting = middle
            else:
                over = middle
        return None if fitting < 0 else float(case.method.knobs[fitting])

    def network(self, case: Case) -> tuple[keras.Model, float | None] | None:
        """The network of a case, trained, and its knob; None if the method does not come down to the budget.

        Raises:
            ValueError: there is one that was trained with other settings.
        """
        method, path = case.method, self.folder / f"{case.name}.keras"
        if not method.trained:
            return self.model, None
        recipe = RECIPES[_FLAGS.recipe or DEFAULT_RECIPES[_FLAGS.dataset]].change(
            epochs=_FLAGS.epochs,
            batch_size=_FLAGS.batch_size,
            learning_rate=None if method.new else _FLAGS.learning_rate,
        )
        kept = ("model", "dataset", "train_images", "seed", "budget_of", "mixed_precision")
        wanted = {flag: getattr(_FLAGS, flag) for flag in kept}
        wanted |= {"recipe": json.loads(json.dumps(dataclasses.asdict(recipe)))}
        if path.exists():
            known = (keras_file.training(path) or {}).get("settings", {})
            if any(known.get(key) != value for key, value in wanted.items()):
                raise ValueError(f"{path} was trained with other settings; remove it, or give another --output.")
            return method.finish(keras_file.load(path)), known["knob"]
        knob = self.knob(case)
        if knob is None:
            return None
        print(f"{case.name}: {method.words}, {knob:.3g}", flush=True)
        settings = {**wanted, "knob": knob}
        if method.few_values:
            self._train_few_values(*method.few_values(knob), recipe, path, settings)
        else:
            teacher = Teacher(str(self.path)) if method.taught else None
            build = lambda: method.start(self.model, knob)  # noqa: E731
            train(
                build,
                self.dataset,
                recipe,
                path,
                seed=_FLAGS.seed,
                teacher=teacher,
                precision=precision_of(_FLAGS.mixed_precision),
                settings=settings,
            )
        return method.finish(keras_file.load(path)), knob

    def _train_few_values(
        self, sparsity: float, clusters: int, recipe: Recipe, path: pathlib.Path, settings: Mapping[str, Any]
    ) -> None:
        """Prunes, clusters or both, the latter for half of the epochs each; of the augmentation shift and mirror."""
        both = bool(sparsity and clusters)
        pruning_epochs = (max(1, recipe.epochs // 2) if both else recipe.epochs) if sparsity else 0
        job = pruning.Job(
            _FLAGS.model,
            _FLAGS.dataset,
            _FLAGS.data_dir,
            pruning_epochs,
            max(1, recipe.epochs - pruning_epochs) if clusters else 0,
            train_images=_FLAGS.train_images,
            batch_size=recipe.batch_size,
            learning_rate=recipe.learning_rate,
            sparsity=sparsity,
            clusters=clusters,
            clip=1.0,
            shift=int(recipe.augmentation.get("shift", 0)),
            mirror=recipe.augmentation.get("mirror", False),
            teacher_weight=Teacher.weight,
        )
        model = keras.models.clone_model(self.model)
        model.set_weights(pruning.run(job, self.model.get_weights()))
        details = {"settings": dict(settings)}
        command.write_atomically(
            path, lambda temporary: keras_file.save(model, temporary, self.dataset.class_names, details)
        )

    def files(self, case: Case) -> list[dict[str, Any]]:
        """Writes a case's network in every way: a row of the results for each file."""
        made = self.network(case)
        if made is None:
            print(f"{case.name}: the smallest network is larger", flush=True)
            return []
        rows, trained = [], self.folder / f"{case.name}.keras"
        for kind in case.method.kinds:
            path = self.folder / f"{case.name}_{kind}.tflite"
            if not (trained.exists() and path.exists() and path.stat().st_mtime >= trained.stat().st_mtime):
                file = quantized.write(made[0], kind, self.dataset)
                command.write_atomically(path, lambda temporary, file=file: temporary.write_bytes(file))
            rows.append({"method": case.key, "budget": case.budget, "knob": made[1], "kind": kind, **_row(path)})
            rows[-1]["counted"] = _counted(case.method, path.read_bytes())
        return rows


def _row(path: pathlib.Path) -> dict[str, Any]:
    file = path.read_bytes()
    sizes = {"bytes": len(file), "zipped": quantized.zipped(file), "counted": len(file)}
    return {"file": str(path), "sha256": hashlib.sha256(file).hexdigest(), **sizes}


def _unlike_zero(network: keras.Model) -> None:
    """Moves biases and BatchNorms, as training will: zeros would take no bytes."""
    rng = np.random.default_rng(0)
    network.set_weights([w + rng.uniform(0, 0.1, w.shape) if w.ndim == 1 else w for w in network.get_weights()])


def _counted(method: Method, file: bytes) -> int:
    return quantized.zipped(file) if method.few_values else len(file)


def measure(rows: Sequence[dict[str, Any]], dataset: data.Dataset, known: Mapping[str, float]) -> None:
    """Adds milliseconds and accuracy to rows.

    Args:
        rows: the files.
        dataset: test images.
        known: accuracy by SHA-256, of files that need not be tried again.
    """
    runs = time_interleaved([prepare(Interpreter(row["file"])) for row in rows], _FLAGS.seconds)
    for row, times in zip(rows, runs, strict=True):
        row["ms"] = 1e3 * float(np.median(times))
        row["accuracy"] = known.get(row["sha256"])
        if row["accuracy"] is None:
            interpreter = Interpreter(row["file"])
            interpreter.allocate_tensors()
            row["accuracy"] = accuracy(interpreter, dataset.x_test, dataset.y_test)


def words(row: Mapping[str, Any]) -> str:
    """What a method is called."""
    return METHODS[row["method"]].words if row["method"] in METHODS else "ours"


def print_results(rows: Sequence[Mapping[str, Any]], machine: str) -> None:
    """Prints a table of all files, and one of who wins at equal bytes."""
    cells = [
        [
            words(row) + (f", {row['budget'] / 1000:g} kB" if row.get("budget") else ""),
            _KNOWN_KINDS.get(row["kind"], row["kind"]),
            *(f"{row[size]:,}" for size in ("counted", "bytes", "zipped")),
            f"{row['ms']:.2f}",
            f"{row['accuracy']:.2%}",
        ]
        for row in sorted(rows, key=lambda row: row["counted"])
    ]
    title = f"{_FLAGS.model}, {_FLAGS.epochs} epochs, on {machine}"
    print_table(title, [["method", "file", "counted", "bytes", "zipped", "ms", "accuracy"], *cells], texts=2)
    ours = {row["counted"] for row in rows if row["method"] == "ours"}
    limits = sorted({1000 * float(budget) for budget in _FLAGS.budgets} | ours)

    def best(name: str, limit: float) -> float:
        return max((row["accuracy"] for row in rows if words(row) == name and row["counted"] <= limit), default=0.0)

    names = list(dict.fromkeys(map(words, rows)))
    table = [[name, *(f"{best(name, limit):.2%}" if best(name, limit) else "" for limit in limits)] for name in names]
    winners = [max(names, key=lambda name, limit=limit: best(name, limit)) for limit in limits]
    headings = ["method", *(f"≤ {limit:,.0f}" for limit in limits)]
    print_table("The most accurate file of no more bytes", [headings, *table, ["wins", *winners]])


def draw(rows: Sequence[Mapping[str, Any]], path: pathlib.Path) -> None:
    """Draws accuracy against bytes and milliseconds: a line joins the best of each method.

    What is more than 20 points under the best of all is drawn at the lower edge.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot, ticker

    figure, panels = pyplot.subplots(1, 2, figsize=(12, 5), sharey=True, layout="constrained")
    names = list(dict.fromkeys(map(words, rows)))
    axes = (("counted", 1e-3, "kB; of TFMOT zipped"), ("ms", 1.0, "ms, one thread"))
    shares = [100 * row["accuracy"] for row in rows]
    edge = max(min(shares), max(shares) - 20)
    for axis, (key, scale, label) in zip(panels, axes, strict=True):
        for number, name in enumerate(names):
            mine = name == "ours"
            style = {"color": "black" if mine else pyplot.get_cmap("tab20")(number), "zorder": 3 if mine else 2}
            points = sorted((scale * row[key], max(edge, 100 * row["accuracy"])) for row in rows if words(row) == name)
            best = [point for rank, point in enumerate(points) if all(point[1] > other[1] for other in points[:rank])]
            axis.plot(*zip(*best, strict=True), linewidth=2 if mine else 1, **style)
            marker = "*" if mine else "os^vD"[number % 5]
            axis.scatter(*zip(*points, strict=True), s=90 if mine else 22, marker=marker, label=name, **style)
        axis.set(xscale="log", xlabel=label)
        axis.xaxis.set_major_locator(ticker.LogLocator(base=10, subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        axis.xaxis.set_minor_formatter(ticker.NullFormatter())
        axis.grid(alpha=0.3)
    panels[0].set_ylabel("accuracy, %" if edge == min(shares) else f"accuracy, %; lower ones at {edge:.1f}")
    panels[1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=8)
    figure.suptitle(f"{_FLAGS.model}, {_FLAGS.epochs} epochs of fine-tuning")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main(_: list[str]) -> None:
    """Trains, writes and measures."""
    if unknown := set(_FLAGS.methods) - set(METHODS):
        raise ValueError(f"Got methods {', '.join(sorted(unknown))}; use some of {', '.join(METHODS)}.")
    threadpoolctl.threadpool_limits(1, "blas")  # Matrices are small: threads of numpy would wait for each other only.
    folder = pathlib.Path(_FLAGS.output)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"method": "ours", "kind": pathlib.Path(file).stem, **_row(pathlib.Path(file))} for file in _FLAGS.ours]
    comparison = Comparison(folder)
    for key in _FLAGS.methods:
        for budget in [1000 * float(budget) for budget in _FLAGS.budgets] if METHODS[key].knobs else [None]:
            rows += comparison.files(Case(key, budget))
    results = folder / "peers.json"
    known = json.loads(results.read_text())["files"] if results.exists() else []
    measure(rows, comparison.dataset, {row["sha256"]: row["accuracy"] for row in known})
    machine = describe_machine("litert")["cpu"]
    content = json.dumps({"machine": machine, "model": _FLAGS.model, "epochs": _FLAGS.epochs, "files": rows}, indent=1)
    command.write_atomically(results, lambda path: path.write_text(content))
    print_results(rows, machine)
    plots.write(folder / "peers.png", lambda path: draw(rows, path))


if __name__ == "__main__":
    command.run(main)
