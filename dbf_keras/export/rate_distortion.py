"""Temporary."""

from __future__ import annotations
import dataclasses
import numpy as np
from dbf_keras.backend import ops
from dbf_keras.export import coded
from dbf_keras.export import quantization


@dataclasses.dataclass(frozen=True)
class Levels:
    levels: np.ndarray
    steps: np.ndarray


def trained(layer):
    if layer.steps is None or layer.codes is None:
        return None
    levels, _, steps = layer._all_levels()
    o = np.argsort(layer.codes)
    return Levels(
        np.rint(ops.convert_to_numpy(levels)).astype(np.int8)[o].T, ops.convert_to_numpy(steps).astype(np.float64)
    )


def plain(filters):
    steps = np.abs(filters.alpha).max(1) / 127
    steps = coded.short(np.where(steps > 0, steps, 1))
    return Levels(np.clip(np.rint(filters.alpha / steps[:, None]), -127, 127).astype(np.int8), steps)
