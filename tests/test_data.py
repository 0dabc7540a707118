import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from dbf_keras import data, data_checks

DATA_DIR = os.environ.get("DBF_DATA_DIR")
RNG = np.random.default_rng(0)
needs_data = pytest.mark.skipif(not DATA_DIR, reason="DBF_DATA_DIR is not set: no MNIST and CIFAR-10 here")


def test_digits_are_scikit_learn_s_with_the_last_writers_for_testing():
    digits = data.load("digits")
    assert digits.x_train.shape == (1437, 8, 8, 1) and digits.x_test.shape == (360, 8, 8, 1)
    assert digits.x_train.dtype == np.uint8 and digits.x_train.max() == 255
    assert digits.classes == 10 and digits.image_shape == (8, 8, 1)
    from sklearn.datasets import load_digits

    original = load_digits()
    np.testing.assert_allclose(digits.x_test[-1, :, :, 0] * (16 / 255), original.images[-1], atol=0.04)
    np.testing.assert_array_equal(digits.y_test, original.target[-360:])
    assert digits.class_names == tuple("0123456789")


@needs_data
@pytest.mark.parametrize("name, train, shape", [("mnist", 60000, (28, 28, 1)), ("cifar10", 50000, (32, 32, 3))])
def test_npz_sets_are_read(name, train, shape):
    dataset = data.load(name, DATA_DIR)
    assert dataset.x_train.shape == (train, *shape) and dataset.x_test.shape == (10000, *shape)
    assert np.bincount(dataset.y_test).shape == (10,) and dataset.classes == 10
    assert dataset.class_names[3] == ("cat" if name == "cifar10" else "3") and len(dataset.class_names) == 10


def write_npz(folder, name="mnist"):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 28, 28), dtype=np.uint8)
    labels = (np.arange(20) % 10)[:, None]
    np.savez(pathlib.Path(folder) / f"{name}.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    return images


def test_grey_images_get_a_channel_and_labels_one_axis(tmp_path):
    images = write_npz(tmp_path)
    dataset = data.load("mnist", str(tmp_path))
    np.testing.assert_array_equal(dataset.x_train[..., 0], images)
    assert dataset.y_train.shape == (20,)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x_train": RNG.random((20, 28, 28))}, r"x_train must be uint8 .* from .* to .*\(images \* 255\).round"),
        ({"x_train": RNG.random((20, 28, 28)) * 2 - 1}, r"\(\(images \+ 1\) \* 127.5\)"),
        ({"x_train": RNG.random((20, 28, 28)) * 255}, r"images.round\(\).astype\('uint8'\)"),
        ({"x_train": RNG.random((20, 28, 28)) - 9}, "Scale it to 0–255"),
        ({"x_train": np.full((20, 28, 28), np.nan)}, "15680 of its numbers are NaN or infinite"),
        ({"x_train": np.full((20, 28, 28), 40000, np.uint16)}, "16 bits a pixel, convert it.*>> 8"),
        ({"x_train": np.full((20, 28, 28), 200, np.int16)}, r"got int16 .*images.astype\('uint8'\)"),
        ({"x_train": np.ones((20, 28, 28), bool)}, r"astype\('uint8'\) \* 255"),
        ({"x_train": np.full((20, 28, 28), "a")}, "Give numbers"),
        ({"x_train": RNG.random((20, 28, 28)).astype(np.uint8)}, "x_train is black: .* the brightest is 0"),
        ({"x_train": RNG.random((20, 28, 28)).round().astype(np.uint8)}, "x_train is black: .* the brightest is 1"),
        ({"x_train": np.zeros((20, 3, 28, 28), np.uint8)}, "its channels come first"),
        ({"x_test": np.zeros((20, 784), np.uint8)}, "x_test must be uint8 .*Reshape it"),
        ({"x_test": np.zeros((0, 28, 28), np.uint8), "y_test": np.zeros(0, int)}, "x_test .* holds no images"),
        ({"x_test": np.zeros((20, 32, 32), np.uint8)}, r"of shape \(28, 28, 1\) and .* \(32, 32, 1\)"),
        ({"y_train": np.arange(20) - 1}, "y_train must be 20 integers from 0.* the smallest -1"),
        ({"y_train": np.arange(20) / 2}, "y_train must be 20 integers from 0.* such as 0.5"),
        ({"y_train": np.arange(20) * 1.0}, r"labels.astype\('int64'\)"),
        ({"y_train": np.where(np.arange(20) > 17, np.nan, 1)}, "of which 2 are NaN or infinite"),
        ({"y_train": np.eye(20)}, "y_train must be 20 integers from 0.*one-hot.*argmax"),
        ({"y_train": np.full(20, "cat")}, "Number the classes"),
        ({"y_train": np.full(20, 3), "y_test": np.full(20, 3)}, "3 of 4 classes have no training image: '0', '1', '2'"),
        ({"y_train": np.zeros(20, int), "y_test": np.zeros(20, int)}, "are of one class, '0'"),
        ({"y_test": np.arange(19)}, "y_test must be 20 integers from 0.*pairs"),
        ({"y_test": np.arange(20)}, "y_test has the label 19"),
        ({"y_test": None}, "is no .npz with x_train.*y_test"),
    ],
)
def test_arrays_that_are_no_pixels_and_labels_are_refused(tmp_path, change, message):
    write_npz(tmp_path)
    with np.load(tmp_path / "mnist.npz") as read:
        arrays = {**read, **change}
    np.savez(tmp_path / "mnist.npz", **{key: value for key, value in arrays.items() if value is not None})
    with pytest.raises(ValueError, match=message):
        data.load("mnist", str(tmp_path))


