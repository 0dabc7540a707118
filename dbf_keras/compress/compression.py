"""Compresses a trained Keras network: plan, fit, fine-tune, export, report."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import pathlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np

from dbf_keras import command, keras_file, runtime
from dbf_keras.backend import all_layers, computing_in, keras
from dbf_keras.compress import fit, narrow
from dbf_keras.compress.judge import Judge
from dbf_keras.compress.phone import Phone
from dbf_keras.compress.plan import Plan
from dbf_keras.compress.planning import Limits, Planner, dbf_layers
from dbf_keras.compress.report import COMPRESSED, NARROW, ORIGINAL, ORIGINAL_INT8, File, Report
from dbf_keras.compress.search import Found, Search
from dbf_keras.compress.stopwatch import Stopwatch
from dbf_keras.export import rate_distortion
from dbf_keras.forms import EXPLICIT, INT8, ONTHEFLY, Form
from dbf_keras.train.checkpoint import History
from dbf_keras.train.coding import Coding
from dbf_keras.train.loop import check_precision, engine_of, source_of, train
from dbf_keras.train.rate import bearable_rate
from dbf_keras.train.recipes import Recipe
from dbf_keras.train.teacher import Teacher, last_layer, to_logits

# What a network is fine-tuned by if nothing else is said.
FINE_TUNING = Recipe(epochs=10, batch_size=128, learning_rate=0.02)

# The weight of the errors of the features between blocks, beside the distance to the original's logits.
_FEATURES = 2.0

# Images are augmented if the original keeps this share of its accuracy on them.
_BORNE = 0.95

# A fine-tuning stops when the accuracy on the images set aside has not risen for this share of its epochs: a large one,
# as most of what is gained comes in the last epochs, when the learning rate falls.
_PATIENCE = 1 / 2


@dataclasses.dataclass(frozen=True)
class Compression:
    """A compressed network.

    Attributes:
        model: the Keras model.
        plan: what its layers have become.
        report: what it costs and how good it is, beside the original.
        data: the .tflite file.
    """

    model: keras.Model
    plan: Plan
    report: Report
    data: bytes


def compress(  # One argument for each thing that people ask for; most are left out.
    model: keras.Model,
    data: Any = None,
    *,
    max_kb: float | None = None,
    max_ms: float | None = None,
    max_macs: float | None = None,
    max_loss: float | None = None,
    ratio: float | Mapping[str, float] | None = None,
    selection: str | None = None,
    quantize: str | None = "weights",
    coding: bool | None = None,
    epochs: int | None = None,
    learning_rate: float | None = None,
    recipe: Recipe = FINE_TUNING,
    precision: str = "float32",
    slower: bool = False,
    phone: str | PathLike | None = None,
    compare_narrow: bool = False,
    output: str | PathLike | None = None,
    labels: Sequence[str] | None = None,
    normalization: tuple[Any, Any] | None = None,
    seed: int = 0,
    overwrite: bool = False,
    verbose: bool = True,
) -> Compression:
    """Makes a trained Keras network smaller and faster.

    Args:
        model: functional or Sequential, with trained weights; it stays as it is.
        data: its training images and labels, see `dbf_keras.compress.examples.to_dataset`; None if there are none: then
            nothing is trained, and layers are taken to matter as their filters' energies.
        max_kb: 1,000 bytes that the .tflite file may have.
        max_ms: milliseconds that an inference may take on one thread, here or on the ``phone``.
        max_macs: multiply-adds that an inference may take.
        max_loss: points of accuracy that it may lose before fine-tuning, on training images set aside.
        ratio: instead of limits, ρ of every layer; or by layer name or pattern. With limits, too, a plan chooses only
            the kinds of code sets, the bits, and which layers stay plain.
        selection: with ``ratio``, which codes are kept: ``"energy"``, ``"product"``, ``"grouped"``, ``"pooled"``
            (`dbf_keras.compress.losses.SELECTIONS`) or an order of `dbf_keras.codes.order`; by default the fastest of
            the first three, and of those as fast the one that loses least.
        quantize: as for `dbf_keras.export.to_tflite`: None, ``"float16"``, ``"weights"`` or ``"int8"``.
        coding: whether coefficients are entropy-coded; by default where ``max_kb`` or ``max_loss`` is given.
        epochs: of fine-tuning; by default those of the recipe, or none with ``ratio``.
        learning_rate: the highest of fine-tuning; by default the recipe's, or as much less as the network needs, see
            `dbf_keras.train.rate`.
        recipe: how to fine-tune; without its augmentation if the original knows images so changed much worse.
        precision: the dtype policy to fine-tune with: ``"float32"``, ``"mixed_bfloat16"``, which is faster on
            accelerators and on CPUs with AMX, or ``"mixed_float16"``.
        slower: allow an inference that takes longer than the original's in the same number type.
        phone: plan by a phone's times instead of this machine's: a folder, where the files to time are written, and
            then read what the app of android_demo/ wrote of them, ``benchmark.json``.
        compare_narrow: also train a narrower plain network of no more bytes, with the same recipe and teacher.
        output: the .tflite file to write; the .keras file, plan and report are written beside it. Fine-tuning that was
            killed goes on from the checkpoint there.
        labels: names of the classes.
        normalization: mean and standard deviation of pixels, by channel or one for all, if the model does not
            normalise images itself.
        seed: seed of order, augmentation and dropout.
        overwrite: replace a model at the output that was made with other settings.
        verbose: whether to print the plan and what is done.

    Returns:
        The compressed network.

    Raises:
        ValueError: the model cannot be compressed, the data do not fit it, it knows no better than chance about
            them and is to be trained or to keep a limit, nothing keeps a limit, or files have to be timed on the phone
            first; says what would work.
    """
    limits = Limits(max_kb, max_ms, max_macs, max_loss, faster=not slower)
    _check_arguments(limits, ratio, selection, quantize, epochs, data is not None, compare_narrow)
    check_precision(precision)
    limited_bytes = max_kb is not None or max_loss is not None
    form = Form(ONTHEFLY, quantize, limited_bytes if coding is None else coding)
    form.check(quantize in INT8)
    fit.survey(model)
    if epochs is None:
        epochs = 0 if data is None or ratio is not None else recipe.epochs
    recipe = recipe.change(epochs=max(epochs, 1), learning_rate=learning_rate)
    judge = Judge(model, data, labels, normalization)
    say = functools.partial(print, flush=True) if verbose else _say_nothing
    if doubt := judge.doubt():
        if limits.given or epochs:
            raise ValueError(doubt)
        say(f"{doubt} Until then accuracies say nothing.")
    search = _search(judge, form, ratio, selection, phone, say)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "compressed.tflite" if output is None else pathlib.Path(output)
        tuning = _FineTuning(judge, recipe, learning_rate is None, precision, seed, overwrite, say, verbose)
        asked = _asked(model, judge, limits, ratio, selection)
        earlier = None if overwrite else _earlier_plan(_plan_path(path), asked, form)
        found = _planned(search, limits, earlier, say)
        if earlier is None:
            found = _noted(found, path, asked=asked)
        if verbose:
            found.plan.print()
        before = judge.accuracy(found.model)
        if judge.dataset is not None:
            accuracies = f"{100 * before:.2f} %; the original: {100 * search.known:.2f} %"
            say(f"{len(judge.dataset.y_test)} images set aside: fitted, before any training, {accuracies}.")
        history: History = []
        if epochs:
            found, history = tuning.tuned(found, path, before, max_kb)
        else:
            tuning.keep_fitted(found, path)
        command.write_atomically(path, lambda at: at.write_bytes(found.data))
        files = {ORIGINAL: found.original, COMPRESSED: found.data}
        if quantize not in INT8 and data is not None:
            files[ORIGINAL_INT8] = judge.file(model, Form(EXPLICIT, "int8"))
        if compare_narrow:
            files[NARROW] = tuning.narrow(found.plan, path)
        report = _report(judge, search, found, files, before, history, path.name, say)
        command.write_atomically(path.with_suffix(".html"), lambda at: at.write_text(report.to_html(), "utf-8"))
    if verbose:
        report.print()
    return Compression(found.model, found.plan, report, found.data)


def _say_nothing(_: str) -> None:
    """What is done with lines that nobody wants."""


def _search(
    judge: Judge,
    form: Form,
    ratio: Any,
    selection: str | None,
    phone: str | PathLike | None,
    say: Callable[[str], None],
) -> Search:
    """The search for plans, by times taken here or on a phone."""
    say("Looking at what each layer does, and at how long it takes …")
    timer = None if phone is None else Phone(phone)
    stopwatch = _stopwatch(form, timer)
    planner = Planner(judge.model, judge.samples, form, judge.image_size, stopwatch, ratio, selection)
    if timer is not None:
        timer.require_all()
    return Search(judge, planner, form, say, here=timer is None)


def _plan_path(path: pathlib.Path) -> pathlib.Path:
    return path.with_suffix(".plan.json")


def _noted(found: Found, path: pathlib.Path, **changes: Any) -> Found:
    """What was found with changes of its plan, which is written beside a path."""
    found = found._replace(plan=dataclasses.replace(found.plan, **changes))
    found.plan.save(_plan_path(path))
    return found


def _stopwatch(form: Form, phone: Phone | None) -> Stopwatch | None:
    """What times layers, on a phone or here; None where no file can be run."""
    if phone is not None:
        return Stopwatch(form.quantize in INT8, phone.measure)
    can_run = runtime.library_path() is not None and bool(runtime.installed_runtimes())
    return Stopwatch(form.quantize in INT8) if can_run else None


def _planned(search: Search, limits: Limits, earlier: Plan | None, say: Callable[[str], None]) -> Found:
    """The network by an earlier plan, or by one within limits, or by given ratios."""
    if earlier is not None:
        say("Going on with the plan that was made before.")
        return search.again(earlier)
    return search.within(limits) if limits.given else search.uniform(limits.faster)


def _asked(model: keras.Model, judge: Judge, limits: Limits, ratio: Any, selection: str | None) -> dict[str, Any]:
    """What a plan is made for, as JSON gives it back. Plans for the same differ by what is timed only."""
    weights = hashlib.sha256()
    for weight in model.get_weights():
        weights.update(np.ascontiguousarray(weight).data)
    asked = {
        **dataclasses.asdict(limits),
        "ratio": dict(ratio) if isinstance(ratio, Mapping) else ratio,
        "selection": selection,
        "weights_sha256": weights.hexdigest(),
        "train_images": 0 if judge.dataset is None else len(judge.dataset.y_train),
    }
    return json.loads(json.dumps(asked))


def _earlier_plan(path: pathlib.Path, asked: Mapping[str, Any], form: Form) -> Plan | None:
    """The plan that was made for the same before, if there is one: fine-tuning that was killed goes on from it."""
    if not path.exists():
        return None
    plan = Plan.load(path)
    return plan if plan.asked == asked and plan.form == form else None


def _check_arguments(
    limits: Limits,
    ratio: Any,
    selection: str | None,
    quantize: str | None,
    epochs: int | None,
    has_data: bool,
    compare_narrow: bool,
) -> None:
    """Raises ValueError for arguments that do not go together."""
    if not limits.given and ratio is None:
        raise ValueError("Give a limit (max_kb, max_ms, max_macs or max_loss), or `ratio` for one ρ everywhere.")
    if selection is not None and ratio is None:
        raise ValueError("`selection` goes with `ratio`; a plan within limits chooses the codes itself.")
    if epochs is not None and epochs < 0:
        raise ValueError(f"`epochs` must be at least 0; got {epochs}.")
    if not has_data:
        for name, wanted in (("epochs", epochs), ("max_loss", limits.max_loss), ("compare_narrow", compare_narrow)):
            if wanted:
                raise ValueError(f"`{name}` needs `data`: training images and labels.")
        if quantize in INT8:
            raise ValueError(f"`quantize={quantize!r}` needs `data` (--dataset): images to calibrate with, and labels.")


@dataclasses.dataclass(frozen=True)
class _FineTuning:
    """Trains networks with the original as their teacher.

    Attributes:
        judge: has the original and its data.
        recipe: how to train.
        find_rate: whether to find the learning rate, at most the recipe's, by trying.
        precision: the dtype policy to compute with.
        seed: of order, augmentation and dropout.
        overwrite: whether to replace models of other settings.
        say: takes lines that tell what is done.
        verbose: whether to print a line an epoch and to show a bar.
    """

    judge: Judge
    recipe: Recipe
    find_rate: bool
    precision: str
    seed: int
    overwrite: bool
    say: Callable[[str], None]
    verbose: bool

    def find(self, model: keras.Model, plan: Plan | None = None, spare: float = 0.0) -> dict[str, float]:
        """What is found by trying: how to train and, of a plan with coded layers, what holds their bytes.

        Args:
            model: what is to be trained.
            plan: of it.
            spare: bytes that its file takes less than it may.
        """
        found = {"augmented": float(self._bears_augmentation), "learning_rate": self.recipe.learning_rate}
        prices = [] if plan is None else [layer.price for layer in plan.layers if layer.price is not None]
        if prices:
            stored = sum(map(rate_distortion.stored_bytes, _coded(model)))
            # The price is that of a bit at which the plan was made, for 1,000 bytes.
            found |= {"coded_kb": (stored + spare) / 1000, "first_price": 8000 * float(np.median(prices))}
        if self.find_rate:
            found["learning_rate"] = self._bearable_rate(model, self._recipe(found))
        return found

    def _recipe(self, found: Mapping[str, float]) -> Recipe:
        """The recipe, as it was found to be good."""
        recipe = self.recipe.change(learning_rate=found["learning_rate"])
        return recipe if found.get("augmented", True) else dataclasses.replace(recipe, augmentation={}, crop=None)

    @functools.cached_property
    def _bears_augmentation(self) -> bool:
        """Whether the original knows augmented images nearly as well, so that it can teach them."""
        if not self.recipe.augmentation and self.recipe.crop is None:
            return True
        plain, augmented = self.judge.accuracies(self.recipe)
        bears = augmented >= _BORNE * plain
        if not bears:
            self.say(
                f"Images are not augmented: the original knows {100 * plain:.1f} % of them as they are, and "
                f"{100 * augmented:.1f} % if they are."
            )
        return bears

    def tuned(self, found: Found, path: pathlib.Path, before: float, max_kb: float | None) -> tuple[Found, History]:
        """What was found, trained, with its file; as it was fitted if training has made it worse.

        Args:
            found: fitted.
            path: of the .tflite file; the .keras file is written beside it.
            before: the accuracy before training.
            max_kb: 1,000 bytes that the file may have.
        """
        if not found.plan.tuning:
            spare = 0.0 if max_kb is None else 1e3 * max_kb - len(found.data)
            found = _noted(found, path, tuning=self.find(found.model, found.plan, spare))
        fitted = found.model.get_weights()
        history = self.train(found.model, found.plan.tuning, path.with_suffix(keras_file.SUFFIX))
        if self.judge.accuracy(found.model) >= before:
            return found._replace(data=self.judge.file(found.model, found.plan.form, max_kb)), history
        self.say("Fine-tuning has made it worse, so the network stays as it was fitted.")
        found.model.set_weights(fitted)
        self.keep_fitted(found, path)
        return found, history

    def keep_fitted(self, found: Found, path: pathlib.Path) -> None:
        """Writes a network that was not trained beside its file."""
        keras_path = path.with_suffix(keras_file.SUFFIX)
        command.write_atomically(keras_path, lambda at: keras_file.save(found.model, at, self.judge.labels or []))

    def train(self, model: keras.Model, found: Mapping[str, float], output: pathlib.Path) -> History:
        """Trains a network, and writes it, as far as that was not done before."""
        assert self.judge.dataset is not None
        before = output.stat().st_mtime_ns if output.exists() else None
        for layer in _coded(model):
            layer.fixed_steps = True  # As planned: with so few levels, steps that learn ruin the network.
        history = train(
            lambda: model,
            self.judge.dataset,
            self._recipe(found),
            output,
            seed=self.seed,
            teacher=self._teacher,
            coding=Coding(
                coded_kb=found.get("coded_kb"),
                first_price=found.get("first_price"),
                measure=rate_distortion.stored_bytes,
            ),
            precision=self.precision,
            normalization=self.judge.normalization,
            patience=max(3, round(_PATIENCE * self.recipe.epochs)),
            overwrite=self.overwrite,
            verbose=self.verbose,
        )
        if before == output.stat().st_mtime_ns:  # It was trained already.
            model.set_weights(keras_file.load(output).get_weights())
        return history

    @property
    def _teacher(self) -> Teacher:
        return Teacher(f"the original, {self.judge.model.name}", features=_FEATURES, model=self.judge.model)

    def _bearable_rate(self, model: keras.Model, recipe: Recipe) -> float:
        """The learning rate to fine-tune a network with; it is as it was when this returns."""
        dataset, teacher = self.judge.dataset, self._teacher
        assert dataset is not None
        for layer in _coded(model):
            layer.fixed_steps = True
        last = last_layer(model)
        activation = getattr(last, "activation", None)
        logits = to_logits(model)
        lesson = teacher.lesson(dataset, logits)
        with computing_in(self.precision, [*all_layers(model), *all_layers(lesson.teacher)]):
            scale_loss = self.precision == "mixed_float16"
            trainer = engine_of(logits, dataset, recipe, None, lesson, scale_loss, self.judge.normalization)
            source = source_of(dataset.x_train, dataset.y_train, recipe.crop)
            rate = bearable_rate(trainer, recipe, source, len(dataset.y_train), self.seed)
        if activation is not None:
            last.activation = activation
        self.say(f"Fine-tuning with a learning rate of {rate:.2g}.")
        return rate

    def narrow(self, plan: Plan, path: pathlib.Path) -> bytes:
        """The file of a narrower plain network of no more bytes, trained alike."""
        weights = plan.cost.bytes - plan.plain_rest.bytes
        model, _ = narrow.narrowed_to(self.judge.model, weights)
        self.train(model, self.find(model), path.with_name(f"{path.stem}_narrow{keras_file.SUFFIX}"))
        return self.judge.file(model, Form(EXPLICIT, "weights"))


def _coded(model: keras.Model) -> list[Any]:
    """The layers whose coefficients are coded."""
    return [layer for layer in dbf_layers(model) if layer.steps is not None]


def _report(
    judge: Judge,
    search: Search,
    found: Found,
    files: Mapping[str, bytes],
    before: float,
    history: History,
    name: str,
    say: Callable[[str], None],
) -> Report:
    say("Trying the files, and other limits …")
    seconds = judge.seconds(list(files.values()))
    rows = tuple(
        File(title, len(data), duration, judge.file_accuracy(data))
        for (title, data), duration in zip(files.items(), seconds, strict=True)
    )
    dataset = judge.dataset
    return Report(
        name=judge.model.name,
        path=name,
        plan=found.plan,
        files=rows,
        before=None if dataset is None else before,
        held_out=0 if dataset is None else len(dataset.y_test),
        tested=judge.tested,
        history=tuple(history),
        curve=() if dataset is None else tuple(search.curve()),
    )
