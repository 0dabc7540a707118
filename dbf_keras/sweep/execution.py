"""What does the runs of a sweep: one after another, beside other processes that do the same."""

from __future__ import annotations

import json
import os
import pathlib
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import filelock

from dbf_keras import command, data, keras_file, plots
from dbf_keras.backend import keras
from dbf_keras.networks.cost import multiply_adds
from dbf_keras.sweep.plots import plot
from dbf_keras.sweep.results import join_seeds, table, write_table
from dbf_keras.sweep.runs import Run

# Seconds between looks at runs that other processes are at.
_PATIENCE = 2


def execute(run: Run, output_dir: pathlib.Path, data_dir: str | None, datasets: dict) -> dict[str, Any]:
    """Does a run, or goes on with it, unless its result is there.

    Args:
        run: the run.
        output_dir: folder of its files: ``<name>.json``, the result, and what `dbf_keras.train.train` writes.
        data_dir: for runs that give none.
        datasets: data sets by what they are made from; filled as they are loaded.

    Returns:
        The result: name, group, title, given, loss, accuracy, parameters, multiply_adds, bytes (of the on-the-fly file
        with int8 weights), seconds of this process. Multiply-adds and bytes are None where they cannot be known: the
        bytes on JAX, which exports no files.

    Raises:
        ValueError: the result that is there is of other settings.
    """
    path = output_dir / f"{run.name}.json"
    if path.exists():
        result = json.loads(path.read_text())
        if result["given"] != run.given:
            raise ValueError(
                f"{path} is the result of other settings: {result['given']}. Delete it, or rename the run."
            )
        return result
    settings = run.settings(output_dir, data_dir)
    source = (settings.dataset, settings.data_dir, settings.image_size, settings.train_images)
    if source not in datasets:
        datasets[source] = settings.load_data()
    dataset: data.Dataset = datasets[source]
    output = output_dir / f"{run.name}.keras"
    start = time.monotonic()
    history = settings.train(dataset, output)
    seconds = round(time.monotonic() - start, 1)
    result = {
        "name": run.name,
        "group": run.group,
        "title": run.title,
        "given": run.given,
        "loss": history[-1]["val_loss"],
        "accuracy": history[-1]["val_accuracy"],
        **_figures(output),
        "seconds": seconds,
    }
    keras.utils.clear_session()
    text = json.dumps(result, indent=1) + "\n"
    command.write_atomically(path, lambda temporary: temporary.write_text(text))
    return result


def _figures(path: pathlib.Path) -> dict[str, int | None]:
    """What a trained network costs."""
    model = keras_file.load(path)

    def known(figure: Callable[[], int]) -> int | None:
        try:
            return figure()
        except Exception:  # noqa: BLE001 - whatever the converter raises, the training's result is to be kept
            return None

    return {
        "parameters": model.count_params(),
        "multiply_adds": known(lambda: multiply_adds(model)),
        "bytes": known(lambda: _bytes(model)),
    }


def _bytes(model: keras.Model) -> int:
    from dbf_keras.export import to_tflite

    return len(to_tflite(model, "onthefly", "weights"))


def sweep(
    runs: Sequence[Run], plot_options: Mapping[str, Any], output_dir: str | os.PathLike, data_dir: str | None = None
) -> dict[str, str]:
    """Does the runs that are not done and that no other process is at, and writes table and plot after each.

    Returns when all are done, those of other processes too.

    Args:
        runs: the runs.
        plot_options: see `dbf_keras.sweep.plot`.
        output_dir: folder of all files.
        data_dir: for runs that give none.

    Returns:
        The errors, by the name of the run.
    """
    output_dir = pathlib.Path(output_dir)
    locks = output_dir / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    if keras.backend.backend() == "jax":  # Seeds of a run share what XLA made for the first.
        import jax

        jax.config.update("jax_compilation_cache_dir", str(output_dir / ".jax_cache"))
    errors: dict[str, str] = {}
    datasets: dict = {}
    pending = dict(enumerate(runs, 1))
    while pending:
        busy = {}
        for number, run in pending.items():
            try:
                with filelock.FileLock(locks / run.name, blocking=False):
                    done = (output_dir / f"{run.name}.json").exists()
                    if not done:
                        print(f"[{number}/{len(runs)}] {run.name}", flush=True)
                    error = _attempt(run, output_dir, data_dir, datasets)
            except filelock.Timeout:
                busy[number] = run
                continue
            if isinstance(error, FileNotFoundError) and busy:  # A file of a run that is being done, perhaps.
                busy[number] = run
            elif error is not None:
                errors[run.name] = f"{type(error).__name__}: {error}"
                _tell(run, error)
            elif not done:
                _report(runs, plot_options, output_dir)
        if len(busy) == len(pending):
            time.sleep(_PATIENCE)
        pending = busy
    _report(runs, plot_options, output_dir)
    return errors


def _attempt(run: Run, output_dir: pathlib.Path, data_dir: str | None, datasets: dict) -> Exception | None:
    """`execute`, whatever it fails of being returned, so that the other runs go on."""
    try:
        execute(run, output_dir, data_dir, datasets)
    except Exception as error:  # noqa: BLE001
        return error
    return None


def _tell(run: Run, error: Exception) -> None:
    """Says why a run failed, in one line if the user can mend it."""
    foreseen = isinstance(error, (ValueError, OSError))
    reason = f"{type(error).__name__}: {error}" if foreseen else "".join(traceback.format_exception(error)).rstrip()
    print(f"{run.name} failed: {reason}", file=sys.stderr, flush=True)


def _report(runs: Sequence[Run], plot_options: Mapping[str, Any], output_dir: pathlib.Path) -> None:
    """Writes table and plot of all results that are there, in the order of the runs."""
    results = []
    for run in runs:
        path = output_dir / f"{run.name}.json"
        if path.exists():
            result = json.loads(path.read_text())
            if result["given"] == run.given:
                results.append(result)
    if results:
        groups = join_seeds(results)
        write_table(table(groups), output_dir)
        plots.write(output_dir / "results.png", lambda path: plot(groups, plot_options, path))
