import io
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from dbf_keras import data, images
from dbf_keras.train import engine


def gradient(width, height):
    """Red grows to the right, green downwards: a part's colours tell where it lies."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack([x, y, np.full_like(x, 50)], axis=-1).astype(np.uint8)


def encoded(array, kind="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


class Held(images.Images):
    """Images in memory."""

    def __init__(self, contents, size):
        super().__init__(len(contents), size)
        self.contents = contents

    def _open(self, index):
        return io.BytesIO(self.contents[index])

    def _where(self, index):
        return f"image {index}"


@pytest.mark.parametrize("kind, width, height", [("PNG", 60, 40), ("PNG", 40, 60), ("JPEG", 600, 400)])
def test_the_centre_is_seven_eighths_of_the_shorter_side(kind, width, height):
    result = Held([encoded(gradient(width, height), kind)], 32)[0].astype(float)
    shown = 0.875 * min(width, height)
    for axis, side in ((0, width), (1, height)):
        values = result[:, :, axis].mean(axis=axis)
        # The middles of the first and last of 32 pixels.
        ends = (side - shown) / 2 + shown * np.array([1 / 64, 63 / 64])
        np.testing.assert_allclose(values[[0, -1]], ends / side * 255, atol=4)


def test_it_is_indexed_as_an_array():
    held = Held([encoded(np.full((9, 9, 3), 10 * index, np.uint8)) for index in range(5)], 4)
    assert len(held) == 5 and held.shape == (5, 4, 4, 3)
    assert held[3].shape == (4, 4, 3) and held[-1][0, 0, 0] == 40
    np.testing.assert_array_equal(held[np.array([4, 0])][:, 0, 0, 0], [40, 0])
    np.testing.assert_array_equal(held[1:3][:, 0, 0, 0], [10, 20])
    assert [image[0, 0, 0] for image in held] == [0, 10, 20, 30, 40]


@pytest.mark.parametrize("width, height", [(100, 80), (80, 100), (1000, 700)])
def test_random_boxes_are_as_said(width, height):
    rng = np.random.default_rng(0)
    boxes = np.array([images.random_box(width, height, 0.08, rng) for _ in range(2000)])
    left, top, part_width, part_height = boxes.T
    assert np.all(boxes[:, :2] >= 0) and np.all(left + part_width <= width) and np.all(top + part_height <= height)
    shares, ratios = part_width * part_height / (width * height), part_width / part_height
    assert 0.07 < shares.min() < 0.1 and shares.max() > 0.85
    assert 0.7 < ratios.min() < 0.78 and 1.29 < ratios.max() < 1.4
    assert np.median(ratios) == pytest.approx(1, abs=0.05)
    # Large parts in a ratio that does not fit are drawn again, so that small ones are somewhat more frequent.
    assert 0.4 < shares.mean() < 0.54
    assert np.mean(left / np.maximum(1, width - part_width)) == pytest.approx(0.5, abs=0.04)


def test_what_never_fits_is_a_square_at_the_centre():
    assert images.random_box(1000, 10, 0.9, np.random.default_rng(0)) == (495, 0, 10, 10)


@pytest.mark.parametrize("kind, width, height", [("PNG", 200, 150), ("JPEG", 1600, 1200)])
def test_crops_show_the_box_that_was_drawn(kind, width, height):
    held = Held([encoded(gradient(width, height), kind)] * 3, 32)
    seeds = np.array([[1, 2], [1, 2], [3, 4]])
    results = held.crops(np.arange(3), seeds, 0.1).astype(float)
    for index, result in enumerate(results):
        rng = np.random.default_rng([*seeds[index], index])
        left, top, part_width, part_height = images.random_box(width, height, 0.1, rng)
        for axis, (start, part, side) in enumerate(((left, part_width, width), (top, part_height, height))):
            values = result[:, :, axis].mean(axis=axis)
            ends = start + part * np.array([1 / 64, 63 / 64])
            np.testing.assert_allclose(values[[0, -1]], ends / side * 255, atol=4)
    # The same image and seed give the same, whatever it is read with.
    np.testing.assert_array_equal(held.crops(np.array([2]), seeds[2:], 0.1)[0], results[2])
    assert not np.array_equal(results[0], results[1])


def test_a_source_crops_for_training_alone():
    held = Held([encoded(gradient(40, 40))] * 4, 8)
    source = engine.streamed(held, np.arange(4), steps=1, crop=0.1)
    order, seeds = np.array([[0, 1], [2, 3]], np.int32), np.array([[1, 2], [3, 4]], np.int32)
    for wanted in (order, order[::-1]):
        parts = list(source(wanted, seeds))
        for row, seed, (batches, labels, index) in zip(wanted, seeds, parts, strict=True):
            np.testing.assert_array_equal(np.asarray(batches)[index[0]], held.crops(row, [seed, seed], 0.1))
            np.testing.assert_array_equal(np.asarray(labels)[index[0]], row)
    (batches, _, _), *_ = source(order, None)
    np.testing.assert_array_equal(np.asarray(batches)[0], held[order[0]])


def test_damaged_images_are_named(tmp_path):
    (tmp_path / "x.png").write_bytes(b"no image")
    with pytest.raises(OSError, match=r"x\.png cannot be read"):
        images.ImageFolder([tmp_path / "x.png"], 8)[np.array([0])]


def test_all_that_pillow_cannot_read_is_named(tmp_path):
    """A picture that says it has 3.6 billion pixels, which Pillow refuses, and one that ends early."""
    whole = encoded(gradient(40, 40))
    size = whole.index(b"IHDR") + 4
    header = b"IHDR" + (60000).to_bytes(4, "big") * 2 + whole[size + 8 : size + 13]
    bomb = whole[: size - 4] + header + zlib.crc32(header).to_bytes(4, "big") + whole[size + 17 :]
    for number, content in enumerate((bomb, whole[: len(whole) // 2], whole[:20])):
        (tmp_path / f"{number}.png").write_bytes(content)
        with pytest.raises(OSError, match=rf"{number}\.png cannot be read"):
            images.ImageFolder([tmp_path / f"{number}.png"], 8)[np.array([0])]


def test_sixteen_bits_a_pixel_keep_the_upper_eight():
    grey = np.linspace(0, 65535, 40).astype(np.uint16)[None].repeat(40, axis=0)
    result = Held([encoded(grey)], 40)[0]
    expected = Held([encoded((grey >> 8).astype(np.uint8))], 40)[0]
    np.testing.assert_array_equal(result, expected)
    assert result.max() > result.min() + 200


# How a picture is held that EXIF says to be turned: by orientation, what to do to the upright picture.
HELD_AS = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", HELD_AS)
def test_exif_s_orientation_is_honoured(kind, orientation):
    upright, turn = Image.fromarray(gradient(800, 600)), HELD_AS[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    (upright if turn is None else upright.transpose(Image.Transpose(turn))).save(file, kind, exif=exif)
    held, expected = Held([file.getvalue()], (24, 32)), Held([encoded(gradient(800, 600), kind)], (24, 32))
    np.testing.assert_allclose(held[0].astype(int), expected[0].astype(int), atol=5)
    crops = [read.crops(np.array([0]), np.array([[3]]), 0.1)[0].astype(int) for read in (held, expected)]
    np.testing.assert_allclose(*crops, atol=5)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_says_nothing():
    file = io.BytesIO()
    Image.fromarray(gradient(40, 40)).save(file, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert Held([file.getvalue()], 8)[0].std() > 10


def test_rectangles_show_the_largest_part_of_their_shape():
    held = Held([encoded(gradient(200, 100))], (8, 32))
    wide = held[0].astype(float)
    assert held.shape == (1, 8, 32, 3) and wide.shape == (8, 32, 3)
    # Width and height of the picture, of its part, and of what is made of that.
    for axis, (side, part, count) in enumerate([(200, 0.875 * 200, 32), (100, 0.875 * 50, 8)]):
        values = wide[:, :, axis].mean(axis=axis)
        ends = (side - part) / 2 + part * np.array([0.5, count - 0.5]) / count
        np.testing.assert_allclose(values[[0, -1]], ends / side * 255, atol=4)
    assert images.centre_box(200, 100) == (56.25, 6.25, 87.5, 87.5)


def picture(kind):
    """A picture of some kind, whose left half is red and whose right half is white."""
    red = np.full((40, 40, 4), 255, np.uint8)
    red[:, :20] = (255, 0, 0, 255)
    hidden = red.copy()
    hidden[:, 20:] = (0, 0, 255, 0)  # Blue, and not to be seen.
    plain, see_through = Image.fromarray(red).convert("RGB"), Image.fromarray(hidden)
    palette = plain.convert("P")
    image, file_kind, options = {
        "RGB": (plain, "PNG", {}),
        "RGBA": (see_through, "PNG", {}),
        "transparent WebP": (see_through, "WEBP", {"lossless": True}),
        "palette": (palette, "PNG", {}),
        "transparent palette": (palette, "PNG", {"transparency": palette.getpixel((30, 30))}),
        "CMYK": (plain.convert("CMYK"), "JPEG", {"quality": 100}),
        "animated": (plain, "PNG", {"save_all": True, "append_images": [Image.new("RGB", (40, 40), "blue")]}),
    }[kind]
    file = io.BytesIO()
    image.save(file, file_kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    "kind", ["RGB", "RGBA", "transparent WebP", "palette", "transparent palette", "CMYK", "animated"]
)
def test_pictures_of_every_kind_look_as_they_do_to_people(kind):
    shown = Held([picture(kind)], 8)[0].astype(int)
    np.testing.assert_allclose(shown[:, :3], np.broadcast_to([255, 0, 0], (8, 3, 3)), atol=8)
    np.testing.assert_allclose(shown[:, 5:], np.broadcast_to(255, (8, 3, 3)), atol=8)


@pytest.mark.parametrize("dtype, told", [(np.float32, "32-bit floats"), (np.int32, "32 bits")])
def test_pixels_that_are_no_bytes_are_refused(dtype, told, tmp_path):
    Image.fromarray(gradient(40, 40)[..., 0].astype(dtype) * dtype(1000)).save(tmp_path / "x.tif")
    (tmp_path / "x.tif").rename(tmp_path / "x.png")
    with pytest.raises(OSError, match=rf"x\.png cannot be read: it has pixels of {told}; save it with 8 or 16"):
        images.ImageFolder([tmp_path / "x.png"], 8)[0]


def test_a_folder_s_pictures_are_looked_at_before_any_is_used(tmp_path):
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for number in range(3):
            (tmp_path / name / f"{number}.png").write_bytes(encoded(gradient(9, 9)))
    (tmp_path / "bee" / "1.png").write_bytes(b"no picture")
    with pytest.raises(OSError, match=r"1\.png cannot be read"):
        data.load("folder", str(tmp_path), 8)


def write_records(path, features):
    import tensorflow as tf

    def feature(value):
        if isinstance(value, bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in features:
            fields = {key: feature(value) for key, value in record.items()}
            writer.write(tf.train.Example(features=tf.train.Features(feature=fields)).SerializeToString())


def record(colour, label):
    image = np.full((20, 30, 3), colour, np.uint8)
    return {"image/encoded": encoded(image), "image/class/label": label, "image/filename": b"x" * colour}


def test_records_are_read_in_any_order(tmp_path):
    """Two files of records of unequal length; labels count from 1, as ImageNet's do."""
    write_records(tmp_path / "train-00000-of-00002", [record(colour, 1 + colour % 3) for colour in range(5)])
    write_records(tmp_path / "train-00001-of-00002", [record(colour, 1 + colour % 3) for colour in range(5, 9)])
    write_records(tmp_path / "validation-00000-of-00001", [record(100, 2)])
    dataset = data.load("tfrecords", str(tmp_path), image_size=16)
    assert dataset.x_train.shape == (9, 16, 16, 3) and dataset.classes == 3
    np.testing.assert_array_equal(dataset.y_train, np.arange(9) % 3)
    order = np.array([8, 0, 5, 4])
    np.testing.assert_array_equal(dataset.x_train[order][:, 3, 3, 1], order)
    np.testing.assert_array_equal(dataset.y_test, [1])
    assert np.all(dataset.x_test[0] == 100)
    assert dataset.class_names == ("1", "2", "3")
    part = dataset.part(4)
    assert (part.x_train[:][:, 0, 0, 0] % 3).tolist() == part.y_train.tolist() == (part.x_train.labels - 1).tolist()


def test_records_that_cannot_be_read_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="--data_dir"):
        data.load("tfrecords")
    with pytest.raises(FileNotFoundError, match=r"no records in files train-\*"):
        data.load("tfrecords", str(tmp_path))
    train, test = tmp_path / "train-0", tmp_path / "validation-0"
    train.write_bytes(b"no records, but longer than a header")
    with pytest.raises(ValueError, match="train-0 is no file of TFRecords"):
        data.load("tfrecords", str(tmp_path))
    write_records(train, [{"image/class/label": 1, "other": 2}])
    write_records(test, [record(1, 3)])
    with pytest.raises(ValueError, match=r"validation-\* has labels outside 1 to 1"):
        data.load("tfrecords", str(tmp_path))
    write_records(test, [record(1, 1)])
    with pytest.raises(ValueError, match="without 'image/encoded'; it has image/class/label, other"):
        data.load("tfrecords", str(tmp_path)).x_train[0]
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(ValueError, match="needs TensorFlow"):
        data.load("tfrecords", str(tmp_path))
