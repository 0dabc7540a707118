"""The computation of a layer, in folded form where that is less work (`dbf_keras.folding`)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dbf_keras.backend import convolution, on_accelerator, ops
from dbf_keras.folding import Folding, Steps
from dbf_keras.mixins.kernel import GeneratedKernelMixin

# What a pooled sum costs in training, in multiply-adds: so many that thin layers, which pooling makes slower on CPUs,
# do without.
_POOLING = 200


class FoldedMixin(GeneratedKernelMixin):
    """Computes the layer. A subclass has `_convolve`: the twin's product of inputs and kernel, without bias."""

    def _build_folding(self, filters: int) -> None:
        """Decides whether a layer of so many filters is ever computed in folded form. After `_build_coefficients`."""
        self._folding: Folding | None = None
        if self.codes is None:
            return
        strides, dilations = (getattr(self, name, (1, 1)) for name in ("strides", "dilation_rate"))
        folding = Folding.of(self.codes, self.filter_shape, strides, dilations)
        if folding is None or not folding.saves(filters, _POOLING):
            return
        # The pooled convolution has strides and dilations, of which Keras does one or the other.
        both = max(folding.pooled_strides) > 1 and max(folding.pooled_dilations) > 1
        if folding.pooled and (max(dilations) > 1 or both):
            return
        self._folding = folding

    def _folds(self, inputs: Any) -> bool:
        """Whether to compute in folded form: on CPUs, where the zeros around the images are known.

        On a GPU dense filters are faster: what its libraries are made for counts more than work.
        """
        if self._folding is None or self.given_kernel is not None or on_accelerator():
            return False
        return self._folding.knows_margins(inputs.shape[1:-1], getattr(self, "padding", "valid"))

    def _folded_kernel(self, folding: Folding) -> Any:
        """The kernel of the convolution that is left, in the layout of the twin's."""
        kh, kw = folding.kernel_size
        alpha = self._take(np.argsort(self._grid_codes))  # Ascending codes are sorted by (u, v, w).
        kernel = self._spatial_transform(ops.reshape(alpha, (kh, kw, len(folding.channels), alpha.shape[-1])))
        if not folding.projected:
            kernel = ops.matmul(self._block(self.filter_shape[2]), kernel)
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

        steps = Steps(
            project=lambda inputs, matrix: ops.tensordot(inputs, ops.cast(matrix, self.compute_dtype), axes=1),
            pad=lambda inputs, margins: ops.pad(inputs, [[0, 0], *map(list, margins), [0, 0]]),
            pool=lambda inputs, size, step: ops.average_pool(inputs, size, step, "valid", "channels_last"),
            convolve=convolve,
        )
        kernel = self._generate(self._folded_kernel, folding)
        return folding.apply(inputs, kernel, getattr(self, "padding", "valid"), steps)

    def call(self, inputs: Any) -> Any:
        """The plain twin's computation with the generated filters, in folded form where that is less work."""
        folding = self._folding if self._folds(inputs) else None
        if folding is None:
            outputs = self._convolve(inputs, self.generate_kernel())
        else:
            outputs = self._folded_convolution(inputs, folding)
        if self.bias is not None:
            bias = ops.cast(self.bias, self.compute_dtype)
            outputs = ops.add(outputs, ops.reshape(bias, (1,) * (len(outputs.shape) - 1) + (-1,)))  # As the twin does.
        return outputs if self.activation is None else self.activation(outputs)
