"""Images a second of the input alone, of training from memory and of training from files, on Tiny-ImageNet-20's JPEGs.

python benchmarks/input.py --data_dir=$DBF_DATA_DIR

Input is the bottleneck if training from files is as slow as the input alone; decoding shares the cores with training.
``--folder=DIR`` also leaves the images there, for ``python -m dbf_keras.train --dataset=folder --data_dir=DIR``.
"""

import pathlib
import tempfile
import time

import numpy as np
from absl import flags
from PIL import Image

from dbf_keras import command, data, networks
from dbf_keras.progress import progress
from dbf_keras.train import augmentation, engine, recipes

_FLAGS = flags.FLAGS
flags.DEFINE_string("data_dir", None, "Where tinyimagenet20.npz is.", required=True)
flags.DEFINE_string("folder", None, "Where the images are written; by default they are deleted in the end.")
flags.DEFINE_multi_integer("image_size", [64, 224], "Sides that images are scaled to.")
flags.DEFINE_string("network", "resnet8", "Network, at ρ = ¼.")
flags.DEFINE_integer("steps", 4, "Batches of 64 a measurement.")
flags.DEFINE_integer("rounds", 3, "Measurements of each, in turns; the medians are printed.")


def write_folder(data_dir: str, folder: pathlib.Path) -> None:
    """Writes <folder>/train/<class>/*.jpg and test/ likewise, of the arrays in tinyimagenet20.npz."""
    with np.load(pathlib.Path(data_dir) / "tinyimagenet20.npz") as arrays, progress("images") as show:
        for part in ("train", "test"):
            images, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
            for number, (image, label) in enumerate(zip(images, labels, strict=True)):
                path = folder / part / f"{label:02d}" / f"{number:05d}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(path, quality=95)
                show((number + 1) / len(images))


def measure(folder: pathlib.Path, size: int) -> None:
    """Prints a row of the table."""
    dataset = data.load("folder", str(folder), size)
    recipe = recipes.RECIPES["paper_imagenet"]
    rng = np.random.default_rng(0)
    count = _FLAGS.steps * recipe.batch_size
    order = rng.permutation(len(dataset.y_train))[:count].astype(np.int32).reshape(_FLAGS.steps, -1)
    seeds = rng.integers(2**30, size=(_FLAGS.steps, 2), dtype=np.int32)
    model = networks.build(
        _FLAGS.network,
        ratio=0.25,
        selection="ovsf",  # The fastest to train, so that the input has most to do.
        input_shape=dataset.image_shape,
        classes=dataset.classes,
        classifier_activation=None,
    )
    augmented = augmentation.Augmentation(**recipe.augmentation)
    trainer = engine.Engine(model, recipe.optimizer(_FLAGS.steps), dataset.classes, augmentation=augmented)
    files = engine.streamed(dataset.x_train, dataset.y_train, crop=recipe.crop)
    held = dataset.x_train[order.ravel()]
    memory = engine.streamed(held, dataset.y_train[order.ravel()])  # In parts of the same size as from files.
    ways = [
        lambda: sum(len(index) for *_, index in files(order, seeds)),
        lambda: trainer.train(memory, np.arange(count, dtype=np.int32).reshape(order.shape), seeds),
        lambda: trainer.train(files, order, seeds),
    ]
    times = np.zeros((_FLAGS.rounds + 1, len(ways)))
    with progress(f"{size}²") as show:
        for index in np.ndindex(times.shape):
            start = time.perf_counter()
            ways[index[1]]()
            times[index] = time.perf_counter() - start
            show((index[0] * len(ways) + index[1] + 1) / times.size)
    rates = count / np.median(times[1:], axis=0)  # The first round compiles.
    print(f"| {size}² | " + " | ".join(f"{rate:.0f}" for rate in rates) + " |", flush=True)


def main(_: list[str]) -> None:
    """Prints a table."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(_FLAGS.folder or temporary)
        if not (folder / "test").exists():
            write_folder(_FLAGS.data_dir, folder)
        print(f"{_FLAGS.network}, images a second\n\n| images | input alone | from memory | from files |")
        print("|---|---|---|---|")
        for size in _FLAGS.image_size:
            measure(folder, size)


if __name__ == "__main__":
    command.run(main)
