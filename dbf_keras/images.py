"""Images in files, folders or TFRecords, decoded by threads when they are indexed."""

from __future__ import annotations

import abc
import contextlib
import copy
import io
import math
import os
import pathlib
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import IO, TYPE_CHECKING, Any, Self

import numpy as np

from dbf_keras.progress import progress

if TYPE_CHECKING:
    import PIL.Image

# Share of a test image's shorter side that its centre shows: 224 of 256 pixels.
_CENTRE = 0.875

# From (width, height) of an image and the ratio of width to height that is wanted to (left, top, width, height) of the
# part to read.
_ChooseBox = Callable[[int, int, float], tuple[float, float, float, float]]

# By EXIF's number of a picture's orientation, the `PIL.Image.Transpose` that sets it upright.
_ORIENTATION = 0x0112
_TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
_TURNS_THAT_SWAP_SIDES = (2, 4, 5, 6)
# Pillow's modes of pictures with transparent pixels.
_TRANSPARENT = ("LA", "La", "PA", "RGBA", "RGBa")


class Images(abc.ABC):
    """Behaves as a uint8 array [N, height, width, 3]: the images' centres, see `centre_box`, scaled.

    Pictures are turned as their EXIF data say, transparent ones are laid on white, and of 16 bits a channel the upper 8
    are kept. Of several frames the first counts.

    Args:
        count: N.
        size: (height, width), or the side of a square.

    Attributes:
        shape: (N, height, width, 3).
    """

    def __init__(self, count: int, size: int | tuple[int, int]):
        _check_pillow()
        height, width = (size, size) if isinstance(size, int) else size
        self.shape = (count, height, width, 3)
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
            uint8 [n, height, width, 3].
        """

        def read(index: int, seed: np.ndarray) -> np.ndarray:
            rng = np.random.default_rng([*seed, index])
            return self._read(index, lambda width, height, _: random_box(width, height, smallest, rng))

        return np.stack(list(self._threads.map(read, indices, seeds)))

    def _read(self, index: int, choose_box: _ChooseBox | None = None) -> np.ndarray:
        from PIL import Image

        (out_height, out_width), index = self.shape[1:3], int(self._chosen[index])
        with self._opened(index) as image:
            turn = _turn(image)
            original = np.array(image.size)
            upright = original[::-1] if turn in _TURNS_THAT_SWAP_SIDES else original
            choose_box = choose_box or centre_box
            left, top, width, height = choose_box(int(upright[0]), int(upright[1]), out_width / out_height)
            # A JPEG can be decoded at a half, a quarter or an eighth where that is enough.
            enough = np.ceil(original * max(out_width / width, out_height / height))
            image.draft("RGB", (int(enough[0]), int(enough[1])))
            rgb = _to_rgb(image)
            if turn is not None:
                rgb = rgb.transpose(Image.Transpose(turn))
            scale = np.array(rgb.size) / upright
            box = np.array([left, top, left + width, top + height]) * np.tile(scale, 2)
            box = tuple(np.minimum(box, np.tile(rgb.size, 2)))
            return np.asarray(rgb.resize((out_width, out_height), Image.Resampling.BILINEAR, box))

    @contextlib.contextmanager
    def _opened(self, index: int) -> Iterator[PIL.Image.Image]:
        """A picture as Pillow opens it, of which whatever cannot be read is an OSError."""
        from PIL import Image

        source = self._open(index)
        try:
            with Image.open(source) as image:
                if image.mode == "F":
                    raise ValueError("it has pixels of 32-bit floats; save it with 8 or 16 bits a channel")
                yield image
        # Pillow raises all of these.
        except (OSError, ValueError, SyntaxError, TypeError, struct.error, Image.DecompressionBombError) as error:
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


def _turn(image: PIL.Image.Image) -> int | None:
    """The `PIL.Image.Transpose` that sets a picture upright, None if it is."""
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - of damaged EXIF data Pillow raises whatever comes; the picture is no worse
        return None


def _to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """A Pillow image as RGB of 8 bits a channel, on white; of 16 bits the upper 8 are kept, which Pillow would clip."""
    from PIL import Image

    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("it has pixels of 32 bits; save it with 8 or 16 bits a channel")
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in _TRANSPARENT or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def centre_box(width: int, height: int, ratio: float = 1.0) -> tuple[float, float, float, float]:
    """The centre of an image: 7/8 of the largest part that has a ratio of width to height.

    Args:
        width: the image's width, in pixels.
        height: the image's height, in pixels.
        ratio: width / height of the part.

    Returns:
        (left, top, width, height).
    """
    part_width, part_height = _CENTRE * min(width, height * ratio), _CENTRE * min(width / ratio, height)
    return (width - part_width) / 2, (height - part_height) / 2, part_width, part_height


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


class ImageFolder(Images):
    """Image files.

    Raises:
        OSError: of one that cannot be read, going by the first bytes of each.
    """

    def __init__(self, paths: list[pathlib.Path], size: int | tuple[int, int]):
        super().__init__(len(paths), size)
        self._paths = paths
        with progress("images") as show:
            for number, _ in enumerate(self._threads.map(self._check, range(len(paths)))):
                show((number + 1) / len(paths))

    def _check(self, index: int) -> None:
        with self._opened(index):
            pass

    def _open(self, index: int) -> pathlib.Path:
        return self._paths[index]

    def _where(self, index: int) -> str:
        return str(self._paths[index])


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
    from PIL import Image

    picture = ImageFolder([pathlib.Path(path)], size or 1)
    with picture._opened(0) as image:
        width, height = image.size[::-1] if _turn(image) in _TURNS_THAT_SWAP_SIDES else image.size
    if size is None:
        picture.shape = (1, height, width, 3)
    whole = not always_centre and picture.shape[1:3] == (height, width)
    pixels = picture._read(0, (lambda width, height, _: (0, 0, width, height)) if whole else None)
    return pixels if channels == 3 else np.asarray(Image.fromarray(pixels).convert("L"))[:, :, None]


class TFRecords(Images):
    """Records of ImageNet's usual form: ``image/encoded`` is a JPEG or PNG, ``image/class/label`` a number.

    All files are read through once, for the places and labels of the records; then records are read in any order.

    Attributes:
        labels: as they are written, [N].

    Raises:
        ValueError: a file that is none of records, a record without these keys, or TensorFlow, which knows the format,
            is not installed.
    """

    def __init__(self, paths: list[pathlib.Path], size: int | tuple[int, int]):
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
                        label = self._feature(record, "image/class/label", path).int64_list.value
                        if len(label) != 1:
                            raise ValueError(f"{path} has a record whose 'image/class/label' is not one integer.")
                        labels.append(label[0])
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