@pytest.mark.parametrize("named", [True, False])
def test_any_npz_file_with_the_arrays_is_read(named, tmp_path):
    names = [f"class {number}" for number in range(10)]
    images = write_npz(tmp_path, "mine")
    with np.load(tmp_path / "mine.npz") as read:
        np.savez(tmp_path / "mine.npz", **read, **({"classes": np.array(names)} if named else {}))
    dataset = data.load("npz", str(tmp_path / "mine.npz"))
    np.testing.assert_array_equal(dataset.x_test[..., 0], images)
    assert dataset.class_names == (tuple(names) if named else tuple("0123456789"))


def test_images_of_an_npz_file_may_be_as_a_model_takes_them(tmp_path):
    images = np.random.default_rng(0).random((20, 8, 8, 3))
    labels = np.arange(20) % 10
    np.savez(tmp_path / "mine.npz", x_train=images, y_train=labels, x_test=images[:5], y_test=labels[:5])
    dataset = data.load("npz", str(tmp_path / "mine.npz"))
    assert dataset.preprocessed and dataset.x_test.dtype == np.float32
    np.testing.assert_array_equal(dataset.x_train, images.astype(np.float32))


def test_an_npz_file_has_to_be_given(tmp_path):
    with pytest.raises(ValueError, match="needs --data_dir=FILE.npz with x_train"):
        data.load("npz")
    with pytest.raises(FileNotFoundError, match="gone.npz does not exist. --data_dir is a file with x_train"):
        data.load("npz", str(tmp_path / "gone.npz"))
    with pytest.raises(FileNotFoundError, match="is a folder. --data_dir is a file"):
        data.load("npz", str(tmp_path))
    write_npz(tmp_path, "mine")
    with np.load(tmp_path / "mine.npz") as read:
        np.savez(tmp_path / "few.npz", **read, classes=np.array(["one"]))
    with pytest.raises(ValueError, match="10 classes cannot have 1 names"):
        data.load("npz", str(tmp_path / "few.npz"))


