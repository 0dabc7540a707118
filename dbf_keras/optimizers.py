"""SGD for coefficients of binary codes."""

from __future__ import annotations

from dbf_keras.backend import keras, ops


@keras.saving.register_keras_serializable(package="dbf_keras")
class CodeSGD(keras.optimizers.SGD):
    """SGD whose step on α has, on the filters, the length of plain SGD's.

    Codes of ±1 and length P make the filters' change under a plain step on α P times too long: with f = Bᵀα and
    B·Bᵀ = P·I, α ← α − η·∂L/∂α moves f by −η·P times the projected gradient. Dividing α's gradients by P makes the
    filters follow projected gradient descent with the learning rate η of the plain twin.

    Takes SGD's arguments. Weight decay spares biases and BatchNorm.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])

    def apply(self, grads, trainable_variables=None):
        """Divides the gradients of α by its code length, then as SGD."""
        variables = self._trainable_variables if trainable_variables is None else list(trainable_variables)
        grads = [
            gradient if gradient is None else ops.multiply(gradient, 1 / getattr(variable, "code_length", 1))
            for gradient, variable in zip(grads, variables, strict=True)
        ]
        return super().apply(grads, trainable_variables)
