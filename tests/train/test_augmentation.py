import numpy as np
import pytest

from dbf_keras.backend import keras, ops
from dbf_keras.train import augmentation

IMAGE = np.random.default_rng(0).uniform(1, 2, (1, 9, 9, 3)).astype(np.float32)


def changed(augmentation, images, targets=None, seed=(1, 2)):
    targets = np.eye(len(images), dtype=np.float32) if targets is None else targets
    images, targets = augmentation(ops.convert_to_tensor(images), ops.convert_to_tensor(targets), np.array(seed))
    return ops.convert_to_numpy(images), ops.convert_to_numpy(targets)


def test_shifts_are_whole_pixels_and_leave_zeros():
    shifted, _ = changed(augmentation.Augmentation(shift=3), np.repeat(IMAGE, 200, 0))
    offsets = []
    for result in shifted:
        matches = [
            (dy, dx)
            for dy in range(-3, 4)
            for dx in range(-3, 4)
            if np.array_equal(
                result[max(0, dy) : 9 + min(0, dy), max(0, dx) : 9 + min(0, dx)],
                IMAGE[0, max(0, -dy) : 9 + min(0, -dy), max(0, -dx) : 9 + min(0, -dx)],
            )
            and np.count_nonzero(result[..., 0]) == (9 - abs(dy)) * (9 - abs(dx))
        ]
        assert len(matches) == 1
        offsets += matches
    assert len(set(offsets)) > 40  # Of 49.
    for axis in np.transpose(offsets):
        counts = np.bincount(axis + 3)
        assert len(counts) == 7 and counts.min() > 10  # 200 / 7 = 29; 10 is four standard deviations below.


def test_mirroring_mirrors_about_half_of_the_images():
    results, _ = changed(augmentation.Augmentation(mirror=True), np.repeat(IMAGE, 64, 0))
    mirrored = [np.array_equal(result, IMAGE[0, :, ::-1]) for result in results]
    same = [np.array_equal(result, IMAGE[0]) for result in results]
    assert all(m != s for m, s in zip(mirrored, same, strict=True))
    assert 16 < sum(mirrored) < 48


def test_a_quarter_turn_is_a_rotation():
    """The extreme case pins the maps' direction and centre."""
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    maps = augmentation.affine_maps(9, 9, np.float32(np.pi / 2) * one, one, one, zero, zero)
    result = ops.convert_to_numpy(ops.image.affine_transform(IMAGE, maps, interpolation="bilinear"))
    np.testing.assert_allclose(result[0], np.rot90(IMAGE[0]), atol=1e-4)


def test_cutout_blanks_a_square_of_its_size_inside_the_image():
    images = np.repeat(np.random.default_rng(0).uniform(1, 2, (1, 16, 16, 3)).astype(np.float32), 50, 0)
    results, _ = changed(augmentation.Augmentation(cutout=0.5), images)
    places = set()
    for result, image in zip(results, images, strict=True):
        rows, columns = np.nonzero(result[..., 0] == 0)
        assert np.all(result[rows, columns] == 0) and len(rows) == 64
        assert np.ptp(rows) == 7 and np.ptp(columns) == 7
        kept = result != 0
        np.testing.assert_array_equal(result[kept], image[kept])
        places.add((rows[0], columns[0]))
    assert len(places) > 20


def test_mixup_mixes_images_and_labels_alike():
    """Images that are their labels stay so."""
    targets = np.eye(6, dtype=np.float32)
    images = targets[:, None, :, None] * np.ones((6, 6, 6, 3), np.float32)
    results, mixed = changed(augmentation.Augmentation(mixup=1.0), images, targets)
    np.testing.assert_allclose(results[:, 0, :, 0], mixed, atol=1e-6)
    np.testing.assert_allclose(mixed.sum(axis=1), 1, atol=1e-6)
    assert not np.allclose(mixed, targets)


def test_the_same_seed_does_the_same_and_another_does_not():
    made = augmentation.Augmentation(shift=2, rotation=20, zoom=0.2, mirror=True, cutout=0.3, mixup=0.4)
    images = np.repeat(IMAGE, 8, 0)
    first, again, other = (changed(made, images, seed=seed) for seed in ((5, 6), (5, 6), (5, 7)))
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.allclose(a, c)
    assert first[0].shape == images.shape and keras.backend.standardize_dtype(first[0].dtype) == "float32"


@pytest.mark.parametrize("option", [{"cutout": 1.0}, {"cutout": -0.1}, {"mixup": -1.0}])
def test_options_out_of_range_are_refused(option):
    (name,) = option
    with pytest.raises(ValueError, match=f"--{name}"):
        augmentation.Augmentation(**option)