def test_files_that_are_no_npz_are_refused(tmp_path):
    (tmp_path / "mnist.npz").write_bytes(b"no arrays")
    with pytest.raises(ValueError, match="mnist.npz is no .npz"):
        data.load("mnist", str(tmp_path))


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_without_a_network_it_says_what_to_do(name, tmp_path):
    """A proxy that is not there, in a process of its own: one line, with the reason and the way out."""
    program = f"from dbf_keras import command, data; command.run(lambda _: data.load({name!r}))"
    nowhere = {key: "http://127.0.0.1:9" for key in ("http_proxy", "https_proxy")}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **nowhere}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=environment | {"KERAS_HOME": str(tmp_path), "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"error: {name} could not be downloaded: URL fetch failure") and "refused" in last
    assert f"Give --data_dir of a folder that holds {name}.npz" in last


@pytest.mark.parametrize(
    "name, package, message", [("mnist", "keras", "--data_dir"), ("digits", "sklearn", "pip install scikit-learn")]
)
def test_packages_that_are_not_there_are_named(name, package, message, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=f"{package} is not installed.*{message}"):
        data.load(name)


def images_and_labels(labels, classes, **changes):
    images = np.full((len(labels), 8, 8, 1), 200, np.uint8)
    fields = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels, "classes": classes}
    return data.Dataset(**{**fields, **changes})


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"x_train": np.ones((4, 8, 8, 1), np.float32)}, "x_train must be uint8"),
        ({"x_train": [[1]]}, "Give a NumPy array"),
        ({"x_train": np.full((4, 8, 8), 9, np.uint8)}, "grey images have one channel"),
        ({"x_test": np.full((4, 9, 9, 1), 9, np.uint8)}, "scale them to one"),
        ({"y_train": np.array([0, 1, 2, 7])}, "y_train has the label 7, which is none of 3 classes"),
        ({"y_train": np.array([[0], [1], [2], [0]])}, r"labels.ravel\(\)"),
        ({"class_names": ("a", "b")}, "3 classes cannot have 2 names"),
    ],
)
def test_a_set_made_in_python_is_checked_too(changes, message):
    with pytest.raises(ValueError, match=message):
        images_and_labels(np.array([0, 1, 2, 0]), 3, **changes)


def test_a_part_may_lack_classes_and_a_whole_set_may_not():
    labels = np.repeat([0, 1, 2], [30, 30, 1])
    whole = images_and_labels(labels, 3)
    assert whole.check() is whole
    part = next(part for count in range(2, 9) if set((part := whole.part(count)).y_train) == {0, 1})
    assert part.check() is part
    with pytest.raises(ValueError, match="1 of 4 classes have no training image: '3'"):
        images_and_labels(labels, 4).check()
    with pytest.raises(ValueError, match="are of one class, '0'"):
        images_and_labels(np.zeros(3, int), 1).check()


def write_images(folder, counts):
    """Writes images by class: the class in red, the image in green."""
    for label, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (40, 30), (label * 100, index * 5, 7)).save(folder / name / f"{index:02}.png")


@pytest.mark.parametrize("test", ["test", "val", "validation"])
def test_folders_are_read_as_they_are_indexed(tmp_path, test):
    write_images(tmp_path / "train", {"ant": 3, "bee": 3})
    write_images(tmp_path / test, {"ant": 2, "bee": 2})
    dataset = data.load("folder", str(tmp_path), image_size=16)
    assert len(dataset.x_train) == 6 and dataset.image_shape == (16, 16, 3) and dataset.classes == 2
    np.testing.assert_array_equal(dataset.y_train, [0, 0, 0, 1, 1, 1])
    batch = dataset.x_train[np.array([4, 0])]
    assert batch.shape == (2, 16, 16, 3) and batch.dtype == np.uint8
    np.testing.assert_array_equal(batch[:, 0, 0], [[100, 5, 7], [0, 0, 7]])
    np.testing.assert_array_equal(dataset.x_test[1][3, 3], [0, 5, 7])
    assert dataset.class_names == ("ant", "bee")


def test_a_folder_of_classes_is_split(tmp_path):
    """A fifth of each class is the test set, whatever the other classes hold; no image is in both parts."""
    write_images(tmp_path, {"ant": 10, "bee": 25, "cow": 2})
    dataset, again = (data.load("folder", str(tmp_path), image_size=8) for _ in range(2))
    assert dataset.class_names == ("ant", "bee", "cow")
    assert np.bincount(dataset.y_test).tolist() == [2, 5, 1] and np.bincount(dataset.y_train).tolist() == [8, 20, 1]
    np.testing.assert_array_equal(dataset.x_test[:], again.x_test[:])
    seen = [tuple(image[0, 0]) for images in (dataset.x_train, dataset.x_test) for image in images[:]]
    assert len(set(seen)) == 37
    assert [image[0, 0, 0] // 100 for image in dataset.x_train[:]] == dataset.y_train.tolist()
    bees = {image[0, 0, 1] for image in dataset.x_test[dataset.y_test == 1]}
    shutil.rmtree(tmp_path / "ant")
    assert {image[0, 0, 1] for image in data.load("folder", str(tmp_path), 8).x_test[:5]} == bees


def test_errors_say_what_would_work(tmp_path):
    with pytest.raises(ValueError, match="Known: digits, mnist"):
        data.load("imagenet")
    with pytest.raises(FileNotFoundError, match="mnist.npz"):
        data.load("mnist", str(tmp_path))
    with pytest.raises(ValueError, match="--data_dir"):
        data.load("folder")
    with pytest.raises(FileNotFoundError, match="train/<class>"):
        data.load("folder", str(tmp_path))
    write_images(tmp_path, {"ant": 1})
    with pytest.raises(ValueError, match="ant holds one image"):
        data.load("folder", str(tmp_path))
    (tmp_path / "train" / "ant").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="Beside .*train there is no folder test, val, validation"):
        data.load("folder", str(tmp_path))
    (tmp_path / "val").mkdir()
    with pytest.raises(FileNotFoundError, match="train holds no images"):
        data.load("folder", str(tmp_path))


