import numpy as np
import pytest

from dbf_keras import data
from dbf_keras.backend import keras, ops
from dbf_keras.layers import DBFConv2D, DBFDense
from dbf_keras.train.teacher import Teacher, last_layer, shared_features, to_logits

layers = keras.layers
IMAGES = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 1)).astype("float32")


def features(shape=(8, 8, 1)):
    inputs = keras.Input(shape)
    x = DBFConv2D(4, 3, ratio=0.5)(layers.Rescaling(1 / 255)(inputs))
    return inputs, layers.GlobalAveragePooling2D()(layers.BatchNormalization()(x))


def ending(*last, classes=3):
    """A functional model with some layers, or functions, at its end; the first is a Dense layer of logits."""
    inputs, x = features()
    for layer in last or [layers.Dense(classes)]:
        x = layer(x)
    return keras.Model(inputs, x, name="given")


def nested(*last):
    head = keras.Sequential([keras.Input((4,)), *last])
    inputs, x = features()
    body = keras.Model(inputs, x)
    outer = keras.Input((8, 8, 1))
    return keras.Model(outer, head(body(outer)))


def second_of_two():
    """A nested model of which the second output counts, its first being of another activation."""
    inputs, x = features()
    inner = keras.Model(inputs, [layers.Dense(3, "relu")(x), layers.Dense(3, "softmax")(x)])
    outer = keras.Input((8, 8, 1))
    return keras.Model(outer, inner(outer)[1])


CLASSES = {
    "dense": lambda: ending(layers.Dense(3, "softmax")),
    "sequential": lambda: keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Rescaling(1 / 255), layers.Flatten(), layers.Dense(3, "softmax")]
    ),
    "activation layer": lambda: ending(layers.Dense(3), layers.Activation("softmax")),
    "softmax layer": lambda: ending(layers.Dense(3), layers.Softmax()),
    "softmax function": lambda: ending(layers.Dense(3), ops.softmax),
    "activation function": lambda: ending(layers.Dense(3), keras.activations.softmax),
    "nested": lambda: nested(layers.Dense(3, "softmax")),
    "nested twice": lambda: nested(keras.Sequential([keras.Input((4,)), layers.Dense(3, "softmax")])),
    "nested softmax layer": lambda: nested(layers.Dense(3), layers.Softmax()),
    "second of two": second_of_two,
}


@pytest.mark.parametrize("name", CLASSES)
def test_logits_are_those_of_the_classes(name):
    model = CLASSES[name]()
    shares = np.asarray(model(IMAGES), np.float64)
    logits = to_logits(model)
    found = np.asarray(logits(IMAGES), np.float64)
    assert np.abs(found.sum(axis=1) - 1).max() > 1e-3 or (found < 0).any()
    np.testing.assert_allclose(np.exp(found) / np.exp(found).sum(axis=1, keepdims=True), shares, rtol=1e-4)
    assert {id(weight) for weight in logits.weights} == {id(weight) for weight in model.weights}


