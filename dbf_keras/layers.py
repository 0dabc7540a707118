"""Layers whose filters are learnt combinations of fixed binary codes: `DBFConv2D` and `DBFDense`."""

from __future__ import annotations

import math

import numpy as np

from dbf_keras import codes as dbf_codes
from dbf_keras.backend import WITHOUT_AUTOCAST, compiled, convolution, keras, on_accelerator, ops

_ARGUMENTS = """
        ratio: ρ, the share of the grid's codes that is kept, 0 < ratio <= 1. The layer stores ρ times the numbers of
            its plain twin.
        selection: which codes are kept: the name of an order (``"spatial_tree"``, ``"ovsf"``, ``"sequency"``,
            ``"random:SEED"``, …), a ranked list of grid indices, or ``"sp_ovsf"`` for the paper's flat, clipped codes.
            See `dbf_keras.codes.order`.
        alpha_initializer: initialiser of α; by default normal and such that the filters are white noise of He variance
            in the space of the kept codes: var α = 2 / (P·n) if these are orthogonal. Cannot be combined with
            ``kernel_initializer``.
        alpha_regularizer: regulariser of α.
        alpha_constraint: constraint on α.
        alpha_bits: None, or 2 to 8: compute with α rounded to so many bits, with a symmetric scale a filter. Gradients
            pass as if it were not, so that the layer is trained for ``quantize="int4"`` (4 bits) of the exporter,
            whose file then holds the very same numbers.
        kernel_initializer: if given, filters are drawn from it and α fitted to them.
        kernel_regularizer: regulariser of the generated filters (of α: ``alpha_regularizer``).
        kernel_constraint: not possible for generated filters; must be None (of α: ``alpha_constraint``)."""


# Scales that are tried for α of few bits, as shares of the one at which nothing is clipped.
_CLIPPING = np.linspace(0.4, 1, 13, dtype=np.float32)

# Multiply-adds that pooling one number counts as: so many that thin layers, which it makes slower on CPUs, do without.
_POOLING = 200

# Of a kernel whose codes' inner products are inverted, in blocks of its taps squared.
_MOST_TAPS = 121


def sum_stride(runs: tuple[int, int], strides: tuple[int, int]) -> int:
    """Distance, the same in both directions, of the sums over runs of pixels that a convolution needs."""
    return math.gcd(*runs, *strides)


