"""Image sets: scikit-learn's digits, MNIST, CIFAR-10, folders of images; and the batches that training draws."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable

import numpy as np

DATASETS = ("digits", "mnist", "cifar10", "folder")


@dataclasses.dataclass
class Dataset:
    """Raw images and labels.

    Attributes:
        x_train: uint8 [N, H, W, C], values 0–255; an array, or an `ImageFolder`, which reads what is indexed.
        y_train: integer labels [N].
        x_test: as x_train.
        y_test: as y_train.
        classes: number of classes.
    """

    x_train: np.ndarray | ImageFolder
    y_train: np.ndarray
    x_test: np.ndarray | ImageFolder
    y_test: np.ndarray
    classes: int

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return tuple(self.x_test.shape[1:])


def load(name: str, data_dir: str | None = None, image_size: int = 224) -> Dataset:
    """Loads an image set.

    Args:
        name: ``"digits"`` (scikit-learn's real 8×8 digits, no download; the last 360 images, by other writers, are
            the test set), ``"mnist"`` or ``"cifar10"`` (``<data_dir>/<name>.npz``, otherwise ``keras.datasets``,
            which may download), or ``"folder"`` (``<data_dir>/train/<class>/*`` and ``<data_dir>/test/<class>/*``).
        data_dir: where the files are.
        image_size: side in pixels to which the images of a folder are scaled and cropped.

    Raises:
        ValueError: unknown name, or "folder" without data_dir.
        FileNotFoundError: data_dir is given but does not hold the set.
    """
    if name not in DATASETS:
        raise ValueError(f"Unknown dataset {name!r}. Known: {', '.join(DATASETS)}.")
    if name == "digits":
        return _digits()
    if name == "folder":
        return _folder(data_dir, image_size)
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


class ImageFolder:
    """Images of files, decoded when they are indexed: behaves as a uint8 array [N, size, size, 3]."""

    def __init__(self, paths: list[pathlib.Path], size: int):
        self.paths = np.array(paths, object)
        self.shape = (len(paths), size, size, 3)

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index) -> np.ndarray:
        selected = self.paths[index]
        if isinstance(selected, pathlib.Path):
            return self._read(selected)
        return np.stack([self._read(path) for path in selected])

    def _read(self, path: pathlib.Path) -> np.ndarray:
        from PIL import Image, ImageOps

        size = self.shape[1:3]
        with Image.open(path) as image:
            image.draft("RGB", size)
            return np.asarray(ImageOps.fit(image.convert("RGB"), size, Image.Resampling.BILINEAR))


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


def batches(
    images, labels: np.ndarray, classes: int, batch_size: int, augment: Callable | None, seed: int, first_epoch: int = 0
):
    """Shuffled, augmented batches for `keras.Model.fit`, the same for a seed and epoch wherever training started.

    Args:
        images: uint8 [N, H, W, C], or what behaves so.
        labels: [N].
        classes: number of classes.
        batch_size: images a batch; the last, smaller batch of an epoch is dropped.
        augment: called as augment(float32 images, numpy Generator); None for none.
        seed: of order and augmentation.
        first_epoch: the epoch that the first pass is.

    Returns:
        A `keras.utils.PyDataset` of (float32 [batch, H, W, C], one-hot float32 [batch, classes]).
    """
    from dbf_keras.backend import keras

    class Batches(keras.utils.PyDataset):
        epoch = first_epoch
        order = None  # Of the images, in this epoch; drawn when its first batch is.

        def __len__(self):
            return max(1, len(labels) // batch_size)

        def __getitem__(self, index):
            if self.order is None:
                self.order = np.random.default_rng([seed, self.epoch]).permutation(len(labels))
            chosen = self.order[index * batch_size : (index + 1) * batch_size]
            x = np.asarray(images[chosen], np.float32)
            if augment is not None:
                x = augment(x, np.random.default_rng([seed, self.epoch, index]))
            return x, np.eye(classes, dtype=np.float32)[labels[chosen]]

        def on_epoch_end(self):
            self.epoch += 1
            self.order = None

    return Batches()


def random_affine(shift: float = 0, rotation: float = 0, zoom: float = 0, mirror: bool = False) -> Callable:
    """An augmentation: random shift, rotation, zoom and mirroring about the image's centre, zeros outside.

    Args:
        shift: largest shift in pixels, along each axis; whole pixels unless rotated or zoomed.
        rotation: largest angle in degrees.
        zoom: largest relative change of size, along each axis.
        mirror: whether half of the images are mirrored left to right.

    Returns:
        augment(images float32 [N, H, W, C], numpy Generator) -> float32 array of the same shape.
    """

    def augment(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        from dbf_keras.backend import ops

        count, height, width, _ = images.shape
        angle = np.deg2rad(rng.uniform(-rotation, rotation, count))
        scale_y, scale_x = 1 + rng.uniform(-zoom, zoom, (2, count))
        shift_y, shift_x = rng.uniform(-shift, shift, (2, count))
        if not rotation and not zoom:
            shift_y, shift_x = np.round(shift_y), np.round(shift_x)
        if mirror:
            scale_x = scale_x * rng.choice([-1, 1], count)
        # Output pixel (x, y) takes input pixel (a0 x + a1 y + a2, b0 x + b1 y + b2).
        a0, a1 = np.cos(angle) * scale_x, -np.sin(angle) * scale_y
        b0, b1 = np.sin(angle) * scale_x, np.cos(angle) * scale_y
        centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
        a2 = centre_x - a0 * centre_x - a1 * centre_y + shift_x
        b2 = centre_y - b0 * centre_x - b1 * centre_y + shift_y
        zero = np.zeros(count)
        transforms = np.stack([a0, a1, a2, b0, b1, b2, zero, zero], axis=1).astype(np.float32)
        return ops.convert_to_numpy(ops.image.affine_transform(images, transforms, interpolation="bilinear"))

    return augment