@pytest.mark.parametrize("name", ["softmax layer", "softmax function"])
@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_certain_classes_have_finite_logits(name, policy):
    """Of classes whose probability is 0 in the numbers that the model computes in."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = CLASSES[name]()
    finally:
        keras.config.set_dtype_policy(before)
    model.weights[-1].assign([500.0, 0.0, 0.0])
    logits = np.asarray(to_logits(model)(IMAGES))
    assert np.isfinite(logits).all() and (logits[:, 0] - logits[:, 1] > 50).all()


SCORES = {
    "dense": lambda last: ending(layers.Dense(1, last)),
    "activation layer": lambda last: ending(layers.Dense(1), layers.Activation(last)),
    "nested": lambda last: nested(layers.Dense(1, last)),
}


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("activation", ["sigmoid", "linear"])
def test_one_score_becomes_the_logits_of_two_classes(name, activation):
    model = SCORES[name](activation)
    score = np.asarray(model(IMAGES), np.float64)[:, 0]
    found = np.asarray(to_logits(model)(IMAGES), np.float64)
    assert found.shape == (16, 2) and not found[:, 0].any()
    ours = 1 / (1 + np.exp(-found[:, 1])) if activation == "sigmoid" else found[:, 1]
    np.testing.assert_allclose(ours, score, rtol=1e-5, atol=1e-6)


def test_logits_stay():
    model = ending()
    before = np.asarray(model(IMAGES))
    assert to_logits(model) is model
    np.testing.assert_array_equal(model(IMAGES), before)


@pytest.mark.parametrize(
    "model, message",
    [
        (lambda: ending(layers.Dense(3, "relu", name="end")), "of given, 'end', .*with softmax or no activation"),
        (lambda: ending(layers.Dense(3, "sigmoid")), "with softmax or no activation"),
        (lambda: ending(layers.Dense(1, "softmax")), "with sigmoid or no activation"),
        (lambda: ending(layers.Dense(3, "softmax"), layers.Dropout(0.1, name="end")), "'end', must be a dense layer"),
        (lambda: ending(layers.Dense(3), ops.sigmoid), "'sigmoid', must be a dense layer"),
        (lambda: nested(layers.Dense(3, "tanh", name="end")), "'end', must be a dense layer"),
    ],
)
def test_other_ends_are_refused(model, message):
    with pytest.raises(ValueError, match=message):
        to_logits(model())


def digits(classes=3, **changes):
    images = IMAGES.astype(np.uint8)
    labels = np.arange(16) % classes
    return data.Dataset(
        **{"x_train": images, "y_train": labels, "x_test": images, "y_test": labels, "classes": classes}
    )


def shared_and_adapted():
    """With a layer that is called twice, and one that has adapted to images."""
    normalization, dense = layers.Normalization(axis=None), layers.Dense(4, "relu")
    normalization.adapt(IMAGES)
    inputs = keras.Input((8, 8, 1))
    x = layers.GlobalAveragePooling2D()(DBFConv2D(4, 3, ratio=0.5)(normalization(inputs)))
    return keras.Model(inputs, layers.Dense(3, "softmax")(dense(dense(x))))


@pytest.mark.parametrize("make", [*CLASSES.values(), shared_and_adapted])
def test_a_model_that_teaches_stays_as_it_is(make):
    model = make()
    for number, weight in enumerate(model.weights):  # Others than the layers begin with.
        weight.assign(weight + 0.01 * number)
    model.layers[-1].trainable = False
    outputs, last = np.asarray(model(IMAGES)), last_layer(model)
    activation, trainable = getattr(last, "activation", None), [layer.trainable for layer in model.layers]
    teacher = Teacher("the original", model=model).load(digits())
    assert getattr(last_layer(model), "activation", None) is activation and last_layer(model) is last
    assert [layer.trainable for layer in model.layers] == trainable
    np.testing.assert_array_equal(model(IMAGES), outputs)
    assert not teacher.trainable_variables
    assert not {id(weight) for weight in teacher.weights} & {id(weight) for weight in model.weights}
    np.testing.assert_allclose(ops.softmax(teacher(IMAGES)), outputs, rtol=1e-4)


def test_a_teacher_of_a_file_is_that_of_the_model(tmp_path):
    model = ending(layers.Dense(3, "softmax"))
    model.save(tmp_path / "x.keras")
    ours, theirs = (Teacher(str(tmp_path / "x.keras"), model=given).load(digits()) for given in (None, model))
    np.testing.assert_array_equal(ours(IMAGES), theirs(IMAGES))


def test_a_teacher_has_to_fit():
    for model in (ending(), ending(layers.Dense(1, "sigmoid"))):
        with pytest.raises(ValueError, match=r"The teacher mine takes images \(8, 8, 1\) to . classes; .* 4 classes"):
            Teacher("mine", model=model).load(digits(4))
    inputs, x = features((9, 9, 1))
    with pytest.raises(ValueError, match=r"takes images \(9, 9, 1\)"):
        Teacher("mine", model=keras.Model(inputs, layers.Dense(3)(x))).load(digits())
    inputs, x = features((None, None, 1))
    assert Teacher("mine", model=keras.Model(inputs, layers.Dense(3)(x))).load(digits())(IMAGES).shape == (16, 3)
    assert Teacher("mine", model=ending(layers.Dense(1, "sigmoid"))).load(digits(2))(IMAGES).shape == (16, 2)


def test_a_checkpoint_tells_teachers_apart():
    model = ending()
    kept = Teacher("mine", 3.0, 0.5, model).summary()
    assert {key: kept[key] for key in ("path", "temperature", "weight")} == {
        "path": "mine",
        "temperature": 3.0,
        "weight": 0.5,
    }
    assert Teacher("mine", 3.0, 0.5, model).summary() == kept
    model.weights[0].assign(model.weights[0] + 1)
    assert Teacher("mine", 3.0, 0.5, model).summary() != kept
    assert Teacher("a.keras").summary() == {"path": "a.keras", "temperature": 4.0, "weight": 0.9}


def residual(convolution, classes=3, dropout=0.5):
    """Two blocks, the second with a projection, then two dense layers, the first of them DBF like the convolutions."""
    dense = DBFDense if convolution is DBFConv2D else layers.Dense
    inputs = keras.Input((8, 8, 1))
    x = layers.Activation("relu", name="start")(layers.Conv2D(4, 3, padding="same", name="plain")(inputs))
    branch = layers.BatchNormalization(name="norm")(convolution(4, 3, padding="same", name="one")(x))
    x = layers.Activation("relu", name="block1")(layers.Add(name="sum1")([x, branch]))
    branch = convolution(8, 3, padding="same", name="two")(x)
    x = layers.ReLU(name="block2")(layers.Add(name="sum2")([convolution(8, 1, name="side")(x), branch]))
    x = layers.Dropout(dropout, name="dropped")(layers.GlobalAveragePooling2D(name="pooled")(x))
    x = dense(5, activation="relu", name="hidden")(x)
    return keras.Model(inputs, layers.Dense(classes, name="scores")(x))


def names(model, teacher):
    pairs = shared_features(model, teacher)
    found = [[tensor._keras_history.operation.name for tensor in side] for side in zip(*pairs, strict=True)]
    assert not found or found[0] == found[1]
    return found[0] if found else []


def test_features_are_the_ends_of_blocks():
    """Before the next DBF layer, after what else there is, and not what dropout makes."""
    assert names(residual(DBFConv2D), residual(layers.Conv2D)) == ["block1", "pooled"]
    assert names(residual(layers.Conv2D), residual(layers.Conv2D)) == []  # Nothing differs.


def test_features_of_a_model_inside_of_a_model_are_its_outputs():
    def outer(kind):
        inner = keras.Sequential([keras.Input((8, 8, 1)), kind(4, 3), layers.ReLU(), kind(4, 3)], name="inner")
        return keras.Sequential([keras.Input((8, 8, 1)), inner, layers.Flatten(name="flat"), DBFDense(3)])

    assert names(outer(DBFConv2D), outer(layers.Conv2D)) == ["flat"]


def test_features_of_layers_that_are_called_twice():
    def twice(kind):
        inputs, layer = keras.Input((8, 8, 4)), kind(4, 3, padding="same", name="both")
        x = layers.ReLU(name="between")(layer(inputs))
        return keras.Model(inputs, DBFDense(3)(layers.Flatten(name="flat")(layer(x))))

    assert names(twice(DBFConv2D), twice(layers.Conv2D)) == ["between", "flat"]


def test_another_network_has_no_features_in_common():
    assert names(residual(DBFConv2D), ending()) == []
    lesson = Teacher("mine", features=1.0, model=ending()).lesson(digits(), ending())
    assert lesson.student is None and lesson.teacher(IMAGES).shape == (16, 3)


def test_a_lesson_with_features():
    """The teacher's are those of its file's own graph, and none of its weights is trained."""
    student, model = residual(DBFConv2D), residual(layers.Conv2D)
    lesson = Teacher("mine", features=1.5, model=model).lesson(digits(), student)
    assert lesson.feature_weight == 1.5 and not lesson.teacher.trainable_variables
    logits, block, pooled = lesson.teacher(IMAGES)
    np.testing.assert_allclose(logits, model(IMAGES), rtol=1e-5, atol=1e-5)
    assert block.shape == (16, 8, 8, 4) and pooled.shape == (16, 8)
    shapes = [tuple(tensor.shape) for tensor in lesson.student.outputs]
    assert shapes == [(None, 3), (None, 8, 8, 4), (None, 8)]
    assert Teacher("mine", features=1.5, model=model).summary()["features"] == 1.5