def same_margins(size: tuple[int, int], kernel_size: tuple[int, int], strides: tuple[int, int]) -> list[list[int]]:
    """Zeros before and after an image's rows and columns with padding 'same'; at strides of one for any size."""
    margins = []
    for pixels, taps, stride in zip(size, kernel_size, strides, strict=True):
        margin = taps - 1 if stride == 1 else max((-(-pixels // stride) - 1) * stride + taps - pixels, 0)
        margins.append([margin // 2, margin - margin // 2])
    return margins


def _take_rows(alpha, rows: np.ndarray):
    """Rows of α [n, K]; row n stands for zeros, the coefficients of a code that is not kept."""
    return ops.take(ops.pad(alpha, [[0, 1], [0, 0]]), rows.astype(np.int32), axis=0)


def _rounded(alpha, bits: int):
    """α [n, K] at 2^bits − 1 levels, symmetric about 0, with the scale of least squared error for each filter."""
    held = ops.stop_gradient(alpha)
    most = 2 ** (bits - 1) - 1
    steps = ops.maximum(ops.max(ops.abs(held), axis=0), 1e-30) / most  # Of scales at which nothing is clipped.

    def rounded(scales):
        return ops.clip(ops.round(held / scales), -most, most) * scales

    trials = ops.reshape(steps, (1, 1, -1)) * _CLIPPING[:, None, None]
    errors = ops.sum(ops.square(rounded(trials) - held), axis=1)
    best = ops.take(_CLIPPING, ops.argmin(errors, axis=0), axis=0)
    return alpha + ops.stop_gradient(rounded(steps * best) - held)


class _DBFMixin:
    """What the layers share: α, the code set, the generated kernel and the folded form.

    Attributes:
        coefficients: α, the variable [n, filters].
        codes: the kept grid indices [n] in the order of α's rows; None for ``"sp_ovsf"``, which has no grid form.
        kernel: the generated filters, in the shape of the plain twin's kernel.
    """

    _ALPHA_OPTIONS = {
        "initializer": keras.initializers,
        "regularizer": keras.regularizers,
        "constraint": keras.constraints,
    }

    def _init_codes(self, ratio, selection, alpha_initializer, alpha_regularizer, alpha_constraint, alpha_bits):
        dbf_codes.count(1, ratio)  # Raises for a ratio outside (0, 1].
        if alpha_bits is not None and alpha_bits not in range(2, 9):
            raise ValueError(f"`alpha_bits` must be None or a whole number from 2 to 8; got {alpha_bits!r}.")
        if self.kernel_constraint is not None:
            raise ValueError(
                f"{type(self).__name__} generates its filters, so `kernel_constraint` cannot act on them; use "
                f"`alpha_constraint`. Got kernel_constraint={self.kernel_constraint}."
            )
        if self.kernel_initializer is not None and alpha_initializer is not None:
            raise ValueError("Give `kernel_initializer` or `alpha_initializer`, not both.")
        self.ratio = float(ratio)
        self.selection = selection if isinstance(selection, str) else np.asarray(selection).tolist()
        self.alpha_initializer = keras.initializers.get(alpha_initializer)
        self.alpha_regularizer = keras.regularizers.get(alpha_regularizer)
        self.alpha_constraint = keras.constraints.get(alpha_constraint)
        self.alpha_bits = alpha_bits

    def _build_codes(self, taps: tuple[int, int, int], filters: int) -> None:
        """Creates α and bias.

        Args:
            taps: (kh, kw, C); a dense layer is (1, 1, C).
            filters: K.
        """
        self._taps = taps
        self._inverse_gram = None
        count = dbf_codes.count(int(np.prod(taps)), self.ratio)
        if self.selection == dbf_codes.SP_OVSF:
            self.codes = None
        else:
            self.codes = dbf_codes.select(taps, self.ratio, self.selection)
            self._prepare_folded(taps, filters)
            if any(size & (size - 1) for size in taps[:2]) and taps[0] * taps[1] <= _MOST_TAPS:
                self._inverse_gram = dbf_codes.inverse_gram(self.codes, taps)
        self.coefficients = self.add_weight(
            name="alpha",
            shape=(count, filters),
            initializer=self._initial_alpha(count),
            regularizer=self.alpha_regularizer,
            constraint=self.alpha_constraint,
            trainable=True,
            **WITHOUT_AUTOCAST,  # α is rounded to `alpha_bits` in float32.
        )
        self.coefficients.projected = self._projected  # `dbf_keras.optimizers.CodeSGD` calls it.
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

    def _initial_alpha(self, count: int):
        if self.alpha_initializer is not None:
            return self.alpha_initializer
        if self.kernel_initializer is None:
            if self._inverse_gram is None:
                return keras.initializers.RandomNormal(stddev=float(np.sqrt(2 / (np.prod(self._taps) * count))))
            white = keras.initializers.RandomNormal(stddev=float(np.sqrt(2 / count)))
            values, vectors = np.linalg.eigh(self._inverse_gram)
            root = vectors * np.sqrt(np.maximum(values, 0))[:, None] @ np.swapaxes(vectors, 1, 2)
            return lambda shape, dtype=None, **kwargs: self._by_channel_code(root, white(shape, dtype))

        def fitted(shape, dtype=None, **kwargs):
            kernel = self.kernel_initializer((*self._taps, shape[-1]), dtype)
            return ops.cast(self._fit(ops.convert_to_numpy(kernel)), dtype or "float32")

        return fitted

    def _fit(self, kernel: np.ndarray) -> np.ndarray:
        """Least-squares α [n, K] of a kernel whose size is that of [kh, kw, C, K] (paper Eq. 2)."""
        filters = np.moveaxis(np.reshape(kernel, (*self._taps, -1)), -1, 0)
        if self.codes is None:
            count = dbf_codes.count(int(np.prod(self._taps)), self.ratio)
            return dbf_codes.sp_ovsf_fit(filters, count, self._taps).T
        return dbf_codes.fit(filters, self.codes, self._taps).T

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
        kernel = np.asarray(kernel, np.float64)
        if kernel.shape != tuple(self.kernel.shape):
            raise ValueError(
                f"Layer '{self.name}' has filters of shape {tuple(self.kernel.shape)}; got {kernel.shape}."
            )
        self.coefficients.assign(self._fit(kernel).astype(np.float32))
        error = np.linalg.norm(ops.convert_to_numpy(self.kernel) - kernel)
        return float(error / max(np.linalg.norm(kernel), np.finfo(np.float64).tiny))

    def _by_channel_code(self, blocks: np.ndarray, alpha):
        """Products of blocks [C, kh·kw, kh·kw] with the rows of α [n, K] that share a channel code."""
        size, filters = alpha.shape
        channels, taps, _ = blocks.shape
        spatial, channel = np.divmod(self.codes, channels)
        places = channel * taps + spatial
        rows = np.full(channels * taps, size)
        rows[places] = np.arange(size)
        grid = ops.reshape(_take_rows(alpha, rows), (channels, taps, filters))
        grid = ops.matmul(ops.cast(blocks, alpha.dtype), grid)
        return ops.take(ops.reshape(grid, (channels * taps, filters)), places.astype(np.int32), axis=0)

    def _projected(self, gradient):
        """α's gradient times (B·Bᵀ)⁻¹: a step on α along it moves the filters along the projection of their gradient.

        1/P stands for the inverse where it is that, and for flat codes and very large kernels.
        """
        if self._inverse_gram is None:
            return gradient / float(np.prod(self._taps))
        return self._by_channel_code(self._inverse_gram, gradient)

    # The kernel as products with small Hadamard blocks, never with a P×P matrix.

    def _spatial_transform(self, grid):
        """Applies the two spatial blocks to [kh, kw, channels, K]."""
        kh, kw, channels, filters = grid.shape
        vertical = ops.matmul(self._block(kh), ops.reshape(grid, (kh, kw * channels * filters)))
        horizontal = ops.matmul(self._block(kw), ops.reshape(vertical, (kh, kw, channels * filters)))
        return ops.reshape(horizontal, (kh, kw, channels, filters))

    def _block(self, size: int):
        return ops.cast(dbf_codes.short_codes(size), self.compute_dtype)

    @property
    def rounded_coefficients(self):
        """α as the layer computes with it [n, filters], float32: rounded to `alpha_bits` if they are given."""
        alpha = ops.convert_to_tensor(self.coefficients)
        return alpha if self.alpha_bits is None else _rounded(alpha, self.alpha_bits)

    def fix_rounding(self) -> None:
        """Sets α to what training rounds it to, so that it is rounded to that everywhere.

        Training to few bits drives filters to where two scales serve equally well. Which one is chosen is then up to
        the last bit of a sum, and compiled code adds up in another order. What is rounded rounds to itself.
        """
        if self.alpha_bits is not None:
            alpha = ops.convert_to_tensor(self.coefficients)
            self.coefficients.assign(compiled(lambda alpha: _rounded(alpha, self.alpha_bits), alpha))

    @property
    def kernel(self):
        """The generated filters (paper Eq. 1), in the shape of the plain twin's kernel."""
        if not self.built:
            raise AttributeError(f"Layer '{self.name}' has no kernel before it is built.")
        return self._twin_shape(self._sp_ovsf_kernel() if self.codes is None else self._grid_kernel())

    def _alpha_rows(self, rows: np.ndarray):
        """`_take_rows` of what the layer computes with."""
        return _take_rows(ops.cast(self.rounded_coefficients, self.compute_dtype), rows)

    def _grid_kernel(self):
        kh, kw, channels = self._taps
        rows = np.full(kh * kw * channels, len(self.codes))
        rows[self.codes] = np.arange(len(self.codes))
        grid = self._alpha_rows(rows)
        spatial = self._spatial_transform(ops.reshape(grid, (kh, kw, channels, grid.shape[-1])))
        return ops.matmul(self._block(channels), spatial)

    def _sp_ovsf_kernel(self):
        taps = int(np.prod(self._taps))
        length = dbf_codes.padded(taps)
        bits = length.bit_length() - 1
        count, filters = self.coefficients.shape
        tree = dbf_codes.bit_reverse(np.arange(length), bits)  # Tree index of every natural index.
        flat = self._alpha_rows(np.minimum(tree, count))
        # H_L = H_a ⊗ H_b with a·b = L: two products with matrices of about √L.
        high = 1 << (bits // 2)
        low = length // high
        rows = ops.matmul(self._block(high), ops.reshape(flat, (high, low * filters)))
        flat = ops.reshape(ops.matmul(self._block(low), ops.reshape(rows, (high, low, filters))), (length, filters))
        return ops.reshape(flat[:taps], (*self._taps, filters))

    # The folded form: codes U × V × W are sums over runs of taps, a ±1 projection to |W| channels and a dense
    # convolution of what is left.

    def _prepare_folded(self, taps: tuple[int, int, int], filters: int) -> None:
        self._folded = None
        factors = dbf_codes.product(self.codes, taps)
        if factors is None:
            return
        kh, kw, channels = taps
        left = len(self.codes) // len(factors.channels)
        strides, dilations = (getattr(self, name, (1, 1)) for name in ("strides", "dilation_rate"))
        step = sum_stride(factors.runs, strides)
        ahead, apart = np.floor_divide(strides, step), np.floor_divide(factors.runs, step)
        # What is left has these strides and dilations, and Keras does one or the other.
        if factors.runs != (1, 1) and (max(dilations) > 1 or max(ahead) > 1 and max(apart) > 1):
            return
        projection = channels * int(np.prod(strides)) if len(factors.channels) < channels else 0
        sums = _POOLING * channels * int(np.prod(ahead)) if factors.runs != (1, 1) else 0
        # Multiply-adds for one output pixel.
        if sums + len(factors.channels) * (projection + left * filters) >= kh * kw * channels * filters:
            return
        self._folded = factors
        # Rows of α sorted into [kh / run, kw / run, |W|].
        self._folded_rows = np.argsort(self.codes)

    def _folded_kernel(self):
        kh, kw, channels = self._taps
        vertical, horizontal = self._folded.runs
        alpha = self._alpha_rows(self._folded_rows)
        shape = kh // vertical, kw // horizontal, len(self._folded.channels), alpha.shape[-1]
        kernel = self._spatial_transform(ops.reshape(alpha, shape))
        if len(self._folded.channels) == channels:
            kernel = ops.matmul(self._block(channels), kernel)
        return self._twin_shape(kernel)

    def _folded_product(self, inputs):
        channels = self._taps[2]
        if len(self._folded.channels) < channels:
            projection = dbf_codes.short_codes(channels)[:, self._folded.channels]
            inputs = ops.tensordot(inputs, ops.cast(projection, self.compute_dtype), axes=1)
        runs = self._folded.runs
        if runs == (1, 1):
            return self._product(inputs, self._folded_kernel())
        if self.padding == "same":
            margins = same_margins(inputs.shape[1:3], self.kernel_size, self.strides)
            inputs = ops.pad(inputs, [[0, 0], *margins, [0, 0]])
        # The mean of a run times its length, a power of two. (Adding up slices is slow to differentiate.)
        step = sum_stride(runs, self.strides)
        inputs = ops.average_pool(inputs, runs, step, "valid", "channels_last")
        kernel = self._folded_kernel() * float(np.prod(runs))
        strides, dilations = (tuple(size // step for size in sizes) for sizes in (self.strides, runs))
        return convolution(inputs, kernel, strides, dilations)

    def _folds(self, inputs) -> bool:
        """Whether to compute in folded form: on CPUs, and with strides and padding 'same' for images of known size.

        On a GPU dense filters are faster: what its libraries are made for counts more than work.
        """
        if getattr(self, "_folded", None) is None or on_accelerator():
            return False
        known = None not in inputs.shape[1:-1] or max(getattr(self, "strides", (1,))) == 1
        return known or self.padding == "valid" or self._folded.runs == (1, 1)

    def call(self, inputs):
        """The plain twin's computation with the generated filters, in folded form where that is less work."""
        outputs = self._folded_product(inputs) if self._folds(inputs) else self._product(inputs, self.kernel)
        if self.kernel_regularizer is not None:
            self.add_loss(self.kernel_regularizer(self.kernel))
        if self.bias is not None:
            outputs = outputs + ops.cast(self.bias, self.compute_dtype)
        return outputs if self.activation is None else self.activation(outputs)

    # Saving: α and bias, and the version of the orders that α's rows depend on.

    def save_own_variables(self, store):
        """Saves α and bias."""
        keras.layers.Layer.save_own_variables(self, store)

    def load_own_variables(self, store):
        """Loads α and bias."""
        keras.layers.Layer.load_own_variables(self, store)

    def get_config(self):
        """The constructor's arguments and the version of the orders."""
        config = super().get_config()
        for gone in ("lora_rank", "lora_alpha", "quantization_config"):
            config.pop(gone, None)
        config.update(
            ratio=self.ratio,
            selection=self.selection,
            alpha_bits=self.alpha_bits,
            order_version=dbf_codes.ORDER_VERSION,
        )
        for option, module in self._ALPHA_OPTIONS.items():
            config[f"alpha_{option}"] = module.serialize(getattr(self, f"alpha_{option}"))
        # None cannot pass through `initializers.serialize` of every Keras.
        for name in ("alpha_initializer", "kernel_initializer"):
            if getattr(self, name) is None:
                config[name] = None
        return config

    @classmethod
    def from_config(cls, config):
        """A layer from `get_config`'s dictionary.

        Raises:
            ValueError: the layer was saved with a version of the orders that this package does not know.
        """
        config = dict(config)
        version = config.pop("order_version", dbf_codes.ORDER_VERSION)
        if version != dbf_codes.ORDER_VERSION:
            raise ValueError(
                f"Layer '{config.get('name')}' was saved with code orders of version {version}; this dbf_keras knows "
                f"version {dbf_codes.ORDER_VERSION}. Use the dbf_keras that saved it."
            )
        return super().from_config(config)

    def enable_lora(self, *args, **kwargs):
        """Not available: a generated kernel has no low-rank update to train."""
        raise ValueError(f"{type(self).__name__} generates its kernel and does not support LoRA.")

    def quantize(self, *args, **kwargs):
        """Not available in Keras; quantise at export, with `dbf_keras.export`."""
        raise ValueError(f"{type(self).__name__} is quantised at export: python -m dbf_keras.export --quantize weights")

    # What tensorflow-model-optimization asks of a layer that it prunes or clusters.

    def get_prunable_weights(self):
        """α: what tfmot.sparsity prunes."""
        return [self.coefficients]

    def get_clusterable_weights(self):
        """α: what tfmot.clustering clusters."""
        return [("coefficients", self.coefficients)]


@keras.saving.register_keras_serializable(package="dbf_keras")
class DBFConv2D(_DBFMixin, keras.layers.Conv2D):  # noqa: D101 - a formatted docstring
    __doc__ = f"""2-D convolution with deterministic binary filters (Tseng et al., IJCAI 2018, Eq. 1 and 4).

    Takes the arguments of ``keras.layers.Conv2D`` and those below; the differences are that ``data_format`` must be
    ``"channels_last"`` and ``groups`` must be 1.

    Args:{_ARGUMENTS}

    Input: [batch, height, width, channels]. Output: [batch, height', width', filters].

    Raises:
        ValueError: an argument outside its range; says what would work.
    """

    def __init__(
        self,
        filters,
        kernel_size,
        strides=(1, 1),
        padding="valid",
        data_format=None,
        dilation_rate=(1, 1),
        groups=1,
        activation=None,
        use_bias=True,
        kernel_initializer=None,
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        activity_regularizer=None,
        kernel_constraint=None,
        bias_constraint=None,
        ratio=1.0,
        selection=dbf_codes.DEFAULT_SELECTION,
        alpha_initializer=None,
        alpha_regularizer=None,
        alpha_constraint=None,
        alpha_bits=None,
        **kwargs,
    ):
        super().__init__(
            filters,
            kernel_size,
            strides=strides,
            padding=padding,
            data_format=data_format,
            dilation_rate=dilation_rate,
            groups=groups,
            activation=activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            **kwargs,
        )
        if self.data_format != "channels_last":
            raise ValueError(
                f"DBFConv2D works on channels_last data, as TensorFlow Lite does; got data_format={self.data_format!r}."
            )
        if self.groups != 1:
            raise ValueError(f"DBFConv2D has no grouped form: `groups` must be 1; got {groups}.")
        self._init_codes(ratio, selection, alpha_initializer, alpha_regularizer, alpha_constraint, alpha_bits)

    def build(self, input_shape):
        """Creates α [n, filters] and bias [filters] for inputs [batch, height, width, channels]."""
        channels = input_shape[-1]
        if channels is None:
            raise ValueError(f"DBFConv2D needs a known number of channels; got input shape {tuple(input_shape)}.")
        self.compute_output_shape(input_shape)  # Raises if the kernel does not fit into the input.
        self._build_codes((*self.kernel_size, int(channels)), self.filters)
        self.input_spec = keras.layers.InputSpec(min_ndim=4, axes={-1: int(channels)})
        self.built = True

    def _product(self, inputs, kernel):
        return self.convolution_op(inputs, kernel)

    def _twin_shape(self, kernel):
        return kernel


@keras.saving.register_keras_serializable(package="dbf_keras")
class DBFDense(_DBFMixin, keras.layers.Dense):  # noqa: D101
    __doc__ = f"""Dense layer whose weight vectors are combinations of binary codes: a 1×1 filter of C taps.

    Takes the arguments of ``keras.layers.Dense`` and those below.

    Args:{_ARGUMENTS}

    Input: [batch, ..., channels]. Output: [batch, ..., units].

    Raises:
        ValueError: an argument outside its range; says what would work.
    """

    def __init__(
        self,
        units,
        activation=None,
        use_bias=True,
        kernel_initializer=None,
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        activity_regularizer=None,
        kernel_constraint=None,
        bias_constraint=None,
        ratio=1.0,
        selection=dbf_codes.DEFAULT_SELECTION,
        alpha_initializer=None,
        alpha_regularizer=None,
        alpha_constraint=None,
        alpha_bits=None,
        **kwargs,
    ):
        super().__init__(
            units,
            activation=activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            **kwargs,
        )
        self._init_codes(ratio, selection, alpha_initializer, alpha_regularizer, alpha_constraint, alpha_bits)

    def build(self, input_shape):
        """Creates α [n, units] and bias [units] for inputs [batch, ..., channels]."""
        channels = input_shape[-1]
        if channels is None:
            raise ValueError(f"DBFDense needs a known number of channels; got input shape {tuple(input_shape)}.")
        self._build_codes((1, 1, int(channels)), self.units)
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: int(channels)})
        self.built = True

    def _product(self, inputs, kernel):
        return ops.tensordot(inputs, kernel, axes=1)

    def _twin_shape(self, kernel):
        return ops.reshape(kernel, kernel.shape[-2:])


def custom_objects() -> dict[str, type]:
    """What ``tf.keras.models.load_model(path, custom_objects=...)`` needs to load a DBF model."""
    return {layer.__name__: layer for layer in (DBFConv2D, DBFDense)}
