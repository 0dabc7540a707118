import numpy as np
import pytest
from PIL import Image

from dbf_keras import data
from dbf_keras.backend import keras
from dbf_keras.compress import examples
from dbf_keras.train.recipes import Recipe

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (53, 8, 8, 1), np.uint8)
LABELS = np.sort(RNG.integers(0, 4, 53))  # Sorted by class, as folders are read.


def model(shape=(8, 8, 1), classes=4):
    layers = [keras.Input(shape), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(classes)]
    return keras.Sequential(layers, name="given")


def pairs(images, labels):
    """What can be compared of images and their labels, in whatever order."""
    return sorted((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))


def check_split(dataset, images=IMAGES):
    """A tenth is set aside; together with the rest it is all there is, each image with its label."""
    assert dataset.held_out and dataset.is_part and dataset.classes == 4
    assert len(dataset.y_test) == 5 and len(dataset.y_train) == 48
    assert dataset.preprocessed == (images.dtype != np.uint8) and dataset.image_shape == (8, 8, 1)
    wanted = images if images.dtype == np.uint8 else images.astype(np.float32)
    train = training(dataset)
    assert train[0].dtype == dataset.x_test.dtype == wanted.dtype
    assert sorted([*pairs(*train), *pairs(dataset.x_test, dataset.y_test)]) == pairs(wanted, LABELS)


def training(dataset):
    if not isinstance(dataset.x_train, examples.Stream):
        return dataset.x_train, dataset.y_train
    return [np.concatenate(arrays) for arrays in zip(*dataset.x_train.batches(1), strict=True)]


@pytest.mark.parametrize("images", [IMAGES, IMAGES / 255, IMAGES.astype(np.int64), IMAGES[..., 0]])
@pytest.mark.parametrize("labels", [LABELS, LABELS[:, None], np.eye(4)[LABELS], LABELS.tolist(), LABELS * 1.0])
def test_arrays(images, labels):
    dataset = examples.to_dataset((images, labels), model(), labels=list("abcd"))
    check_split(dataset, images if images.ndim == 4 else images[..., None])
    assert dataset.class_names == tuple("abcd")


def tensorflow_batches(size, images=IMAGES, labels=LABELS):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((images, labels)).batch(size)


class Batches(keras.utils.PyDataset):
    """Seven at a time."""

    def __len__(self):
        return 8

    def __getitem__(self, number):
        part = slice(7 * number, 7 * number + 7)
        return IMAGES[part], np.eye(4)[LABELS[part]], np.ones(len(LABELS[part]))


STREAMS = {
    "batches of 1": lambda: tensorflow_batches(1),
    "batches of 7": lambda: tensorflow_batches(7),
    "one batch": lambda: tensorflow_batches(64),
    "grey": lambda: tensorflow_batches(7, IMAGES[..., 0]),
    "floats": lambda: tensorflow_batches(7, IMAGES / np.float32(255)),
    "one-hot": lambda: tensorflow_batches(7, labels=np.eye(4)[LABELS]),
    "shuffled": lambda: tensorflow_batches(1).unbatch().shuffle(53).batch(7),
    "PyDataset": Batches,
}


