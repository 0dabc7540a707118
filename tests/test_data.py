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


def collect(batches, epochs):
    drawn = []
    for _ in range(epochs):
        drawn.append([batches[index] for index in range(len(batches))])
        batches.on_epoch_end()
    return drawn


def test_batches_depend_on_seed_and_epoch_only():
    images = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 1), np.uint8)
    labels = np.arange(10)
    noise = lambda x, rng: x + rng.uniform(size=(len(x), 1, 1, 1))  # noqa: E731
    arguments = (images, labels, 10, 3, noise)
    whole = collect(data.batches(*arguments, seed=1), 3)
    resumed = collect(data.batches(*arguments, seed=1, first_epoch=2), 1)
    for (x, y), (again_x, again_y) in zip(whole[2], resumed[0], strict=True):
        np.testing.assert_array_equal(x, again_x)
        np.testing.assert_array_equal(y, again_y)
    assert len(whole[0]) == 3
    chosen = np.concatenate([y for _, y in whole[0]]).argmax(axis=1)
    assert len(set(chosen)) == 9  # No image twice in an epoch.
    for x, y in whole[0]:
        np.testing.assert_array_equal(np.floor(x[:, 0, 0, 0]), y.argmax(axis=1))
    other = collect(data.batches(*arguments, seed=2), 1)
    assert not np.array_equal(other[0][0][1], whole[0][0][1]) or not np.array_equal(other[0][1][1], whole[0][1][1])
    assert not np.array_equal(whole[0][0][0], whole[1][0][0])


def test_shifts_are_whole_pixels_and_leave_zeros():
    image = np.random.default_rng(0).uniform(1, 2, (1, 9, 9, 3)).astype(np.float32)
    shifted = data.random_affine(shift=3)(np.repeat(image, 40, 0), np.random.default_rng(1))
    offsets = set()
    for result in shifted:
        matches = [
            (dy, dx)
            for dy in range(-3, 4)
            for dx in range(-3, 4)
            if np.allclose(
                result[max(0, dy) : 9 + min(0, dy), max(0, dx) : 9 + min(0, dx)],
                image[0, max(0, -dy) : 9 + min(0, -dy), max(0, -dx) : 9 + min(0, -dx)],
                atol=1e-5,
            )
            and np.count_nonzero(result[..., 0]) == (9 - abs(dy)) * (9 - abs(dx))
        ]
        assert len(matches) == 1
        offsets |= set(matches)
    assert len(offsets) > 10


def test_mirroring_mirrors_about_half_of_the_images():
    image = np.random.default_rng(0).uniform(1, 2, (1, 6, 8, 1)).astype(np.float32)
    results = data.random_affine(mirror=True)(np.repeat(image, 64, 0), np.random.default_rng(2))
    mirrored = [np.allclose(result, image[0, :, ::-1], atol=1e-5) for result in results]
    same = [np.allclose(result, image[0], atol=1e-5) for result in results]
    assert all(m != s for m, s in zip(mirrored, same, strict=True))
    assert 16 < sum(mirrored) < 48


def test_rotation_by_a_right_angle_is_a_rotation():
    """The extreme case pins the transform's direction and centre: a quarter turn of a square."""
    image = np.random.default_rng(0).uniform(1, 2, (1, 7, 7, 1)).astype(np.float32)

    class QuarterTurn:
        def uniform(self, low, high, size=None):
            return np.full(size, np.rad2deg(np.pi / 2)) if high == 90 else np.zeros(size)

    result = data.random_affine(rotation=90)(image, QuarterTurn())
    assert np.allclose(result[0], np.rot90(image[0]), atol=1e-4) or np.allclose(
        result[0], np.rot90(image[0], -1), atol=1e-4
    )
