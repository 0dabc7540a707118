"""Image sets: scikit-learn's digits, MNIST, CIFAR-10, folders of images, TFRecords."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np

from dbf_keras.images import ImageFolder, Images, TFRecords

DATASETS = ("digits", "mnist", "cifar10", "folder", "tfrecords")


@dataclasses.dataclass
class Dataset:
    """Raw images and labels.

    Attributes:
        x_train: uint8 [N, H, W, C], values 0–255; an array, or `Images`, which reads what is indexed.
        y_train: integer labels [N].
        x_test: as x_train.
        y_test: as y_train.
        classes: number of classes.
    """

    x_train: np.ndarray | Images
    y_train: np.ndarray
    x_test: np.ndarray | Images
    y_test: np.ndarray
    classes: int

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return tuple(self.x_test.shape[1:])

    def calibration_images(self, count: int = 200) -> np.ndarray:
        """Training images to calibrate int8 with: float32 [count or fewer, H, W, C], always the same draw."""
        images = len(self.y_train)
        chosen = np.random.default_rng(0).choice(images, min(images, count), replace=False)
        return np.asarray(self.x_train[np.sort(chosen)], np.float32)

    def part(self, count: int) -> Dataset:
        """The same with some of the training images, drawn once and for all: files may be sorted by class.

        Raises:
            ValueError: there are fewer, or the images are in files.
        """
        if not isinstance(self.x_train, np.ndarray) or not 1 <= count <= len(self.y_train):
            raise ValueError(
                f"--train_images takes 1 to {len(self.y_train)} images, of sets that are arrays; got {count}."
            )
        chosen = np.random.RandomState(0).permutation(len(self.y_train))[:count]
        return dataclasses.replace(self, x_train=self.x_train[chosen], y_train=self.y_train[chosen])


def load(name: str, data_dir: str | None = None, image_size: int = 224) -> Dataset:
    """Loads an image set.

    Args:
        name: ``"digits"`` (scikit-learn's real 8×8 digits, no download; the last 360 images, by other writers, are
            the test set), ``"mnist"`` or ``"cifar10"`` (``<data_dir>/<name>.npz``, otherwise ``keras.datasets``,
            which may download), ``"folder"`` (``<data_dir>/train/<class>/*`` and ``<data_dir>/test/<class>/*``), or
            ``"tfrecords"`` (``<data_dir>/train-*`` and ``<data_dir>/validation-*``, see `images.TFRecords`; the
            training set's smallest label becomes 0).
        data_dir: where the files are.
        image_size: side in pixels to which the images of files are cropped and scaled.

    Raises:
        ValueError: unknown name, "folder" or "tfrecords" without data_dir, or records that are not as they should be.
        FileNotFoundError: data_dir is given but does not hold the set.
    """
    if name not in DATASETS:
        raise ValueError(f"Unknown dataset {name!r}. Known: {', '.join(DATASETS)}.")
    if name == "digits":
        return _digits()
    if name == "folder":
        return _folder(data_dir, image_size)
    if name == "tfrecords":
        return _tfrecords(data_dir, image_size)
    if data_dir is None:
        import keras

        (x_train, y_train), (x_test, y_test) = getattr(keras.datasets, name).load_data()
    else:
        path = pathlib.Path(data_dir) / f"{name}.npz"
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} does not exist. --data_dir must hold {name}.npz with x_train, y_train, x_test and y_test; "
                "without --data_dir it is taken from keras.datasets."
            )
        with np.load(path) as arrays:
            x_train, y_train, x_test, y_test = (arrays[key] for key in ("x_train", "y_train", "x_test", "y_test"))
    return _dataset(x_train, y_train, x_test, y_test)


def _dataset(x_train, y_train, x_test, y_test) -> Dataset:
    def images(x):
        return x if x.ndim == 4 else x[..., None]

    return Dataset(images(x_train), y_train.ravel(), images(x_test), y_test.ravel(), int(y_train.max()) + 1)


def _digits() -> Dataset:
    from sklearn import datasets

    digits = datasets.load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    test = 360
    return _dataset(images[:-test], digits.target[:-test], images[-test:], digits.target[-test:])


def _folder(data_dir: str | None, image_size: int) -> Dataset:
    if data_dir is None:
        raise ValueError("The dataset 'folder' needs --data_dir with train/<class>/* and test/<class>/*.")
    root = pathlib.Path(data_dir)
    names = sorted(path.name for path in root.glob("train/*") if path.is_dir())
    if not names:
        raise FileNotFoundError(f"{root} holds no folders train/<class>.")

    def split(part):
        suffixes = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}
        files = [
            (path, label)
            for label, name in enumerate(names)
            for path in sorted((root / part / name).glob("*"))
            if path.suffix.lower() in suffixes
        ]
        if not files:
            raise FileNotFoundError(f"{root / part} holds no images ({', '.join(sorted(suffixes))}) in class folders.")
        paths, labels = zip(*files, strict=True)
        return ImageFolder(list(paths), image_size), np.array(labels)

    return Dataset(*split("train"), *split("test"), len(names))


def _tfrecords(data_dir: str | None, image_size: int) -> Dataset:
    if data_dir is None:
        raise ValueError("The dataset 'tfrecords' needs --data_dir with files train-* and validation-*.")

    def split(part):
        files = sorted(path for path in pathlib.Path(data_dir).glob(f"{part}-*") if path.is_file())
        records = TFRecords(files, image_size) if files else None
        if not records:
            raise FileNotFoundError(f"{data_dir} holds no records in files {part}-*.")
        return records

    train, test = split("train"), split("validation")
    first, last = int(train.labels.min()), int(train.labels.max())
    if test.labels.min() < first or test.labels.max() > last:
        raise ValueError(f"{data_dir}/validation-* has labels outside {first} to {last}, those of train-*.")
    return Dataset(train, train.labels - first, test, test.labels - first, last - first + 1)
