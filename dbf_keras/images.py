"""Images in files, folders or TFRecords, decoded by threads when they are indexed."""

from __future__ import annotations

import abc
import copy
import io
import math
import os
import pathlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import IO, TYPE_CHECKING, Any, Self

import numpy as np

from dbf_keras.progress import progress

if TYPE_CHECKING:
    import PIL.Image

# Share of a test image's shorter side that its centre shows: 224 of 256 pixels.
_CENTRE = 0.875

# From (width, height) of an image to (left, top, width, height) of the part to read.
_ChooseBox = Callable[[int, int], tuple[float, float, float, float]]


class Images(abc.ABC):
    """Behaves as a uint8 array [N, size, size, 3]: the images' centres, 7/8 of the shorter side, scaled.

    Attributes:
        shape: (N, size, size, 3).
    """

    def __init__(self, count: int, size: int):
        _check_pillow()
        self.shape = (count, size, size, 3)
        self._chosen = np.arange(count)  # Which of the images that `_open` knows these are.
        self._threads = ThreadPoolExecutor(os.cpu_count())  # Pillow decodes and scales without Python's lock.

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        chosen = np.arange(len(self))[index]
        if chosen.ndim == 0:
            return self._read(int(chosen))
        return np.stack(list(self._threads.map(self._read, chosen)))

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(len(self)))

    def part(self, indices: np.ndarray) -> Self:
        """Some of the images.

        Args:
            indices: their indices, in the order that they get.
        """
        part = copy.copy(self)
        part._chosen = self._chosen[indices]
        part.shape = (len(part._chosen), *self.shape[1:])
        return part

    def crops(self, indices: np.ndarray, seeds: np.ndarray, smallest: float) -> np.ndarray:
        """Random parts of images, scaled: see `random_box`.

        Args:
            indices: which images, [n].
            seeds: integers [n, k], not negative; a part follows from these and the index.
            smallest: least share of an image's area.

        Returns:
            uint8 [n, size, size, 3].
        """

        def read(index: int, seed: np.ndarray) -> np.ndarray:
            rng = np.random.default_rng([*seed, index])
            return self._read(index, lambda width, height: random_box(width, height, smallest, rng))

        return np.stack(list(self._threads.map(read, indices, seeds)))

    def _read(self, index: int, choose_box: _ChooseBox | None = None) -> np.ndarray:
        from PIL import Image

        side, index = self.shape[1], int(self._chosen[index])
        source = self._open(index)
        try:
            with Image.open(source) as image:
                original = np.array(image.size)
                left, top, width, height = (choose_box or centre_box)(*image.size)
                # A JPEG can be decoded at a half, a quarter or an eighth where that is enough.
                enough_width, enough_height = np.ceil(original * side / min(width, height))
                image.draft("RGB", (int(enough_width), int(enough_height)))
                scale = np.array(image.size) / original
                box = np.array([left, top, left + width, top + height]) * np.tile(scale, 2)
                box = tuple(np.minimum(box, np.tile(image.size, 2)))
                return np.asarray(_to_rgb(image).resize((side, side), Image.Resampling.BILINEAR, box))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow raises all of these.
            raise OSError(f"{self._where(index)} cannot be read: {error}") from None

    @abc.abstractmethod
    def _open(self, index: int) -> pathlib.Path | IO[bytes]:
        """What Pillow opens to read an image."""

    @abc.abstractmethod
    def _where(self, index: int) -> str:
        """Where an image is, for errors."""


def _check_pillow() -> None:
    """Raises an error that says what to do if Pillow is not installed."""
    try:
        import PIL.Image  # noqa: F401
    except ImportError:
        raise ValueError("Reading images from files needs Pillow: pip install pillow.") from None


def _to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """A Pillow image as RGB of 8 bits a channel; of 16 bits the upper 8 are kept, which Pillow would clip."""
    from PIL import Image

    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def centre_box(width: int, height: int) -> tuple[float, float, float, float]:
    """(left, top, width, height) of the centre of an image, a square of 7/8 of the shorter side."""
    side = _CENTRE * min(width, height)
    return (width - side) / 2, (height - side) / 2, side, side


def random_box(width: int, height: int, smallest: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """A random part of an image: a share of its area from `smallest` to 1, sides in a ratio from 3/4 to 4/3.

    The usual augmentation for ImageNet (Szegedy et al., 2015). Of ten draws the first that fits is taken, or else the
    largest square at the centre.

    Args:
        width: the image's width, in pixels.
        height: the image's height, in pixels.
        smallest: least share of the area.
        rng: draws it.

    Returns:
        (left, top, width, height).
    """
    areas = width * height * rng.uniform(smallest, 1, 10)
    ratios = np.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3), 10))
    sides = np.maximum(1, np.round(np.sqrt([areas * ratios, areas / ratios]))).astype(int)
    fitting = np.flatnonzero((sides[0] <= width) & (sides[1] <= height))
    if not fitting.size:
        side = min(width, height)
        return (width - side) // 2, (height - side) // 2, side, side
    part_width, part_height = (int(side) for side in sides[:, fitting[0]])
    left, top = (int(rng.integers(room + 1)) for room in (width - part_width, height - part_height))
    return left, top, part_width, part_height