@pytest.mark.parametrize("name", STREAMS)
def test_streams(name):
    dataset = examples.to_dataset(STREAMS[name](), model())
    assert isinstance(dataset.x_train, examples.Stream) and dataset.x_train.shape == (48, 8, 8, 1)
    check_split(dataset, IMAGES / np.float32(255) if name == "floats" else IMAGES)
    for size in (1, 10, 48, 49):
        batches = list(dataset.x_train.batches(size))
        assert [len(labels) for _, labels in batches] == [size] * (48 // size)
        read = [pair for batch in batches for pair in pairs(*batch)]
        assert len(set(read)) == len(read) and set(read) <= set(pairs(*training(dataset)))
    if name != "shuffled":  # In the order of the data.
        labels = np.concatenate([labels for _, labels in dataset.x_train.batches(1)])
        assert (np.diff(labels) >= 0).all()


def test_what_is_set_aside_depends_on_no_order_and_is_of_all_classes():
    found = []
    for make in (STREAMS["shuffled"], STREAMS["shuffled"], STREAMS["batches of 1"], STREAMS["PyDataset"]):
        dataset = examples.to_dataset(make(), model())
        found.append((dataset.x_test, dataset.y_test, dataset.y_train))
        found[-1] += examples.calibration_examples(dataset, 9)
    for other in found[1:]:
        for one, another in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(one, another)
    images = RNG.integers(0, 256, (400, 8, 8, 1), np.uint8)
    labels = np.repeat(np.arange(4), 100)
    aside = examples.to_dataset(tensorflow_batches(32, images, labels), model())
    arrays = examples.to_dataset((images, labels), model())
    for dataset in (aside, arrays):
        assert (np.bincount(dataset.y_test, minlength=4) >= 4).all() and len(dataset.y_test) == 40


def test_equal_images_are_all_set_aside_or_none():
    twice = np.concatenate([IMAGES, IMAGES])
    dataset = examples.to_dataset(tensorflow_batches(9, twice, np.concatenate([LABELS, LABELS])), model())
    assert len(dataset.y_test) == 11 and len(dataset.y_train) == 94
    trained, tested = (
        {image for image, _ in pairs(*part)} for part in (training(dataset), (dataset.x_test, dataset.y_test))
    )
    assert not trained & tested and len(trained | tested) == 53


@pytest.mark.parametrize("kind", ["arrays", "batches of 7", "floats"])
def test_examples_to_calibrate_with_are_training_images(kind):
    given = (IMAGES, LABELS) if kind == "arrays" else STREAMS[kind]()
    dataset = examples.to_dataset(given, model())
    for count in (9, 1000):
        images, labels = examples.calibration_examples(dataset, count)
        assert images.dtype == np.float32 and len(labels) == min(count, 48)
        train_images, train_labels = training(dataset)
        assert set(pairs(images, labels)) <= set(pairs(train_images.astype(np.float32), train_labels))
        assert len(set(pairs(images, labels))) == len(labels)


def test_a_data_set_keeps_its_test_part_out_of_it():
    digits = data.load("digits").part(100)
    dataset = examples.to_dataset(digits, model(classes=10))
    assert dataset.held_out and len(dataset.y_test) == 10 and dataset.class_names == digits.class_names
    assert sorted([*pairs(*training(dataset)), *pairs(dataset.x_test, dataset.y_test)]) == pairs(
        digits.x_train, digits.y_train
    )
    assert examples.to_dataset(dataset, model(classes=10)) is dataset  # Set aside already.


def test_the_images_set_aside_come_in_batches():
    dataset = examples.to_dataset((IMAGES, LABELS), model())
    parts = list(examples.in_batches(dataset, 2))
    assert [len(labels) for _, labels in parts] == [2, 2, 1] and parts[0][0].dtype == np.float32
    np.testing.assert_array_equal(np.concatenate([images for images, _ in parts]), dataset.x_test)
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in parts]), dataset.y_test)


def test_models_of_open_size_and_of_one_score():
    assert examples.to_dataset((IMAGES, LABELS), model((None, None, 1))).image_shape == (8, 8, 1)
    assert examples.to_dataset((IMAGES, LABELS % 2), model(classes=1)).classes == 2


def two_outputs():
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.GlobalAveragePooling2D()(inputs)
    return keras.Model(inputs, [keras.layers.Dense(4)(x), keras.layers.Dense(4)(x)])


class Noisy(Batches):
    """Images that are others each time."""

    def __getitem__(self, number):
        images, *others = super().__getitem__(number)
        return images ^ RNG.integers(0, 2, images.shape, np.uint8), *others


