"""The coefficients α of a layer: which codes they belong to, how they start, how they are fitted and rounded."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dbf_keras import codes as dbf_codes
from dbf_keras.backend import WITHOUT_AUTOCAST, MixinBase, compiled, keras, ops
from dbf_keras.mixins import rounding

# The most spatial taps (kh·kw) of a kernel whose Gram matrix is inverted: a block has as many numbers as this squared.
_MOST_INVERTED_TAPS = 121

# Rows of a kernel that are compared at once.
_ROWS = 256


def take_codes(alpha: Any, places: np.ndarray) -> Any:
    """The coefficients at these places of α [n, K]; place n stands for zeros, as of a code that is not kept."""
    kept = alpha.shape[0]
    zero = places == kept
    if zero.any():
        rows = kept + np.count_nonzero(zero)
        places = np.where(zero, kept - 1 + np.cumsum(zero), places)
        # TFLite's converter computes an operation on constants ahead of time only if that doubles them at most.
        while kept < rows:
            more = min(kept, rows - kept)
            alpha = ops.pad(alpha, [[0, more], [0, 0]])
            kept += more
    return ops.take(alpha, places.astype(np.int32), axis=0)


class CoefficientsMixin(MixinBase):
    """Creates, fits and rounds the coefficients.

    The variable holds α times `coefficient_scale`, √P for P taps: the coefficients of codes of unit norm. A step of any
    optimizer on these is that step on the filters, as far as the codes are orthogonal and reach.

    Attributes:
        coefficients: the variable [n, filters], α times `coefficient_scale`.
        coefficient_scale: √P; 1 in layers of files before version 0.2, which stay as they are.
        codes: the kept grid indices [n] in the order of α's first axis; None for ``"sp_ovsf"``, which has no grid form.
        filter_shape: (kh, kw, C), the taps of a filter; a dense layer's is (1, 1, C).
        fixed_steps: whether training leaves the steps of the levels as they are.
    """

    fixed_steps = False

    def _init_coefficients(
        self,
        ratio: float,
        selection: dbf_codes.Selection,
        alpha_initializer: Any,
        alpha_regularizer: Any,
        alpha_constraint: Any,
        alpha_bits: int | None,
        alpha_step: float | None,
        dead_zone: float,
        rate_weight: float,
    ) -> None:
        """Checks and keeps the arguments that DBF layers have besides their twin's."""
        dbf_codes.count(1, ratio)  # Raises for a ratio outside (0, 1].
        if alpha_step is not None and not 0 < alpha_step < math.inf:
            raise ValueError(f"`alpha_step` must be None or over 0; got {alpha_step}.")
        if not 0 <= dead_zone < 0.5:
            raise ValueError(f"`dead_zone` is a share of a step, at least 0 and under 0.5; got {dead_zone}.")
        if not 0 <= rate_weight < math.inf:
            raise ValueError(f"`rate_weight` must be at least 0; got {rate_weight}.")
        if alpha_step is None and (dead_zone or rate_weight):
            raise ValueError("`dead_zone` and `rate_weight` need `alpha_step`, which says how α is rounded.")
        if alpha_bits is not None and alpha_bits not in range(2, 9):
            raise ValueError(f"`alpha_bits` must be None or a whole number from 2 to 8; got {alpha_bits!r}.")
        if self.kernel_constraint is not None:
            raise ValueError(
                f"{type(self).__name__} generates its filters, so `kernel_constraint` cannot act on them; use "
                f"`alpha_constraint`. Got kernel_constraint={self.kernel_constraint}."
            )
        if getattr(self, "quantization_mode", None) is not None:  # A dtype policy such as "int8_from_float32".
            raise ValueError(
                f"{type(self).__name__} is quantised at export and not by a dtype policy; got dtype="
                f"{self.dtype_policy.name!r}. Give it a floating one, such as 'float32' or 'mixed_bfloat16'."
            )
        if self.kernel_initializer is not None and alpha_initializer is not None:
            raise ValueError("Give `kernel_initializer` or `alpha_initializer`, not both.")
        self.ratio = float(ratio)
        self.selection = selection if isinstance(selection, str) else np.asarray(selection).tolist()
        self.alpha_initializer = keras.initializers.get(alpha_initializer)
        self.alpha_regularizer = keras.regularizers.get(alpha_regularizer)
        self.alpha_constraint = keras.constraints.get(alpha_constraint)
        self.alpha_bits = alpha_bits
        self.alpha_step = alpha_step
        self.dead_zone = dead_zone
        self.rate_weight = rate_weight
        self.unit_norm = True

    def _build_coefficients(self, filter_shape: tuple[int, int, int], filters: int) -> None:
        """Creates α and bias.

        Args:
            filter_shape: (kh, kw, C); a dense layer's is (1, 1, C).
            filters: K.
        """
        self.filter_shape = filter_shape
        self.coefficient_scale = math.sqrt(math.prod(filter_shape)) if self.unit_norm else 1.0
        self._inverse_gram: np.ndarray | None = None
        count = dbf_codes.count(math.prod(filter_shape), self.ratio)
        if self.selection == dbf_codes.SP_OVSF:
            self.codes: np.ndarray | None = None
        else:
            self.codes = dbf_codes.select(filter_shape, self.ratio, self.selection)
            if (
                any(size & (size - 1) for size in filter_shape[:2])
                and math.prod(filter_shape[:2]) <= _MOST_INVERTED_TAPS
            ):
                self._inverse_gram = dbf_codes.inverse_gram(self.codes, filter_shape)
        initial = self._initial_alpha(count)
        self.coefficients = self.add_weight(
            name="alpha",
            shape=(count, filters),
            initializer=lambda shape, dtype=None, **_: initial(shape, dtype=dtype) * self.coefficient_scale,
            # Keras asks variables for their penalties: before any call, once however often a layer is called, and no
            # more once it is frozen.
            regularizer=self._penalty if self.alpha_regularizer or self.kernel_regularizer else None,
            constraint=self.alpha_constraint,
            trainable=True,
            **WITHOUT_AUTOCAST,  # They are rounded to `alpha_bits` in float32.
        )
        self.coefficients.projected = self._projected  # `dbf_keras.train.optimizers.CodeSGD` calls it.
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias",
                shape=(filters,),
                initializer=self.bias_initializer,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
                trainable=True,
            )
        self.steps = self.rate = None
        if self.alpha_step is not None:
            # Keras asks a variable's regularizer for its loss once, however often the layer is called.
            self.steps = self.add_weight(
                name="steps", shape=(filters,), initializer="ones", regularizer=self._rate_loss, **WITHOUT_AUTOCAST
            )
            self.rate = self.add_weight(name="rate", shape=(), initializer="zeros", trainable=False, **WITHOUT_AUTOCAST)
            self.rate.assign(self.rate_weight)
            self._reset_steps()

    def _reset_steps(self) -> None:
        """Sets the steps to the share `alpha_step` of the root mean square of each filter's coefficients."""
        if self.steps is not None:
            squares = np.square(ops.convert_to_numpy(self.coefficients), dtype=np.float64)
            self.steps.assign(self.alpha_step * np.sqrt(np.maximum(squares.mean(axis=0), 1e-12)))

    def _penalty(self, held: Any) -> Any:
        """What the regularisers of α, as it is held, and of the filters add to the loss."""
        penalties = []
        if self.alpha_regularizer is not None:
            penalties.append(self.alpha_regularizer(held))
        if self.kernel_regularizer is not None:
            penalties.append(self.kernel_regularizer(self.generate_full_kernel()))
        return sum(penalties)

    def _initial_alpha(self, count: int) -> Callable:
        if self.alpha_initializer is not None:
            return self.alpha_initializer
        if self.kernel_initializer is None:
            return self._white_noise(count)

        def fitted(shape: Sequence[int], dtype: Any = None, **kwargs: Any) -> Any:
            kernel = self.kernel_initializer((*self.filter_shape, shape[-1]), dtype)
            return ops.cast(self._fit(ops.convert_to_numpy(kernel)), dtype or "float32")

        return fitted

    def _white_noise(self, count: int) -> Callable:
        """An initialiser of α with which the filters are white noise of He variance in the space of the kept codes."""
        inverse_gram = self._inverse_gram
        if inverse_gram is None:
            return keras.initializers.RandomNormal(stddev=math.sqrt(2 / (math.prod(self.filter_shape) * count)))
        white = keras.initializers.RandomNormal(stddev=math.sqrt(2 / count))
        values, vectors = np.linalg.eigh(inverse_gram)
        root = vectors * np.sqrt(np.maximum(values, 0))[:, None] @ np.swapaxes(vectors, 1, 2)
        return lambda shape, dtype=None, **kwargs: self._by_channel_code(root, white(shape, dtype))

    def _fit(self, kernel: np.ndarray) -> np.ndarray:
        """Least-squares α [n, K] of a kernel whose size is that of [kh, kw, C, K] (paper Eq. 2)."""
        filters = np.moveaxis(np.reshape(kernel, (*self.filter_shape, -1)), -1, 0)
        if self.codes is None:
            count = dbf_codes.count(math.prod(self.filter_shape), self.ratio)
            return dbf_codes.sp_ovsf_fit(filters, count, self.filter_shape).T
        return dbf_codes.fit(filters, self.codes, self.filter_shape).T

    def fit_kernel(self, kernel: np.ndarray) -> float:
        """Sets α so that the generated filters come closest to given ones (paper Eq. 2); exact at ρ = 1.

        Args:
            kernel: filters in the shape of the plain twin's kernel.

        Returns:
            The relative error ‖generated − given‖ / ‖given‖.

        Raises:
            ValueError: the layer is not built or the shapes differ.
        """
        if not self.built:
            raise ValueError(f"Build layer '{self.name}' before fitting it.")
        kernel = np.asarray(kernel)
        expected = self.twin_shape
        if kernel.shape != expected:
            raise ValueError(f"Layer '{self.name}' has filters of shape {expected}; got {kernel.shape}.")
        self.coefficients.assign((self._fit(kernel) * self.coefficient_scale).astype(np.float32))
        self._reset_steps()
        generated, given = (
            np.reshape(taps, (-1, kernel.shape[-1])) for taps in (ops.convert_to_numpy(self.kernel), kernel)
        )
        error, energy = 0.0, np.finfo(np.float64).tiny
        for row in range(0, len(given), _ROWS):  # In float64, which the whole kernel might be too large for.
            part = np.asarray(given[row : row + _ROWS], np.float64)
            error += np.sum(np.square(generated[row : row + _ROWS] - part))
            energy += np.sum(np.square(part))
        return math.sqrt(error / energy)

    @property
    def twin_shape(self) -> tuple[int, ...]:
        """The shape of the plain twin's kernel."""
        return *self.filter_shape, int(self.coefficients.shape[-1])

    @property
    def _grid_codes(self) -> np.ndarray:
        """`codes` of a layer that has a grid form."""
        assert self.codes is not None
        return self.codes

    def _by_channel_code(self, blocks: np.ndarray, alpha: Any) -> Any:
        """Products of blocks [C, kh·kw, kh·kw] with those coefficients of α [n, K] that share a channel code."""
        size, filters = alpha.shape
        channels, taps, _ = blocks.shape
        spatial, channel = np.divmod(self._grid_codes, channels)
        by_channel = channel * taps + spatial
        places = np.full(channels * taps, size)
        places[by_channel] = np.arange(size)
        grid = ops.reshape(take_codes(alpha, places), (channels, taps, filters))
        grid = ops.matmul(ops.cast(blocks, alpha.dtype), grid)
        return ops.take(ops.reshape(grid, (channels * taps, filters)), by_channel.astype(np.int32), axis=0)

    def _projected(self, gradient: Any) -> Any:
        """The variable's gradient made such that a step along it moves the filters along their projected gradient.

        That takes (B·Bᵀ)⁻¹, of which the identity stands for P·(B·Bᵀ)⁻¹ where it is that, and for flat codes and very
        large kernels.
        """
        squared = self.coefficient_scale**2
        if self._inverse_gram is None:
            return gradient if self.unit_norm else gradient / float(math.prod(self.filter_shape))
        return self._by_channel_code(squared * self._inverse_gram, gradient)

    @property
    def rounded_coefficients(self) -> Any:
        """α as the layer computes with it [n, filters], float32, rounded if `alpha_bits` or `alpha_step` is given."""
        steps = None if self.steps is None else ops.convert_to_tensor(self.steps)
        return self._rounded(ops.convert_to_tensor(self.coefficients), steps)

    def _rounded(self, held: Any, steps: Any) -> Any:
        """`rounded_coefficients` of some filters, of whose variables' numbers [n, K] and [K] that takes."""
        if steps is not None:
            levels, _, steps = self._levels(held, steps)
            return levels * steps
        if self.alpha_bits is not None:
            held = rounding.rounded(held, self.alpha_bits)
        return (
            held / self.coefficient_scale
        )  # Also by 1: gradients of it are dense, of what is gathered from they are not.

    def _all_levels(self) -> tuple[Any, Any, Any]:
        """`_levels` of all filters."""
        return self._levels(ops.convert_to_tensor(self.coefficients), ops.convert_to_tensor(self.steps))

    def _levels(self, alpha: Any, steps: Any) -> tuple[Any, Any, Any]:
        """Of the variables' numbers of K filters: levels and their magnitudes [n, K], and steps of α [K], float32."""
        assert self.alpha_step is not None
        largest = 2 ** ((self.alpha_bits or 8) - 1) - 1
        # The gradient of a step is the sum of its filter's; scaled like this it moves as fast, for its size, as they do
        # (Esser et al., ICLR 2020).
        share = 1 / math.sqrt(self.coefficients.shape[0] * max(1.0, 1 / self.alpha_step))
        share = 0.0 if self.fixed_steps else share
        slow = steps * share + ops.stop_gradient(steps * (1 - share))
        steps = ops.maximum(ops.abs(slow), 1e-12) / self.coefficient_scale
        steps = rounding.straight_through(steps, rounding.short_steps(steps))
        return *rounding.levels(alpha / self.coefficient_scale, steps, largest, self.dead_zone), steps

    @property
    def coded_bits(self) -> Any:
        """An estimate of the bits that the levels of α take when coded: a scalar, differentiable.

        It is their entropy if those of each spatial code are distributed as `rounding.geometric_bits` says.

        Raises:
            AttributeError: the layer has no `alpha_step`, so no levels.
        """
        if self.alpha_step is None:
            raise AttributeError(f"Layer '{self.name}' has no `alpha_step`, so its coefficients are not coded.")
        magnitudes = ops.mean(self._all_levels()[1], axis=1)
        count, filters = self.coefficients.shape
        spatial = np.zeros(count, int) if self.codes is None else self._grid_codes // self.filter_shape[2]
        bands = (spatial == np.unique(spatial)[:, None]).astype(np.float32)
        sizes = bands.sum(axis=1)
        means = ops.matmul(bands / sizes[:, None], magnitudes[:, None])[:, 0]
        return filters * ops.sum(sizes * rounding.geometric_bits(means))

    def _rate_loss(self, steps: Any) -> Any:
        """The loss by `rate`: so much for each 1,000 bytes of `coded_bits`."""
        return ops.convert_to_tensor(self.rate) * self.coded_bits / 8000

    def fix_rounding(self) -> None:
        """Sets the variables to what training rounds them to, so that they are rounded to that everywhere.

        Training to few bits drives filters to where two scales serve equally well. Which one is chosen is then up to
        the last bit of a sum, and compiled code adds up in another order. What is rounded rounds to itself.
        """
        if self.steps is not None:
            levels, _, steps = compiled(self._all_levels)
            self.coefficients.assign(levels * steps * self.coefficient_scale)
            self.steps.assign(steps * self.coefficient_scale)
        elif self.alpha_bits is not None:
            bits = self.alpha_bits
            held = ops.convert_to_tensor(self.coefficients)
            self.coefficients.assign(compiled(lambda held: rounding.rounded(held, bits), held))
