"""`dbf predict`: class names of pictures."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from dbf_keras import keras_file
from dbf_keras.backend import keras
from dbf_keras.export import to_tflite
from dbf_keras.images import ImageFolder, read_picture
from dbf_keras.layers import DBFConv2D
from dbf_keras.predict import classifier, command

NAMES = ["left", "middle", "right"]


def predict(*arguments, capsys):
    """Status, lines and errors of the command."""
    status = command.main([str(argument) for argument in arguments])
    done = capsys.readouterr()
    return status, done.out.splitlines(), done.err


def model(size=(6, 9), channels=3, scale=1 / 255, activation="softmax", batch=None):
    """Says in which third of a picture it is bright."""
    inputs = keras.Input((*size, channels), batch_size=batch)
    x = keras.layers.Rescaling(scale)(inputs) if scale else inputs
    layer = DBFConv2D(3, size, kernel_initializer="zeros")
    outputs = keras.layers.Flatten()(layer(x))
    built = keras.Model(inputs, keras.layers.Activation(activation)(outputs))
    kernel = np.zeros((*size, channels, 3), np.float32)
    for third, columns in enumerate(np.array_split(np.arange(size[1]), 3)):
        kernel[:, columns, :, third] = 20 / (size[0] * len(columns) * channels) / (1 if scale else 255)
    layer.fit_kernel(kernel)
    return built


def picture(third, size=(6, 9), channels=3):
    pixels = np.full((*size, channels), 20, np.uint8)
    pixels[:, np.array_split(np.arange(size[1]), 3)[third]] = 230
    return pixels


def write(path, pixels, **options):
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(path, **options)
    return path


def save_pictures(folder):
    return [write(folder / f"{name}.png", picture(third)) for third, name in enumerate(NAMES)]


@pytest.fixture
def pictures(tmp_path):
    return save_pictures(tmp_path)


def read(line):
    """The names of a line, and their shares."""
    parts = [part.rstrip(")%").split(" (") for part in line.split(": ", 1)[1].split(", ")]
    return [name for name, _ in parts], [float(share) for _, share in parts]


@pytest.mark.parametrize(
    "form",
    [
        ("explicit", None),
        ("onthefly", None),
        ("folded", "float16"),
        ("onthefly", "weights"),
        ("explicit", "int8", "float32"),
        ("onthefly", "int8", "int8"),
    ],
)
def test_files_of_every_form_name_what_is_in_pictures(form, pictures, tmp_path, capsys):
    mode, quantize, *io_type = form
    data = np.stack([picture(third) for third in range(3)]).astype(np.float32) if quantize == "int8" else None
    arguments = {"representative_data": data, "io_type": io_type[0]} if io_type else {}
    path = tmp_path / "x.tflite"
    path.write_bytes(to_tflite(model(), mode, quantize, labels=NAMES, **arguments))
    status, lines, errors = predict(path, *pictures, capsys=capsys)
    assert status == 0 and "note" not in errors
    for line, name, file in zip(lines, NAMES, pictures, strict=True):
        names, shares = read(line)
        assert line.startswith(f"{file}: {name} (") and sorted(names) == sorted(NAMES)
        assert shares[0] > 99 and sum(shares) == pytest.approx(100, abs=0.2) and shares == sorted(shares, reverse=True)
    [line] = predict(path, pictures[1], "--top=1", capsys=capsys)[1]
    assert read(line)[0] == ["middle"]


def test_keras_files_do_too(pictures, tmp_path, capsys):
    path = tmp_path / "x.keras"
    keras_file.save(model(), path, NAMES)
    status, lines, errors = predict(path, *pictures, capsys=capsys)
    assert status == 0 and [read(line)[0][0] for line in lines] == NAMES and "note" not in errors


@pytest.mark.parametrize("activation", ["linear", "softmax"])
def test_pixels_are_normalised_as_the_file_says(activation, pictures, tmp_path, capsys):
    plain = model(scale=None, activation=activation)
    path = tmp_path / "x.tflite"
    mean, std = [120.0, 110.0, 100.0], [60.0, 50.0, 40.0]
    given = np.stack([picture(third) for third in range(3)]).astype(np.float32)
    for normalization in (None, (mean, std), ([0.0], [2.0])):
        path.write_bytes(to_tflite(plain, "explicit", labels=NAMES, normalization=normalization))
        _, lines, errors = predict(path, *pictures, capsys=capsys)
        moved = given if normalization is None else (given - normalization[0]) / np.float32(normalization[1])
        scores = np.asarray(plain(moved.astype(np.float32)))
        shares = np.exp(scores) / np.exp(scores).sum(1, keepdims=True) if activation == "linear" else scores
        for line, expected in zip(lines, shares, strict=True):
            np.testing.assert_allclose(read(line)[1], 100 * np.sort(expected)[::-1], atol=0.06)
        assert ("does not say how it takes pixels" in errors) == (normalization is None)


def test_files_without_metadata_give_numbers(pictures, tmp_path, capsys):
    path = tmp_path / "x.tflite"
    path.write_bytes(to_tflite(model(), "explicit"))
    status, lines, errors = predict(path, pictures[2], capsys=capsys)
    assert status == 0 and read(lines[0])[0][0] == "2"
    assert "does not name the classes" in errors and "does not say how it takes pixels" in errors


def test_a_training_s_names_and_pictures_go_all_the_way(tmp_path, capsys):
    trained = model((8, 8))
    keras_file.save(trained, tmp_path / "x.keras", NAMES, {"settings": {"dataset": "folder"}})
    training = keras_file.training(tmp_path / "x.keras")
    (tmp_path / "x.tflite").write_bytes(to_tflite(trained, "explicit", labels=NAMES, training=training))
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    path = write(tmp_path / "a.png", pixels)
    # A network trained on a folder sees the centre, also of pictures of its own size.
    expected = np.asarray(trained(ImageFolder([path], 8)[[0]].astype(np.float32)))[0]
    for file in ("x.keras", "x.tflite"):
        [line] = predict(tmp_path / file, path, capsys=capsys)[1]
        np.testing.assert_allclose(read(line)[1], 100 * np.sort(expected)[::-1], atol=0.06)


def test_open_sizes_and_fixed_batches(pictures, tmp_path, capsys):
    inputs = keras.Input((None, None, 3))
    features = DBFConv2D(3, 1, ratio=1, use_bias=False)(keras.layers.Rescaling(1 / 255)(inputs))
    pooled = keras.layers.GlobalAveragePooling2D(keepdims=True)(features)
    outputs = keras.layers.Activation("softmax")(keras.layers.Reshape((3,))(pooled))
    for built in (keras.Model(inputs, outputs), model(batch=4)):
        path = tmp_path / "x.tflite"
        path.write_bytes(to_tflite(built, "explicit", labels=NAMES))
        keras_file.save(built, tmp_path / "x.keras", NAMES)
        first, second = (predict(tmp_path / f, *pictures, capsys=capsys)[1] for f in ("x.tflite", "x.keras"))
        assert len(first) == 3
        for ours, theirs in zip(first, second, strict=True):
            np.testing.assert_allclose(read(ours)[1], read(theirs)[1], atol=0.11)


def test_grey_pictures_and_grey_models(tmp_path, capsys):
    path = tmp_path / "x.tflite"
    coloured = write(tmp_path / "c.png", picture(2))
    grey = write(tmp_path / "g.png", picture(2, channels=1))
    for channels in (1, 3):
        path.write_bytes(to_tflite(model(channels=channels), "explicit", labels=NAMES))
        for file in (coloured, grey):
            assert read(predict(path, file, capsys=capsys)[1][0])[0][0] == "right"


@pytest.mark.parametrize("kind, width, height", [("png", 60, 40), ("png", 40, 60), ("jpeg", 600, 400)])
def test_other_sizes_are_read_as_test_images_are(kind, width, height, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    path = write(tmp_path / f"x.{kind}", np.kron(pixels, np.ones((4, 4, 1), np.uint8)))
    np.testing.assert_array_equal(read_picture(path, (32, 32)), ImageFolder([path], 32)[0])
    assert read_picture(path, (16, 48), 1).shape == (16, 48, 1)
    whole = read_picture(path, None)
    assert whole.shape == (height, width, 3)
    np.testing.assert_array_equal(read_picture(path, (height, width)), whole)


def test_the_part_of_another_shape_is_the_largest_that_fits(tmp_path):
    x, y = np.meshgrid(np.arange(240), np.arange(160))
    path = write(tmp_path / "x.png", np.stack([x, y, 0 * x], -1).astype(np.uint8))
    pixels = read_picture(path, (70, 28)).astype(float)  # Of 64 × 160, 7/8: 56 × 140, twice the size, in the middle.
    np.testing.assert_allclose(pixels[0, [0, -1], 0], [92.5, 146.5], atol=1.5)
    np.testing.assert_allclose(pixels[[0, -1], 0, 1], [10.5, 148.5], atol=1.5)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_exif_says(orientation, tmp_path):
    turns = [lambda x: x, np.fliplr, lambda x: np.rot90(x, 2), np.flipud]
    turns += [
        lambda x: np.swapaxes(x, 0, 1),
        np.rot90,
        lambda x: np.rot90(np.swapaxes(x, 0, 1), 2),
        lambda x: np.rot90(x, 3),
    ]
    upright = np.kron(np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8), np.ones((16, 16, 1), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("png", "jpg"):
        path = write(tmp_path / f"x.{kind}", np.ascontiguousarray(turns[orientation - 1](upright)), exif=exif)
        straight = write(tmp_path / f"y.{kind}", upright)
        for size in (None, (64, 96), (16, 16), (8, 24)):
            found, wanted = (read_picture(file, size).astype(int) for file in (path, straight))
            assert found.shape == wanted.shape and np.abs(found - wanted).mean() < (1 if kind == "png" else 6)


def test_probabilities():
    given = classifier.to_probabilities
    np.testing.assert_allclose(given([0.25, 0.75]), [0.25, 0.75])
    np.testing.assert_allclose(given(np.array([0, 255]) / 256), [0, 1])
    np.testing.assert_allclose(given([0.0, 2.0]), [1 / (1 + np.exp(2)), 1 / (1 + np.exp(-2))])
    np.testing.assert_allclose(given([1000.0, -1000.0]), [1, 0])
    np.testing.assert_allclose(given([0.3]), [0.7, 0.3])
    np.testing.assert_allclose(given([3.0]), [1 / (1 + np.exp(3)), 1 / (1 + np.exp(-3))])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("folder")
    pictures = save_pictures(tmp_path)
    (tmp_path / "x.tflite").write_bytes(to_tflite(model(), "explicit", labels=NAMES))
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes(pictures[0].read_bytes()[:60])
    (tmp_path / "cut.tflite").write_bytes((tmp_path / "x.tflite").read_bytes()[:600])
    flat, pixels = keras.Input((8,)), keras.Input((6, 9, 3))
    (tmp_path / "flat.tflite").write_bytes(to_tflite(keras.Model(flat, keras.layers.Dense(3)(flat)), "explicit"))
    image = keras.Model(pixels, keras.layers.Conv2D(3, 1)(pixels))
    (tmp_path / "image.tflite").write_bytes(to_tflite(image, "explicit"))
    image.save(tmp_path / "image.keras")
    two = keras.layers.Concatenate()([flat, keras.layers.Flatten()(pixels)])
    (tmp_path / "two.tflite").write_bytes(to_tflite(keras.Model([flat, pixels], two), "explicit"))
    (tmp_path / "text.keras").write_text("no model")
    return tmp_path


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["gone.tflite", "left.png"], "There is no model file at 'gone.tflite'"),
        (["x.tflite", "left.png", "gone.png"], "The picture 'gone.png' does not exist"),
        (["x.tflite", "."], "The picture '.' is a folder"),
        (["x.tflite"], "PICTURE; see --help"),
        (["x.tflite", "text.png"], "text.png cannot be read: "),
        (["x.tflite", "cut.png"], "cut.png cannot be read: "),
        (["left.png", "left.png"], "'left.png' is not a TFLite model"),
        (["cut.tflite", "left.png"], "'cut.tflite': "),
        (["flat.tflite", "left.png"], "'flat.tflite' takes [?, 8], which is no picture"),
        (["image.tflite", "left.png"], "'image.tflite' gives [1, 6, 9, 3], which are no scores of classes"),
        (["image.keras", "left.png"], "'image.keras' gives something else than scores"),
        (["two.tflite", "left.png"], "'two.tflite' takes 2 inputs"),
        (["text.keras", "left.png"], "'text.keras' is no .keras file"),
        (["x.tflite", "left.png", "--top=0"], "0 is less than 1"),
        (["x.tflite", "left.png", "--rumtime=tf"], "unrecognized arguments: --rumtime=tf"),
    ],
)
def test_bad_input_is_told(arguments, message, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    status, lines, errors = predict(*arguments, capsys=capsys)
    assert status == 2 and message in errors and not lines
    assert len([line for line in errors.splitlines() if line.startswith("error")]) == 1


def test_a_board_needs_numpy_pillow_and_a_runtime_only(folder, tmp_path):
    absent = "absl rich matplotlib keras tf_keras tensorflow sklearn jax filelock yaml h5py flatbuffers scipy wrapt"
    (tmp_path / "site").mkdir()
    text = f"import sys\nsys.modules.update(dict.fromkeys({absent.split()}))\n"
    (tmp_path / "site" / "sitecustomize.py").write_text(text)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), *filter(None, sys.path)])}

    def run(*arguments):
        command = [sys.executable, "-m", "dbf_keras", "predict", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)

    done = run("x.tflite", "left.png", "right.png")
    assert done.returncode == 0, done.stderr
    assert [read(line)[0][0] for line in done.stdout.splitlines()] == ["left", "right"]
    done = run("image.keras", "left.png")
    assert done.returncode == 2 and "A .keras file needs keras, not installed here" in done.stderr
