"""Layers whose filters are learnt combinations of fixed binary codes: `DBFConv2D` and `DBFDense`.

Their constructors spell out the parameters of their plain twins, for editors and `inspect.signature`, and so are long.
What the layers do is in `dbf_keras.mixins`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dbf_keras.backend import keras, ops
from dbf_keras.codes import DEFAULT_SELECTION, Selection
from dbf_keras.mixins.contracts import ContractsMixin
from dbf_keras.mixins.folded import FoldedMixin


@keras.saving.register_keras_serializable(package="dbf_keras")
class DBFConv2D(ContractsMixin, FoldedMixin, keras.layers.Conv2D):
    """2-D convolution with deterministic binary filters (Tseng et al., IJCAI 2018, Eq. 1 and 4).

    Takes the arguments of ``keras.layers.Conv2D`` and those below; the differences are that ``data_format`` must be
    ``"channels_last"`` and ``groups`` must be 1.

    Args:
        ratio: ρ, the share of the grid's codes that is kept, 0 < ratio <= 1. The layer stores ρ times the numbers of
            its plain twin.
        selection: which codes are kept: the name of an order (``"spatial_tree"``, ``"ovsf"``, ``"sequency"``,
            ``"random:SEED"``, …), a ranked list of grid indices, or ``"sp_ovsf"`` for the paper's flat, clipped codes.
            See `dbf_keras.codes.order`.
        alpha_initializer: initialiser of α; by default normal and such that the filters are white noise of He variance
            in the space of the kept codes: var α = 2 / (P·n) if these are orthogonal. Cannot be combined with
            ``kernel_initializer``.
        alpha_regularizer: regulariser of the coefficients as they are trained, α·√P for P taps: those of codes of unit
            norm. At ρ = 1 and orthogonal codes an L2 penalty of them is that of the filters.
        alpha_constraint: constraint on these.
        alpha_bits: None, or 2 to 8: compute with α rounded to so many bits, with a symmetric scale a filter. Gradients
            pass as if it were not, so that the layer is trained for ``quantize="int4"`` (4 bits) of the exporter,
            whose file then holds the very same numbers.
        alpha_step: None, or over 0: compute with α rounded to levels, whole multiples of a learned step a filter (Esser
            et al., ICLR 2020), no more of them than `alpha_bits` (by default 8) allows. It is the first step, as a
            share of the root mean square of the filter's α. Steps have five significant bits.
        dead_zone: by how much later than halfway a level begins, in steps: over 0, more α are rounded towards zero.
        rate_weight: with `alpha_step`, loss for each 1,000 bytes in which the levels can be coded, see
            `coded_bits`; training then trades bytes for accuracy (Oktay et al., ICLR 2020).
        kernel_initializer: if given, filters are drawn from it and α fitted to them.
        kernel_regularizer: regulariser of the generated filters (of α: ``alpha_regularizer``).
        kernel_constraint: not possible for generated filters; must be None (of α: ``alpha_constraint``).

    Input: [batch, height, width, channels]. Output: [batch, height', width', filters].

    Raises:
        ValueError: an argument outside its range; says what would work.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = (1, 1),
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = (1, 1),
        groups: int = 1,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = None,
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        ratio: float = 1.0,
        selection: Selection = DEFAULT_SELECTION,
        alpha_initializer: Any = None,
        alpha_regularizer: Any = None,
        alpha_constraint: Any = None,
        alpha_bits: int | None = None,
        alpha_step: float | None = None,
        dead_zone: float = 0.0,
        rate_weight: float = 0.0,
        **kwargs: Any,
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
        self._init_coefficients(
            ratio,
            selection,
            alpha_initializer,
            alpha_regularizer,
            alpha_constraint,
            alpha_bits,
            alpha_step,
            dead_zone,
            rate_weight,
        )

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Creates α [n, filters] and bias [filters] for inputs [batch, height, width, channels]."""
        channels = input_shape[-1]
        if channels is None:
            raise ValueError(f"DBFConv2D needs a known number of channels; got input shape {tuple(input_shape)}.")
        self.compute_output_shape(input_shape)  # Raises if the kernel does not fit into the input.
        self._build_coefficients((*self.kernel_size, int(channels)), self.filters)
        self._build_folding(self.filters)
        if self.overrides_convolution:
            self._folding = None
        self.input_spec = keras.layers.InputSpec(min_ndim=4, axes={-1: int(channels)})
        self.built = True

    @property
    def overrides_convolution(self) -> bool:
        """Whether a subclass computes with the kernel in its own way, as to standardise it, and needs it as it is."""
        return type(self).convolution_op is not DBFConv2D.convolution_op

    def _convolve(self, inputs: Any, kernel: Any) -> Any:
        return self.convolution_op(inputs, kernel)


@keras.saving.register_keras_serializable(package="dbf_keras")
class DBFDense(ContractsMixin, FoldedMixin, keras.layers.Dense):
    """Dense layer whose weight vectors are combinations of binary codes: a 1×1 filter of C taps.

    Takes the arguments of ``keras.layers.Dense``, of which ``kernel_…`` are as for `DBFConv2D`, and those below, which
    `DBFConv2D` explains.

    Args:
        ratio: ρ, the share of the C codes that is kept, 0 < ratio <= 1.
        selection: which codes are kept.
        alpha_initializer: initialiser of α.
        alpha_regularizer: regulariser of the coefficients as they are trained, α·√C.
        alpha_constraint: constraint on these.
        alpha_bits: None, or 2 to 8: compute with α rounded to so many bits.
        alpha_step: None, or the first step of α's levels.
        dead_zone: by how much later than halfway a level begins, in steps.
        rate_weight: loss for each 1,000 bytes in which the levels can be coded.

    Input: [batch, ..., channels]. Output: [batch, ..., units].

    Raises:
        ValueError: an argument outside its range; says what would work.
    """

    def __init__(
        self,
        units: int,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = None,
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        ratio: float = 1.0,
        selection: Selection = DEFAULT_SELECTION,
        alpha_initializer: Any = None,
        alpha_regularizer: Any = None,
        alpha_constraint: Any = None,
        alpha_bits: int | None = None,
        alpha_step: float | None = None,
        dead_zone: float = 0.0,
        rate_weight: float = 0.0,
        **kwargs: Any,
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
        self._init_coefficients(
            ratio,
            selection,
            alpha_initializer,
            alpha_regularizer,
            alpha_constraint,
            alpha_bits,
            alpha_step,
            dead_zone,
            rate_weight,
        )

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Creates α [n, units] and bias [units] for inputs [batch, ..., channels]."""
        channels = input_shape[-1]
        if channels is None:
            raise ValueError(f"DBFDense needs a known number of channels; got input shape {tuple(input_shape)}.")
        self._build_coefficients((1, 1, int(channels)), self.units)
        self._build_folding(self.units)
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: int(channels)})
        self.built = True

    def _convolve(self, inputs: Any, kernel: Any) -> Any:
        return ops.matmul(inputs, kernel)

    @property
    def twin_shape(self) -> tuple[int, ...]:
        """The shape of the plain twin's kernel, (channels, units)."""
        return super().twin_shape[2:]


def custom_objects() -> dict[str, type]:
    """What ``tf.keras.models.load_model(path, custom_objects=...)`` needs to load a DBF model."""
    return {layer.__name__: layer for layer in (DBFConv2D, DBFDense)}