@pytest.mark.parametrize(
    "train, test, message",
    [
        ({"ant": 2, "bee": 2, "cow": 2}, {"ant": 2, "bee": 2}, "train has classes that .*test has not: 'cow'"),
        ({"ant": 2, "bee": 2}, {"ant": 2, "bee": 2, "cow": 2}, "test has classes that .*train has not: 'cow'"),
        ({"ant": 2, "bee": 0}, {"ant": 2, "bee": 2}, "train holds no images .*1 of its 2 classes: 'bee'"),
        ({"ant": 2, "bee": 2}, {"ant": 2, "bee": 0}, "test holds no images .*1 of its 2 classes: 'bee'"),
        ({"ant": 2}, {"ant": 2}, "are of one class, 'ant'"),
        ({"ant": 2, "bee": 2}, {}, "test holds no images"),
    ],
)
def test_folders_of_other_classes_are_refused(tmp_path, train, test, message):
    for part, counts in (("train", train), ("test", test)):
        (tmp_path / part).mkdir()
        write_images(tmp_path / part, counts)
    with pytest.raises((ValueError, OSError), match=message):
        data.load("folder", str(tmp_path), 8)


def test_a_single_folder_with_an_empty_class_is_refused(tmp_path):
    write_images(tmp_path, {"ant": 4, "bee": 4, "cow": 0})
    with pytest.raises(FileNotFoundError, match="of 1 of its 3 classes: 'cow'"):
        data.load("folder", str(tmp_path), 8)


def test_images_of_files_may_be_rectangles(tmp_path):
    write_images(tmp_path, {"ant": 2, "bee": 2})
    assert data.load("folder", str(tmp_path), (8, 24)).image_shape == (8, 24, 3)
    for size in (0, -1, (8,), (8, 0), 2.5):
        with pytest.raises(ValueError, match="--image_size must be at least 1 pixel"):
            data.load("folder", str(tmp_path), size)


def test_names_are_as_many_as_classes():
    arrays = [np.zeros((1, 8, 8, 1), np.uint8), np.zeros(1, int)] * 2
    assert data.Dataset(*arrays, 3).class_names == ("0", "1", "2")
    with pytest.raises(ValueError, match="3 classes cannot have 2 names"):
        data.Dataset(*arrays, 3, ("a", "b"))


def test_a_part_of_the_images():
    """Pairs of image and label stay so, none comes twice, all classes are there, and it is always the same part."""
    digits = data.load("digits")
    part, again = digits.part(100), digits.part(100)
    np.testing.assert_array_equal(part.x_train, again.x_train)
    known = {image.tobytes(): label for image, label in zip(digits.x_train, digits.y_train, strict=True)}
    assert [known[image.tobytes()] for image in part.x_train] == part.y_train.tolist()
    assert len({image.tobytes() for image in part.x_train}) == 100 and set(part.y_train) == set(range(10))
    assert len(part.y_test) == len(digits.y_test)
    for count in (0, 10**6):
        with pytest.raises(ValueError, match="--train_images takes 1 to 1437"):
            digits.part(count)


