"""`compile` and `fit` with every optimizer of Keras; those of `tests/test_stock_training.py` are not repeated."""

import numpy as np
import pytest

from .tools import CROSS_ENTROPY, LEGACY, LEGACY_REASON, DBFDense, alike, examples, keras, layers, networks

pytestmark = pytest.mark.skipif(LEGACY, reason=LEGACY_REASON)

optimizers = keras.optimizers

# Steps of these do not depend on the basis in which filters are written: at ρ = 1 the training is the twin's.
SAME = {
    "SGD": lambda: optimizers.SGD(0.1),
    "use_ema": lambda: optimizers.SGD(0.1, momentum=0.5, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=5),
    "gradient_accumulation_steps": lambda: optimizers.SGD(0.2, momentum=0.9, gradient_accumulation_steps=3),
    "loss_scale_factor": lambda: optimizers.SGD(0.1, loss_scale_factor=128.0),
    "LossScaleOptimizer": lambda: optimizers.LossScaleOptimizer(
        optimizers.SGD(0.1, momentum=0.9), dynamic_growth_steps=4
    ),
    "schedule": lambda: optimizers.SGD(optimizers.schedules.CosineDecay(0.1, 30)),
    "MultiOptimizer": lambda: optimizers.SGD(0.1),  # Made for each model by `multiple`.
}
# Steps of these are taken number by number, or by an approximate factorisation: as good on average.
ALIKE = {
    "clipvalue": lambda: optimizers.SGD(0.1, clipvalue=0.01),
    "Adam": lambda: optimizers.Adam(3e-3, global_clipnorm=1.0),
    "AMSGrad": lambda: optimizers.Adam(3e-3, amsgrad=True),
    "AdamW": lambda: optimizers.AdamW(3e-3, weight_decay=0.01),
    "RMSprop": lambda: optimizers.RMSprop(1e-3, momentum=0.5, centered=True),
    "Adagrad": lambda: optimizers.Adagrad(0.03),
    "Adadelta": lambda: optimizers.Adadelta(3.0),
    "Adamax": lambda: optimizers.Adamax(5e-3),
    "Nadam": lambda: optimizers.Nadam(3e-3),
    "Ftrl": lambda: optimizers.Ftrl(0.1),
    "Lion": lambda: optimizers.Lion(1e-3),
    "Lamb": lambda: optimizers.Lamb(0.01),
    "Adafactor": lambda: optimizers.Adafactor(0.02, relative_step=False),
    # Keras gives kernels of four axes to Muon's AdamW, and coefficients to Muon itself, which has its own test.
    "Muon": lambda: optimizers.Muon(0.01, exclude_layers=["first", "second"]),
    "ScheduleFreeAdamW": lambda: optimizers.ScheduleFreeAdamW(3e-3, warmup_steps=2),
}
STEPS = 30


def losses(model, optimizer, **options):
    """The losses of the first steps, in batches of 16."""
    model.compile(optimizer, CROSS_ENTROPY, **options)
    x, y = examples(16 * STEPS)
    seen = []
    callback = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append((batch + 1, logs["loss"]))
    )
    model.fit(x, y, batch_size=16, shuffle=False, verbose=0, callbacks=[callback])
    steps, means = np.array(seen).T  # Keras reports the mean so far.
    return np.diff(steps * means, prepend=0) / np.diff(steps, prepend=0)


def stock_names():
    return {
        name
        for name in dir(optimizers)
        if isinstance(getattr(optimizers, name), type) and issubclass(getattr(optimizers, name), optimizers.Optimizer)
    }


def multiple(model):
    """Momentum for the last layer, none for the others."""
    plain, fast = optimizers.SGD(0.1), optimizers.SGD(0.1, momentum=0.9)
    last = {variable.path for variable in model.get_layer("last").trainable_variables}
    return optimizers.MultiOptimizer(lambda variable: fast if variable.path in last else plain)


