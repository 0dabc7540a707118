"""A learning rate that a trained network bears."""

from __future__ import annotations

import math

import numpy as np

from dbf_keras.backend import keras
from dbf_keras.train import engine
from dbf_keras.train.recipes import Recipe

# Shares of the recipe's learning rate that are tried, the highest first; the steps of each, in parts of equal length so
# that their loop is compiled once, of which the losses of all but the first count; how many times the least loss of
# all one may have.
_SHARES, _STEPS, _PARTS, _WORSE = (1.0, 0.3, 0.1, 0.03, 0.01), 30, 3, 1.5


def bearable_rate(
    trainer: engine.Engine,
    recipe: Recipe,
    source: engine.Source,
    images: int,
    seed: int,
) -> float:
    """The highest of some learning rates at which some steps from a trained network's weights do it no harm.

    Networks without BatchNorm bear far less than others, and how much is not to be seen from outside.

    Args:
        trainer: has the network, and the recipe's optimizer with a constant learning rate; its variables are as they
            were when this returns.
        recipe: its learning rate is the highest that is tried.
        source: hands out the training images.
        images: how many there are.
        seed: seed of their order and of augmentation.

    Returns:
        The learning rate; the lowest that is tried if the loss is never finite.
    """
    if images < recipe.batch_size:
        return recipe.learning_rate  # What trains says that the batch is too large.
    before = [np.array(keras.ops.convert_to_numpy(variable)) for variable in trainer.variables]
    random = np.random.default_rng([seed, 1 << 20])
    length = max(1, min(_STEPS, images // recipe.batch_size) // _PARTS)
    steps = length * min(_PARTS, images // recipe.batch_size)
    chosen = random.permutation(images)[: steps * recipe.batch_size]
    order = chosen.astype(np.int32).reshape(steps, recipe.batch_size)
    seeds = random.integers(2**30, size=(steps, 2), dtype=np.int32)
    losses = []
    for share in _SHARES:
        for variable, value in zip(trainer.variables, before, strict=True):
            variable.assign(value)
        trainer.optimizer.learning_rate = share * recipe.learning_rate
        parts = [slice(start, start + length) for start in range(0, steps, length)]
        found = [trainer.train(source, order[part], seeds[part])[0] for part in parts]
        losses.append(float(np.mean(found[1:] or found)))
    for variable, value in zip(trainer.variables, before, strict=True):
        variable.assign(value)
    most = _WORSE * min((loss for loss in losses if math.isfinite(loss)), default=0.0)
    fits = [share for share, loss in zip(_SHARES, losses, strict=True) if loss <= most]
    return recipe.learning_rate * (fits[0] if fits else _SHARES[-1])
