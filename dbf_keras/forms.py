"""The forms in which a model is exported: modes, quantisations, what goes with what, and what their files are called.

Imports nothing, so that any command can offer the choices.
"""

from __future__ import annotations

from typing import NamedTuple

EXPLICIT, FOLDED, ONTHEFLY = MODES = ("explicit", "folded", "onthefly")
ABSENT, ORDINARY = "absent", "ordinary"  # What a report says of a layer out of use, and of one that is no DBF layer.
QUANTIZATIONS = (None, "float16", "weights", "int4", "int8")
IO_TYPES = ("float32", "int8")

# What a quantisation adds to the name of a file, and to a title.
_SUFFIXES = {
    None: "",
    "float16": "_float16",
    "weights": "_int8_weights",
    "int4": "_int4_weights",
    "int8": "_int8",
}
_TITLES = {
    None: "",
    "float16": ", float16 weights",
    "weights": ", int8 weights",
    "int4": ", int4 coefficients",
    "int8": ", int8",
}


class Form(NamedTuple):
    """A mode and a quantisation.

    Attributes:
        mode: one of `MODES`: ``"explicit"``, filters in standard ops; ``"folded"``, separable layers in folded form, in
            standard ops; ``"onthefly"``, coefficients only, in the ops of our C library.
        quantize: one of `QUANTIZATIONS`: None for float32; ``"float16"``, float16 weights; ``"weights"``, int8 weights;
            ``"int4"``, int8 weights and int4 coefficients of our ops; ``"int8"``, int8 throughout.
    """

    mode: str
    quantize: str | None = None

    @property
    def role(self) -> str:
        """The name of the form: of its file in the zoo, and the end of an exported file's name."""
        return self.mode + _SUFFIXES[self.quantize]

    @property
    def title(self) -> str:
        """The form in words."""
        return self.mode + _TITLES[self.quantize]

    def check(self, calibrated: bool, io_type: str = "float32") -> None:
        """Checks that the parts are known and go together.

        Args:
            calibrated: whether there are representative data.
            io_type: type of the file's inputs and outputs, one of `IO_TYPES`.

        Raises:
            ValueError: they do not; says what would work.
        """
        for name, value, known in (
            ("mode", self.mode, MODES),
            ("quantize", self.quantize, QUANTIZATIONS),
            ("io_type", io_type, IO_TYPES),
        ):
            if value not in known:
                raise ValueError(f"`{name}` is one of {', '.join(map(repr, known))}; got {value!r}.")
        if self.quantize == "int4" and self.mode != ONTHEFLY:
            raise ValueError(
                f"quantize='int4' is for coefficients, so for mode='onthefly' only; got mode={self.mode!r}. "
                "There, use quantize='weights' or quantize='int8'."
            )
        if self.quantize == "int8" and not calibrated:
            raise ValueError(
                "quantize='int8' needs `representative_data`: some hundred typical inputs, as an iterable of batches. "
                "quantize='weights' needs none."
            )
        if self.quantize != "int8" and (calibrated or io_type != "float32"):
            given = "representative_data" if calibrated else "io_type"
            raise ValueError(f"`{given}` is for quantize='int8' only; got quantize={self.quantize!r}.")


# The forms that the zoo has files of, float32 first; float16 is none of them, for its files lie between.
FORMS = (
    *(Form(mode, quantize) for quantize in (None, "weights", "int8") for mode in (EXPLICIT, ONTHEFLY, FOLDED)),
    Form(ONTHEFLY, "int4"),
)
