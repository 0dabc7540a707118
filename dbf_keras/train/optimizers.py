"""SGD for coefficients of binary codes, and a learning rate that rises and falls once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dbf_keras.backend import keras, ops


@keras.saving.register_keras_serializable(package="dbf_keras")
class CodeSGD(keras.optimizers.SGD):
    """SGD whose step on the coefficients moves the filters as plain SGD would, as far as the codes reach.

    The variable of a layer holds coefficients of unit-norm codes, b = α·√P, and filters are f = Bᵀb / √P. A plain step
    on b moves f by −η·BᵀB/P times its gradient, which is along the gradient's projection on the codes where these are
    orthogonal, and is not where they are not, as those of 3×3 filters. Multiplying the gradient of b by P·(B·Bᵀ)⁻¹
    makes the filters follow projected gradient descent with the learning rate η of the plain twin there too; at ρ = 1
    they follow the plain twin. This is exact for channels that are a power of two, see `dbf_keras.codes.inverse_gram`.
    Where the codes are orthogonal it is plain SGD.

    Takes SGD's arguments. Weight decay spares biases and BatchNorm.

    Args:
        *args: SGD's.
        alpha_rate: factor on α's gradients, and so on α's learning rate; not on its weight decay.
        **kwargs: SGD's.
    """

    def __init__(self, *args: Any, alpha_rate: float = 1.0, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.alpha_rate = alpha_rate
        self.exclude_from_weight_decay(var_names=["bias", "gamma", "beta", "steps"])

    def apply(self, grads: Iterable[Any], trainable_variables: Iterable[Any] | None = None) -> Any:
        """Projects the gradients of α, then as SGD."""
        variables = self._trainable_variables if trainable_variables is None else list(trainable_variables)
        grads = [
            ops.multiply(variable.projected(gradient), self.alpha_rate)
            if gradient is not None and hasattr(variable, "projected")
            else gradient
            for gradient, variable in zip(grads, variables, strict=True)
        ]
        return super().apply(grads, trainable_variables)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "alpha_rate": self.alpha_rate}


@keras.saving.register_keras_serializable(package="dbf_keras")
class OneCycle(keras.optimizers.schedules.LearningRateSchedule):
    """One cycle (Smith, 2018): up from a tenth to the peak in three tenths of the steps, then down in straight lines.

    The fall reaches a tenth of the peak after nine tenths of the steps and zero at the end. Momentum stays as it is.

    Args:
        peak: the highest learning rate.
        steps: number of steps of the whole training.
    """

    def __init__(self, peak: float, steps: int):
        super().__init__()
        self.peak = peak
        self.steps = steps

    def __call__(self, step: Any) -> Any:
        """The learning rate of a step."""
        done = ops.cast(step, "float32") / self.steps
        rise = 0.1 + 0.9 * done / 0.3
        fall = 1 - 0.9 * (done - 0.3) / 0.6
        last = 1 - done  # From a tenth, at nine tenths, to zero.
        share = ops.minimum(rise, ops.where(done < 0.9, fall, last))
        return self.peak * ops.maximum(share, 0.0)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"peak": self.peak, "steps": self.steps}