@pytest.mark.parametrize(
    "given, message",
    [
        (lambda: (np.zeros((53, 9, 9, 1), np.uint8) + 9, LABELS), "takes images 8×8×1 to 4 classes; .* images 9×9×1"),
        (lambda: (np.repeat(IMAGES, 3, -1), LABELS), "the data has images 8×8×3 of 4 classes"),
        (lambda: (IMAGES, LABELS + 2), "8×8×1 to 4 classes; the data has images 8×8×1 of 6 classes"),
        (lambda: (IMAGES, LABELS[:50]), r"one for each of 53 images; got shape \(50,\)"),
        (lambda: (IMAGES, LABELS / 3), r"Labels are numbers of classes, or one-hot.*got shape \(53,\)"),
        (lambda: (IMAGES, LABELS.astype(str)), "Labels are numbers of classes, or one-hot"),
        (lambda: (IMAGES, LABELS - 1), "the smallest -1"),
        (lambda: (IMAGES.reshape(53, 64), LABELS), r"x_train must be uint8 \[N, H, W, C\].*Reshape"),
        (lambda: (IMAGES.astype(str), LABELS), "Images are arrays of numbers; got <U3"),
        (lambda: (IMAGES[:0], LABELS[:0]), "x_train .* holds no images"),
        (lambda: (IMAGES[:1], LABELS[:1]), "3 of 4 classes have no training image"),
        (lambda: (IMAGES // 255, LABELS), "x_train is black"),
        (lambda: (IMAGES / 0.0, LABELS), "x_train must be float32 .* finite"),
        (lambda: IMAGES, r"`data` is \(images, labels\), .* got ndarray"),
        (lambda: (IMAGES, LABELS, LABELS), r"`data` is \(images, labels\), .* got tuple"),
        (lambda: tensorflow_batches(7).map(lambda images, labels: images), r"its elements are no \(images, labels\)"),
        (lambda: tensorflow_batches(7).unbatch(), r"single images; give it in batches, as dataset.batch\(32\)"),
        (lambda: tensorflow_batches(7).repeat(), r"never ends; give it without repeat\(\)"),
        (lambda: tensorflow_batches(7).take(0), "The data has no images"),
        (lambda: tensorflow_batches(1).take(1), "no images besides those that are set aside"),
        (lambda: tensorflow_batches(7, np.repeat(IMAGES, 2, 1)), "images 16×8×1 of 4 classes"),
        (lambda: tensorflow_batches(7, labels=LABELS + 2), "of 6 classes"),
        (lambda: tensorflow_batches(7, labels=LABELS.astype(str)), "Labels are numbers of classes, or one-hot"),
        (lambda: tensorflow_batches(53).concatenate(tensorflow_batches(53, IMAGES[:, :4])), "4×8×1 and 8×8×1"),
        (Noisy, "other images each time that it is read"),
    ],
)
def test_wrong_data_ends_in_one_sentence(given, message):
    with np.errstate(all="ignore"):
        wrong = given()
    with pytest.raises(ValueError, match=message) as raised:
        examples.to_dataset(wrong, model())
    assert "\n" not in str(raised.value)


def test_other_models_and_names_are_refused():
    with pytest.raises(ValueError, match="to scores of classes; .* Without data it is fitted only"):
        examples.to_dataset((IMAGES, LABELS), two_outputs())
    with pytest.raises(ValueError, match="takes images 8×8×1 to 10 classes; .* of 4 classes"):
        examples.to_dataset(examples.to_dataset((IMAGES, LABELS), model()), model(classes=10))
    with pytest.raises(ValueError, match="4 classes cannot have 2 names"):
        examples.to_dataset((IMAGES, LABELS), model(), labels=["a", "b"])


@pytest.mark.parametrize("kind", ["arrays", "batches of 7"])
def test_images_are_augmented_as_in_training(kind):
    dataset = examples.to_dataset((IMAGES, LABELS) if kind == "arrays" else STREAMS[kind](), model())
    plain, changed, labels = examples.augmented_examples(dataset, Recipe(1, augmentation={"mirror": True}), 40)
    np.testing.assert_array_equal(plain, examples.calibration_examples(dataset, 40)[0])
    assert len(labels) == 40 and changed.dtype == np.float32
    mirrored = [np.array_equal(image, other[:, ::-1]) for image, other in zip(changed, plain, strict=True)]
    same = [np.array_equal(image, other) for image, other in zip(changed, plain, strict=True)]
    assert 10 < sum(mirrored) < 30 and np.all(np.array(mirrored) ^ np.array(same))
    plain, changed, _ = examples.augmented_examples(dataset, Recipe(1, crop=0.1), 40)
    np.testing.assert_array_equal(plain, changed)  # Arrays are not cropped in training either.


def test_images_of_files_are_cropped_as_in_training(tmp_path):
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for number in range(10):
            ramp = np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1)).T
            Image.fromarray(ramp).save(tmp_path / name / f"{number}.png")
    dataset = data.load("folder", str(tmp_path), 16)
    plain, changed, labels = examples.augmented_examples(dataset, Recipe(1, crop=0.1), 100)
    assert plain.shape == changed.shape == (16, 16, 16, 3) and labels.tolist() == [0] * 8 + [1] * 8
    assert len(np.unique(plain, axis=0)) == 1 and len(np.unique(changed, axis=0)) > 10
    assert np.ptp(changed, axis=1).max(axis=(1, 2)).mean() < 0.9 * np.ptp(plain[0], axis=0).max()
