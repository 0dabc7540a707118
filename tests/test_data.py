import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from dbf_keras import data

DATA_DIR = os.environ.get("DBF_DATA_DIR")
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


@needs_data
@pytest.mark.parametrize("name, train, shape", [("mnist", 60000, (28, 28, 1)), ("cifar10", 50000, (32, 32, 3))])
def test_npz_sets_are_read(name, train, shape):
    dataset = data.load(name, DATA_DIR)
    assert dataset.x_train.shape == (train, *shape) and dataset.x_test.shape == (10000, *shape)
    assert np.bincount(dataset.y_test).shape == (10,) and dataset.classes == 10


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


def test_folders_are_read_as_they_are_indexed(tmp_path):
    for part, count in (("train", 3), ("test", 2)):
        for label, name in enumerate(("ant", "bee")):
            (tmp_path / part / name).mkdir(parents=True)
            for index in range(count):
                colour = (label * 100, index * 50, 7)
                Image.new("RGB", (40, 30), colour).save(tmp_path / part / name / f"{index}.png")
    dataset = data.load("folder", str(tmp_path), image_size=16)
    assert len(dataset.x_train) == 6 and dataset.image_shape == (16, 16, 3) and dataset.classes == 2
    np.testing.assert_array_equal(dataset.y_train, [0, 0, 0, 1, 1, 1])
    batch = dataset.x_train[np.array([4, 0])]
    assert batch.shape == (2, 16, 16, 3) and batch.dtype == np.uint8
    np.testing.assert_array_equal(batch[:, 0, 0], [[100, 50, 7], [0, 0, 7]])
    np.testing.assert_array_equal(dataset.x_test[1][3, 3], [0, 50, 7])


def test_errors_say_what_would_work(tmp_path):
    with pytest.raises(ValueError, match="Known: digits, mnist"):
        data.load("imagenet")
    with pytest.raises(FileNotFoundError, match="mnist.npz"):
        data.load("mnist", str(tmp_path))
    with pytest.raises(ValueError, match="--data_dir"):
        data.load("folder")
    with pytest.raises(FileNotFoundError, match="train/<class>"):
        data.load("folder", str(tmp_path))
    (tmp_path / "train" / "ant").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="no images"):
        data.load("folder", str(tmp_path))


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