def read_picture(
    path: str | os.PathLike, size: tuple[int, int] | None, channels: int = 3, always_centre: bool = False
) -> np.ndarray:
    """Reads a picture as `Images` reads test images, but for those of the wanted size, which stay as they are.

    It is turned as its EXIF data say.

    Args:
        path: a file of any form that Pillow reads.
        size: (height, width) that it is scaled to; None to leave it as it is.
        channels: 3 for RGB, or 1 for grey.
        always_centre: take the centre of pictures of that size too.

    Returns:
        uint8 [height, width, channels].

    Raises:
        ValueError: Pillow is not installed.
        OSError: the file cannot be read as a picture.
    """
    _check_pillow()
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)  # On its side: its orientation.
            original = np.array(image.size[::-1] if turned else image.size)
            wanted = original if size is None else np.array(size[::-1])
            scaled = always_centre or not np.array_equal(original, wanted)
            if scaled:
                # The largest part of the wanted sides, of which the centre.
                part = _CENTRE * wanted * (original / wanted).min()
                enough_width, enough_height = map(int, np.ceil(original * (wanted / part).max()))
                image.draft("RGB", (enough_height, enough_width) if turned else (enough_width, enough_height))
            upright = _to_rgb(ImageOps.exif_transpose(image))
            if scaled:
                ends = np.concatenate([original - part, original + part]) / 2
                box = np.minimum(ends * np.tile(np.array(upright.size) / original, 2), np.tile(upright.size, 2))
                upright = upright.resize((int(wanted[0]), int(wanted[1])), Image.Resampling.BILINEAR, tuple(box))
            return np.asarray(upright if channels == 3 else upright.convert("L")).reshape(*wanted[::-1], channels)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow raises all of these.
        raise OSError(f"{os.fspath(path)!r} cannot be read as a picture: {error}") from None


class ImageFolder(Images):
    """Image files."""

    def __init__(self, paths: list[pathlib.Path], size: int):
        super().__init__(len(paths), size)
        self._paths = paths

    def _open(self, index: int) -> pathlib.Path:
        return self._paths[index]

    def _where(self, index: int) -> str:
        return str(self._paths[index])


class TFRecords(Images):
    """Records of ImageNet's usual form: ``image/encoded`` is a JPEG or PNG, ``image/class/label`` a number.

    All files are read through once, for the places and labels of the records; then records are read in any order.

    Attributes:
        labels: as they are written, [N].

    Raises:
        ValueError: a file that is none of records, a record without these keys, or TensorFlow, which knows the format,
            is not installed.
    """

    def __init__(self, paths: list[pathlib.Path], size: int):
        try:
            import tensorflow as tf
        except ImportError:
            raise ValueError(
                "Reading TFRecords needs TensorFlow; install it, or unpack the images into folders (--dataset=folder)."
            ) from None
        self._paths = paths
        self._parse = tf.train.Example.FromString
        labels, places = [], []
        with progress("records") as show:
            for number, path in enumerate(paths):
                end = 0
                try:
                    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
                        labels.append(self._feature(record, "image/class/label", path).int64_list.value[0])
                        places.append((number, end + 12, len(record)))  # Length and its checksum come before,
                        end += 12 + len(record) + 4  # and a checksum after it.
                except tf.errors.DataLossError as error:
                    raise ValueError(f"{path} is no file of TFRecords, or damaged: {error.message}") from None
                show((number + 1) / len(paths))
        self.labels = np.array(labels, np.int64)
        self._places = np.array(places, np.int64).reshape(-1, 3)
        super().__init__(len(labels), size)

    def part(self, indices: np.ndarray) -> Self:
        """Some of the records, with their labels."""
        part = super().part(indices)
        part.labels = self.labels[indices]
        return part

    def _feature(self, record: bytes, key: str, path: pathlib.Path) -> Any:
        features = self._parse(record).features.feature
        if key not in features:
            raise ValueError(f"{path} has a record without {key!r}; it has {', '.join(sorted(features)) or 'no keys'}.")
        return features[key]

    def _open(self, index: int) -> io.BytesIO:
        number, start, length = self._places[index]
        with open(self._paths[number], "rb") as file:
            file.seek(start)
            record = file.read(length)
        return io.BytesIO(self._feature(record, "image/encoded", self._paths[number]).bytes_list.value[0])

    def _where(self, index: int) -> str:
        number, start, _ = self._places[index]
        return f"The image of the record at byte {start} of {self._paths[number]}"