def test_images_are_held_out():
    """None is in both parts, each has its label, always the same; what was there to test with is left alone."""
    digits = data.load("digits")
    held, again = digits.hold_out(200), digits.hold_out(200)
    assert (len(held.y_test), len(held.y_train)) == (200, 1237) == (len(held.x_test), len(held.x_train))
    assert held.held_out and held.is_part and not digits.held_out and held.class_names == digits.class_names
    for part in ("x_train", "y_train", "x_test", "y_test"):
        np.testing.assert_array_equal(getattr(held, part), getattr(again, part))

    def pairs(images, labels):
        return [(image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)]

    trained, tested = pairs(held.x_train, held.y_train), pairs(held.x_test, held.y_test)
    assert sorted(trained + tested) == sorted(pairs(digits.x_train, digits.y_train))
    assert not set(trained) & set(tested) and (np.bincount(held.y_test) >= 10).all()
    assert held.check() is held
    for count in (0, 1437):
        with pytest.raises(ValueError, match=f"Of 1437 training images {count} cannot be set aside"):
            digits.hold_out(count)


def test_images_in_files_are_held_out(tmp_path):
    write_images(tmp_path, {"ant": 20, "bee": 20})
    dataset = data.load("folder", str(tmp_path), image_size=8)
    held = dataset.hold_out(8)
    assert held.x_test.shape == (8, 8, 8, 3) and held.x_train.shape == (24, 8, 8, 3)
    shown = [images[:][:, 0, 0] for images in (held.x_train, held.x_test, dataset.x_train)]
    for pixels, labels in zip(shown, (held.y_train, held.y_test), strict=False):
        assert (pixels[:, 0] // 100).tolist() == labels.tolist()
    rows = [{tuple(row) for row in pixels} for pixels in shown]
    assert not rows[0] & rows[1] and rows[0] | rows[1] == rows[2] and len(rows[2]) == 32
    np.testing.assert_array_equal(dataset.hold_out(8).x_test[:], held.x_test[:])


def test_images_may_be_as_a_model_takes_them():
    """Then they are finite float32 numbers, also dark ones."""
    labels, images = np.array([0, 1, 0]), np.linspace(-1, 0, 192, dtype=np.float32).reshape(3, 8, 8, 1)
    given = {"x_train": images, "x_test": images, "preprocessed": True}
    dataset = images_and_labels(labels, 2, **given)
    assert dataset.check() is dataset
    assert dataset.calibration_images().dtype == np.float32 and dataset.hold_out(1).preprocessed
    for changes, message in (
        ({"x_train": images.astype(np.float64)}, r"x_train must be float32 \[N, H, W, C\]; got float64 .*astype"),
        ({"x_test": np.full((3, 8, 8, 1), 9, np.uint8)}, r"x_test must be float32 \[N, H, W, C\]; got uint8"),
        ({"x_train": np.full_like(images, np.inf)}, r"x_train must be float32 .*Give finite numbers"),
        ({"x_train": images[..., 0]}, "grey images have one channel"),
        ({"x_train": np.zeros((3, 3, 8, 8), np.float32)}, "its channels come first"),
        ({"preprocessed": False}, "x_train must be uint8 .*pixels 0–255; got float32"),
    ):
        with pytest.raises(ValueError, match=message):
            images_and_labels(labels, 2, **(given | changes))


def test_shapes_agree_where_lengths_are_equal_or_open():
    assert data_checks.agree((8, None, 3), (None, 9, 3)) and data_checks.agree((), ())
    for other in ((8, 8), (8, 8, 1), (8, 8, 3, 1), (9, 8, 3)):
        assert not data_checks.agree((8, 8, 3), other)


def test_a_part_of_images_in_files(tmp_path):
    write_images(tmp_path, {"ant": 20, "bee": 20})
    dataset = data.load("folder", str(tmp_path), image_size=8)
    part = dataset.part(16).part(9)
    assert part.x_train.shape == (9, 8, 8, 3) and len(part.x_train) == len(part.y_train) == 9
    shown = part.x_train[:]
    assert (shown[:, 0, 0, 0] // 100).tolist() == part.y_train.tolist() and set(part.y_train) == {0, 1}
    assert len(np.unique(shown[:, 0, 0], axis=0)) == 9
    np.testing.assert_array_equal(part.x_train.crops(np.array([8]), np.array([[1]]), 0.5)[0, 0, 0], shown[8, 0, 0])
    assert len(part.calibration_images()) == 9 and len(dataset.x_train) == 32
    with pytest.raises(ValueError, match="--train_images takes 1 to 32, as many as there are; got 33"):
        dataset.part(33)
