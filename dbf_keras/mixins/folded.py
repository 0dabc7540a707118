"""The computation of a layer, in folded form where that is less work (`dbf_keras.folding`)."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from dbf_keras.backend import convolution, keras, may_be_exported, on_accelerator, ops
from dbf_keras.folding import Folding, Steps
from dbf_keras.mixins.coefficients import take_codes
from dbf_keras.mixins.kernel import GeneratedKernelMixin
from dbf_keras.mixins.transforms import Projection, combine

# What a pooled sum costs in training, in multiply-adds: so many that thin layers, which pooling makes slower on CPUs,
# do without.
_POOLING = 200

# Inputs of a dense layer in one step: so many that layers of a few classes do without projecting them.
_ROWS = 8


class FoldedMixin(GeneratedKernelMixin):
    """Computes the layer. A subclass has `_convolve`: the twin's product of inputs and kernel, without bias."""

    def _build_folding(self, filters: int) -> None:
        """Decides whether a layer of so many filters is ever computed in folded form. After `_build_coefficients`."""
        self._folding: Folding | None = None
        self._projection: Projection | None = None
        if self.codes is None:
            return
        strides, dilations = (getattr(self, name, (1, 1)) for name in ("strides", "dilation_rate"))
        folding = Folding.of(self.codes, self.filter_shape, strides, dilations)
        if folding is None:
            return
        projection = Projection(self.filter_shape[2], folding.channels)
        dense = float(math.prod(self.filter_shape) * filters)
        if isinstance(self, keras.layers.Dense) and projection.factored:
            # For the few inputs of a dense layer, generating the kernel is the larger part of the work.
            folding = dataclasses.replace(folding, absorbs=False)
            dense += projection.work * filters / _ROWS
        if folding.multiply_adds(filters, _POOLING, projection.work) >= dense:
            return
        # The pooled convolution has strides and dilations, of which Keras does one or the other.
        both = max(folding.pooled_strides) > 1 and max(folding.pooled_dilations) > 1
        if folding.pooled and (max(dilations) > 1 or both):
            return
        self._folding, self._projection = folding, projection

    def _folds(self, inputs: Any, training: Any = None) -> bool:
        """Whether to compute in folded form: on CPUs, where the zeros around the images are known.

        On a GPU dense filters are faster: what its libraries are made for counts more than work. In what may be
        exported, filters are generated, so that TFLite's converter finds a plain layer with constant filters.
        """
        if self._folding is None or self.given_kernel is not None or on_accelerator():
            return False
        trained = isinstance(training, bool | int) and training  # A tensor in some graphs of Keras 2.
        if not trained and may_be_exported():
            return False
        return self._folding.knows_margins(inputs.shape[1:-1], getattr(self, "padding", "valid"))

    def _folded_kernel(self, folding: Folding) -> Any:
        """The kernel of the convolution that is left, in the layout of the twin's."""
        kh, kw = folding.kernel_size
        alpha = ops.cast(self.rounded_coefficients, self.compute_dtype)
        alpha = take_codes(alpha, np.argsort(self._grid_codes))  # Ascending codes are sorted by (u, v, w).
        kernel = self._spatial_transform(ops.reshape(alpha, (kh, kw, len(folding.channels), alpha.shape[-1])))
        if not folding.projected:
            kernel = ops.reshape(kernel, (kh * kw, *kernel.shape[2:]))
            kernel = ops.reshape(combine(kernel, self.filter_shape[2]), (kh, kw, *kernel.shape[1:]))
        # Pools give means, the quickest to differentiate, so the kernel is multiplied by their size, a power of two.
        kernel = kernel * float(math.prod(folding.pool_size))
        return ops.reshape(kernel, kernel.shape[-len(self.twin_shape) :])

    def _folded_convolution(self, inputs: Any, folding: Folding) -> Any:
        def convolve(
            inputs: Any, kernel: Any, strides: tuple[int, int], padding: str, dilations: tuple[int, int]
        ) -> Any:
            if folding.pooled:
                return convolution(inputs, kernel, strides, dilations)
            return self._convolve(inputs, kernel)

        assert self._projection is not None
        steps = Steps(
            project=self._projection,
            pad=lambda inputs, margins: ops.pad(inputs, [[0, 0], *map(list, margins), [0, 0]]),
            pool=lambda inputs, size, step: ops.average_pool(inputs, size, step, "valid", "channels_last"),
            convolve=convolve,
        )
        kernel = self._generate(self._folded_kernel, folding)
        return folding.apply(inputs, kernel, getattr(self, "padding", "valid"), steps)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """The plain twin's computation with the generated filters, in folded form where that is less work."""
        empty = inputs.shape[0] == 0
        if empty:  # TensorFlow's convolutions on oneDNN return an empty batch in the shape of their input.
            inputs = ops.pad(inputs, [[0, 1], *[[0, 0]] * (len(inputs.shape) - 1)])
        folding = self._folding if self._folds(inputs, training) else None
        if folding is None:
            outputs = self._convolve(inputs, self.generate_kernel())
        else:
            outputs = self._folded_convolution(inputs, folding)
        if self.bias is not None:
            bias = ops.cast(self.bias, self.compute_dtype)
            outputs = ops.add(outputs, ops.reshape(bias, (1,) * (len(outputs.shape) - 1) + (-1,)))  # As the twin does.
        outputs = outputs if self.activation is None else self.activation(outputs)
        return outputs[:0] if empty else outputs
