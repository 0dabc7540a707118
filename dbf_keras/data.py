"""Image sets: scikit-learn's digits, MNIST, CIFAR-10, other .npz files, folders of images, TFRecords."""

from __future__ import annotations

import dataclasses
import pathlib
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from dbf_keras import data_checks
from dbf_keras.images import ImageFolder, Images, TFRecords

ARRAYS = ("digits", "mnist", "cifar10", "npz")  # Their images have a size of their own; those of files are scaled.
DATASETS = (*ARRAYS, "folder", "tfrecords")
# What commands say of --data_dir.
WHERE = "Where <dataset>.npz, or train/ and test/, or the TFRecords are; with npz the file itself."
# Share of the images of each class that a folder without a test part sets aside for testing.
TEST_SHARE = 0.2

# Names of the classes, by label, of the sets that are always the same.
CLASS_NAMES = {
    "digits": tuple("0123456789"),
    "mnist": tuple("0123456789"),
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
}
# Folders of test images that may stand beside train/; the first that is there counts.
_TEST_PARTS = ("test", "val", "validation")
_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


@dataclasses.dataclass
class Dataset:
    """Raw images and labels.

    Attributes:
        x_train: uint8 [N, H, W, C], values 0–255; an array, `Images`, which reads what is indexed, or a stream of
            batches (`dbf_keras.compress.examples.Stream`).
        y_train: integer labels [N].
        x_test: as x_train.
        y_test: as y_train.
        classes: number of classes.
        class_names: their names by label; by default the numbers from 0.
        is_part: whether images were left out, so that there may be classes without any.
        preprocessed: whether the images are float32, as a model takes them, instead of raw pixels.
        held_out: whether what is tested on is a part of the training set that was set aside.

    Raises:
        ValueError: as `check` says; black images and classes without images count only there.
    """

    x_train: Any
    y_train: np.ndarray
    x_test: np.ndarray | Images
    y_test: np.ndarray
    classes: int
    class_names: tuple[str, ...] = ()
    is_part: bool = False
    preprocessed: bool = False
    held_out: bool = False

    def __post_init__(self) -> None:
        self.class_names = tuple(self.class_names) or tuple(map(str, range(self.classes)))
        if len(self.class_names) != self.classes:
            raise ValueError(f"{self.classes} classes cannot have {len(self.class_names)} names.")
        self._check_arrays()

    def _check_arrays(self) -> None:
        for part in ("train", "test"):
            images, labels = getattr(self, f"x_{part}"), getattr(self, f"y_{part}")
            data_checks.check_images(f"x_{part}", images, self.preprocessed)
            data_checks.check_labels(f"y_{part}", labels, len(images))
            if labels.max() >= self.classes:
                raise ValueError(
                    f"y_{part} has the label {labels.max()}, which is none of {self.classes} classes: they are "
                    f"numbered 0 to {self.classes - 1}."
                )
        if self.x_train.shape[1:] != self.x_test.shape[1:]:
            raise ValueError(
                f"Images to train on are of shape {tuple(self.x_train.shape[1:])} and those to test with of "
                f"{tuple(self.x_test.shape[1:])}; scale them to one."
            )

    def check(self) -> Dataset:
        """Returns the set itself after a look at whether it can be trained on.

        Raises:
            ValueError: an array of images that is not uint8 [N, H, W, C] or is black, labels that are not whole numbers
                from 0 to the number of classes, one an image, images of two shapes, a single class, or, unless this is
                a part of a set, a class without training images; says what would work.
        """
        self._check_arrays()
        for part in () if self.preprocessed else ("train", "test"):
            data_checks.check_brightness(f"x_{part}", getattr(self, f"x_{part}"))
        seen = np.unique(self.y_train)
        labels = np.arange(self.classes) if self.is_part and len(seen) > 1 else self.y_train
        data_checks.check_classes(labels, self.class_names)
        return self

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return tuple(self.x_test.shape[1:])

    def calibration_images(self, count: int = 200) -> np.ndarray:
        """Training images to calibrate int8 with: float32 [count or fewer, H, W, C], always the same draw."""
        return self.calibration_examples(count)[0]

    def calibration_indices(self, count: int) -> np.ndarray:
        """Which training images `calibration_examples` draws."""
        images = len(self.y_train)
        return np.sort(np.random.default_rng(0).choice(images, min(images, count), replace=False))

    def calibration_examples(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """`calibration_images`, and their labels [count or fewer]."""
        chosen = self.calibration_indices(count)
        return np.asarray(self.x_train[chosen], np.float32), np.asarray(self.y_train)[chosen]

    def part(self, count: int) -> Dataset:
        """The same with some of the training images, drawn once and for all: files may be sorted by class.

        Raises:
            ValueError: there are fewer.
        """
        if not isinstance(count, int) or not 1 <= count <= len(self.y_train):
            raise ValueError(f"--train_images takes 1 to {len(self.y_train)}, as many as there are; got {count}.")
        chosen = np.random.RandomState(0).permutation(len(self.y_train))[:count]
        return dataclasses.replace(
            self, x_train=_taken(self.x_train, chosen), y_train=self.y_train[chosen], is_part=True
        )

    def hold_out(self, count: int) -> Dataset:
        """The training images alone, of which some, always the same, are set aside to test on.

        Raises:
            ValueError: there are not more than that.
        """
        if not 1 <= count < len(self.y_train):
            raise ValueError(f"Of {len(self.y_train)} training images {count} cannot be set aside.")
        shuffled = np.random.RandomState(1).permutation(len(self.y_train))
        aside, rest = np.sort(shuffled[:count]), np.sort(shuffled[count:])
        return dataclasses.replace(
            self,
            x_train=_taken(self.x_train, rest),
            y_train=self.y_train[rest],
            x_test=_taken(self.x_train, aside),
            y_test=self.y_train[aside],
            is_part=True,
            held_out=True,
        )


def _taken(images: np.ndarray | Images, chosen: np.ndarray) -> np.ndarray | Images:
    return images.part(chosen) if isinstance(images, Images) else images[chosen]


def load(name: str, data_dir: str | None = None, image_size: int | tuple[int, int] = 224) -> Dataset:
    """Loads an image set.

    Args:
        name: one of

            - ``"digits"``, scikit-learn's real 8×8 digits, no download; the last 360 images, by other writers, are the
              test set;
            - ``"mnist"`` or ``"cifar10"``, from ``<data_dir>/<name>.npz``, otherwise from ``keras.datasets``, which may
              download;
            - ``"npz"``, another such file, which ``data_dir`` names; it may have an array ``classes``, their names, and
              its images may be floats, as a model takes them;
            - ``"folder"``, images in ``<data_dir>/train/<class>/*`` and ``<data_dir>/test/<class>/*`` (or ``val/`` or
              ``validation/``); or in ``<data_dir>/<class>/*``, of which a fifth of each class, `TEST_SHARE`, always
              the same, is the test set;
            - ``"tfrecords"``, ``<data_dir>/train-*`` and ``<data_dir>/validation-*``, see `images.TFRecords`; the
              training set's smallest label becomes 0.
        data_dir: where the files are.
        image_size: side, or (height, width), in pixels to which the images of files are cropped and scaled.

    Raises:
        ValueError: unknown name, "npz", "folder" or "tfrecords" without data_dir, files or arrays that are not as they
            should be (see `Dataset.check`), or a package that is not installed.
        OSError: the set is not where data_dir says, has a picture that cannot be read, or cannot be downloaded.
    """
    return _load(name, data_dir, image_size).check()


def _load(name: str, data_dir: str | None, image_size: int | tuple[int, int]) -> Dataset:
    sides = image_size if isinstance(image_size, tuple) else (image_size, image_size)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError(f"--image_size must be at least 1 pixel; got {image_size}.")
    if name not in DATASETS:
        raise ValueError(f"Unknown dataset {name!r}. Known: {', '.join(DATASETS)}.")
    if name == "digits":
        return _digits()
    if name == "npz":
        return _npz(data_dir)
    if name == "folder":
        return _folder(data_dir, image_size)
    if name == "tfrecords":
        return _tfrecords(data_dir, image_size)
    arrays = _download(name) if data_dir is None else _read_npz(pathlib.Path(data_dir) / f"{name}.npz", name)[0]
    dataset = _dataset(arrays)
    names = CLASS_NAMES[name]
    return dataclasses.replace(dataset, class_names=names) if dataset.classes == len(names) else dataset


def _download(name: str) -> list[np.ndarray]:
    """Returns the arrays that ``keras.datasets`` has of a set, which may download it."""
    instead = f"Give --data_dir of a folder that holds {name}.npz with x_train, y_train, x_test and y_test."
    try:
        import keras
    except ImportError as error:
        raise ValueError(f"{name} is taken from keras.datasets, but {error.name} is not installed. {instead}") from None
    try:
        train, test = getattr(keras.datasets, name).load_data()
    except Exception as error:  # noqa: BLE001 - Keras raises that itself
        reason = " ".join(str(error).split())
        raise ConnectionError(f"{name} could not be downloaded: {reason}. {instead}") from error
    return [*train, *test]


def _npz(data_dir: str | None) -> Dataset:
    if data_dir is None:
        raise ValueError("The dataset 'npz' needs --data_dir=FILE.npz with x_train, y_train, x_test and y_test.")
    arrays, names = _read_npz(pathlib.Path(data_dir))
    preprocessed = arrays[0].dtype.kind == "f"
    if preprocessed:
        arrays = [array.astype(np.float32) if array.dtype.kind == "f" else array for array in arrays]
    return dataclasses.replace(_dataset(arrays, preprocessed), class_names=names)


def _read_npz(path: pathlib.Path, name: str | None = None) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """The four arrays of a file, and the names of its classes; none if it does not tell. ``name`` is of a known set."""
    if not path.is_file():
        wanted = "--data_dir is a file" if name is None else f"--data_dir must hold {path.name}"
        instead = "" if name is None else "; without --data_dir it is taken from keras.datasets"
        missing = "is a folder" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"{path} {missing}. {wanted} with x_train, y_train, x_test and y_test{instead}.")
    try:
        with np.load(path) as arrays:
            names = tuple(map(str, arrays["classes"])) if "classes" in arrays else ()
            return [arrays[key] for key in ("x_train", "y_train", "x_test", "y_test")], names
    except (ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no .npz with x_train, y_train, x_test and y_test: {error}") from None


def _dataset(arrays: Sequence[np.ndarray], preprocessed: bool = False) -> Dataset:
    """Images and labels to train on and to test on, as Keras hands them out."""
    images, labels = [], []
    x_train, y_train, x_test, y_test = arrays
    for part, x, y in (("train", x_train, y_train), ("test", x_test, y_test)):
        images.append(x[..., None] if x.ndim == 3 else x)
        labels.append(y[:, 0] if y.shape == (len(x), 1) else y)
        data_checks.check_images(f"x_{part}", images[-1], preprocessed)
        data_checks.check_labels(f"y_{part}", labels[-1], len(x))
    classes = int(labels[0].max()) + 1
    if labels[1].max() >= classes:
        raise ValueError(f"y_test has the label {labels[1].max()}, which y_train has not.")
    return Dataset(images[0], labels[0], images[1], labels[1], classes, preprocessed=preprocessed)


def _digits() -> Dataset:
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ValueError(
            f"The digits come with scikit-learn, but {error.name} is not installed: pip install scikit-learn."
        ) from None
    digits = datasets.load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    test = 360
    return _dataset([images[:-test], digits.target[:-test], images[-test:], digits.target[-test:]])


def _folder(data_dir: str | None, image_size: int | tuple[int, int]) -> Dataset:
    if data_dir is None:
        raise ValueError(
            "The dataset 'folder' needs --data_dir with train/<class>/* and test/<class>/*, or with <class>/*."
        )
    root = pathlib.Path(data_dir)
    if (root / "train").is_dir():
        names = _classes(root / "train")
        tests = [root / part for part in _TEST_PARTS if (root / part).is_dir()]
        if not tests:
            raise FileNotFoundError(f"Beside {root / 'train'} there is no folder {', '.join(_TEST_PARTS)}.")
        where = root / "train", tests[0]
        _check_same_classes(*where)
        by_part = [[_images(part / name) for name in names] for part in where]
    else:
        names = _classes(root)
        where = root, root
        splits = [_split(_images(root / name)) for name in names]
        by_part = [[split[part] for split in splits] for part in (0, 1)]
    images, labels = [], []
    for folder, by_class in zip(where, by_part, strict=True):
        paths = [path for paths in by_class for path in paths]
        if not paths:
            raise FileNotFoundError(f"{folder} holds no images ({', '.join(_SUFFIXES)}) in class folders.")
        empty = [name for name, paths in zip(names, by_class, strict=True) if not paths]
        if empty:
            raise FileNotFoundError(
                f"{folder} holds no images ({', '.join(_SUFFIXES)}) of {len(empty)} of its {len(names)} classes: "
                f"{data_checks.listed(empty)}. Add some, or remove these folders."
            )
        images.append(ImageFolder(paths, image_size))
        labels.append(np.repeat(np.arange(len(names)), [len(paths) for paths in by_class]))
    return Dataset(images[0], labels[0], images[1], labels[1], len(names), tuple(names))


def _check_same_classes(train: pathlib.Path, test: pathlib.Path) -> None:
    """Raises ValueError if folders of images to train on and to test with have other classes."""
    names = [{path.name for path in folder.glob("[!.]*") if path.is_dir()} for folder in (train, test)]
    for here, there, more in ((train, test, names[0] - names[1]), (test, train, names[1] - names[0])):
        if more and names[1]:  # A folder without classes has no images at all, which is told as such.
            raise ValueError(
                f"{here} has classes that {there} has not: {data_checks.listed(sorted(more))}. Both must have the same."
            )


def _classes(folder: pathlib.Path) -> list[str]:
    names = sorted(path.name for path in folder.glob("[!.]*") if path.is_dir())
    if not names:
        raise FileNotFoundError(
            f"{folder} holds no folders of classes. Images are read from train/<class>/* and test/<class>/* (or val/, "
            "validation/), or from <class>/*."
        )
    return names


def _images(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in _SUFFIXES)


def _split(paths: list[pathlib.Path]) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """Splits the images of a class into those to train on and those to test with, always in the same way.

    Raises:
        ValueError: there is one image only.
    """
    if len(paths) == 1:
        raise ValueError(f"{paths[0].parent} holds one image; a class needs two, one to train on and one to test with.")
    tests = max(1, round(TEST_SHARE * len(paths))) if paths else 0
    chosen = set(np.random.RandomState(0).permutation(len(paths))[:tests].tolist())
    parts: tuple[list[pathlib.Path], list[pathlib.Path]] = ([], [])
    for number, path in enumerate(paths):
        parts[number in chosen].append(path)
    return parts


def _tfrecords(data_dir: str | None, image_size: int | tuple[int, int]) -> Dataset:
    if data_dir is None:
        raise ValueError("The dataset 'tfrecords' needs --data_dir with files train-* and validation-*.")

    folder = pathlib.Path(data_dir)

    def split(part: str) -> TFRecords:
        files = sorted(path for path in folder.glob(f"{part}-*") if path.is_file())
        records = TFRecords(files, image_size) if files else None
        if not records:
            raise FileNotFoundError(f"{data_dir} holds no records in files {part}-*.")
        return records

    train, test = split("train"), split("validation")
    first, last = int(train.labels.min()), int(train.labels.max())
    if test.labels.min() < first or test.labels.max() > last:
        raise ValueError(f"{data_dir}/validation-* has labels outside {first} to {last}, those of train-*.")
    _ = train[0], test[0]  # Whatever all records lack is told now.
    _ = train[0], test[0]  # Whatever all records lack is told now.
    if first < 0:
        raise ValueError(f"{data_dir}/train-* has the label {first}; leave images without a class out.")
    names = tuple(map(str, range(first, last + 1)))
    return Dataset(train, train.labels - first, test, test.labels - first, len(names), names)