@pytest.mark.parametrize("name", SAME)
def test_training_is_the_twin_s(name):
    if name == "MultiOptimizer" and not hasattr(optimizers, name):
        pytest.skip("this Keras has none")
    ours, theirs = (
        losses(model, multiple(model) if name == "MultiOptimizer" else SAME[name]()) for model in networks()
    )
    assert theirs[-5:].mean() < theirs[:5].mean() - 0.1
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    "name", [name for name in ALIKE if name in stock_names() or not name[0].isupper() or name == "AMSGrad"]
)
def test_training_is_as_good_as_the_twin_s(name):
    """The loss falls by at least four fifths of what the twin's does, at ρ = 1; the seeds differ by a tenth."""
    ours, theirs = (losses(model, ALIKE[name]()) for model in networks())
    assert theirs[-5:].mean() < theirs[:5].mean() - 0.1
    assert ours[-5:].mean() - ours[:5].mean() < 0.8 * (theirs[-5:].mean() - theirs[:5].mean())


def test_muon_trains_dense_layers_as_the_twin_s():
    """Both hold a matrix, whose orthogonalised step does not depend on the basis."""
    if not hasattr(optimizers, "Muon"):
        pytest.skip("this Keras has no Muon")
    found = []
    models = []
    for dense in (DBFDense, layers.Dense):
        first, last = dense(32, activation="relu"), dense(4)
        models.append(keras.Sequential([keras.Input((8, 8, 4)), layers.Flatten(), first, last]))
    for ours, theirs in zip(models[0].layers[1:], models[1].layers[1:], strict=True):
        alike(ours, theirs)
    for model in models:
        found.append(losses(model, optimizers.Muon(0.01)))
    np.testing.assert_allclose(*found, rtol=0, atol=1e-3)
    assert found[1][-5:].mean() < found[1][:5].mean() - 0.1


def test_every_optimizer_of_keras_has_a_row():
    rows = set(SAME) | set(ALIKE) | {"Optimizer"}
    assert stock_names() <= rows


@pytest.mark.parametrize("ratio", [0.5, 0.25])
def test_fewer_codes_train_too(ratio):
    ours, theirs = (losses(model, optimizers.SGD(0.1, momentum=0.9)) for model in networks(ratio=ratio))
    assert ours[-5:].mean() - ours[:5].mean() < 0.5 * (theirs[-5:].mean() - theirs[:5].mean())


@pytest.mark.parametrize(
    "options",
    [{"jit_compile": True}, {"jit_compile": False}, {"run_eagerly": True}, {"steps_per_execution": 5}],
    ids=lambda options: "-".join(options),
)
@pytest.mark.parametrize("ratio", [1, 0.25])
def test_each_way_of_running_a_step_gives_the_same(options, ratio):
    """`ratio` 1 is held to the twin, 1/4 to how the same network trains without options."""
    model, other = networks(ratio=ratio)
    if ratio < 1:
        other = keras.models.clone_model(model)
        other.set_weights(model.get_weights())
    ours, theirs = losses(model, optimizers.SGD(0.1), **options), losses(other, optimizers.SGD(0.1))
    theirs = theirs.reshape(len(ours), -1).mean(1)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-3)


def test_a_train_step_of_one_s_own():
    tf = pytest.importorskip("tensorflow", reason="the step is written in TensorFlow")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the step is written in TensorFlow")

    class Custom(keras.Model):
        def train_step(self, data):
            x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
            with tf.GradientTape() as tape:
                loss = self.compute_loss(x=x, y=y, y_pred=self(x, training=True))
            gradients = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply(gradients, self.trainable_variables)
            return {"loss": loss}

    x, y = examples()
    found = []
    for model in networks(kernel_regularizer="l2"):
        custom = Custom(model.inputs, model.outputs)
        custom.compile(optimizers.SGD(0.1), CROSS_ENTROPY)
        found.append([float(custom.train_on_batch(x, y, return_dict=True)["loss"]) for _ in range(8)])
    np.testing.assert_allclose(*found, rtol=0, atol=1e-3)
    assert found[0][-1] < found[0][0] - 0.03


@pytest.mark.parametrize("ratio", [1, 0.25])
def test_one_seed_one_result(ratio):
    found = []
    for _ in range(2):
        keras.utils.set_random_seed(3)
        found.append(losses(networks(ratio=ratio)[0], optimizers.SGD(0.1)))
    np.testing.assert_array_equal(*found)
