"""The learning curve."""

from __future__ import annotations

import os

import numpy as np

from dbf_keras.train.checkpoint import History

# The prefix of a history's keys, and what is written beside the line.
_CURVES = {"": "training", "val_": "test"}

# Losses over so many times the highest in training are outside of the picture.
_OUTLIER = 2


def plot_history(history: History, path: str | os.PathLike) -> None:
    """Draws loss and error rate on training and test set against the epoch, as a PNG.

    A loss far above the others, as of a test before BatchNorm has seen enough, is outside of the picture, which says
    so.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    epochs = [row["epoch"] for row in history]
    losses = {label: np.array([row[f"{prefix}loss"] for row in history]) for prefix, label in _CURVES.items()}
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    loss, error = figure.subplots(1, 2)
    marker = "o" if len(epochs) == 1 else ""  # A line of one point cannot be seen.
    for prefix, label in _CURVES.items():
        loss.plot(epochs, losses[label], marker=marker, label=label)
        error.plot(epochs, [100 * (1 - row[f"{prefix}accuracy"]) for row in history], marker=marker, label=label)
    together = np.concatenate(list(losses.values()))
    limit = _OUTLIER * losses["training"].max()
    outside = int(np.sum(together > limit))
    loss.set(xlabel="epoch", ylabel="loss")
    if outside:
        loss.set_ylim(0, 1.05 * together[together <= limit].max())
        loss.set_title(f"{outside} outside, up to {np.nanmax(together):.3g}", fontsize="small", loc="right")
    error.set(xlabel="epoch", ylabel="error rate, %", yscale="symlog", ylim=(0, None))
    for axes in (loss, error):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
