"""The forms in which a model is exported: modes, quantisations, what goes with what, and what their files are called.

Imports nothing, so that any command can offer the choices.
"""

from __future__ import annotations

from typing import NamedTuple

EXPLICIT, FOLDED, ONTHEFLY = MODES = ("explicit", "folded", "onthefly")
ABSENT, ORDINARY = "absent", "ordinary"  # What a report says of a layer out of use, and of one that is no DBF layer.
QUANTIZATIONS = (None, "float16", "weights", "int4", "int8", "int8_int4")
INT8 = ("int8", "int8_int4")  # Those that compute in int8, so are calibrated.
IO_TYPES = ("float32", "int8")

# What a quantisation adds to the name of a file, and to a title.
_SUFFIXES = {
    None: "",
    "float16": "_float16",
    "weights": "_int8_weights",
    "int4": "_int4_weights",
    "int8": "_int8",
    "int8_int4": "_int8_int4",
}
_TITLES = {
    None: "",
    "float16": ", float16 weights",
    "weights": ", int8 weights",
    "int4": ", int4 coefficients",
    "int8": ", int8",
    "int8_int4": ", int8 with int4 coefficients",
}


class Form(NamedTuple):
    """A mode, a quantisation, and whether coefficients are coded.

    Attributes:
        mode: one of `MODES`: ``"explicit"``, filters in standard ops; ``"folded"``, separable layers in folded form, in
            standard ops; ``"onthefly"``, coefficients only, in the ops of our C library.
        quantize: one of `QUANTIZATIONS`: None for float32; ``"float16"``, float16 weights; ``"weights"``, int8 weights;
            ``"int4"``, int8 weights and int4 coefficients of our ops; ``"int8"``, int8 throughout; ``"int8_int4"``, the
            same with int4 coefficients of our ops.
        coding: whether the coefficients of our ops are entropy-coded whole multiples of steps.
    """

    mode: str
    quantize: str | None = None
    coding: bool = False

    @property
    def role(self) -> str:
        """The name of the form: of its file in the zoo, and the end of an exported file's name."""
        return self.mode + _SUFFIXES[self.quantize] + "_coded" * self.coding

    @property
    def title(self) -> str:
        """The form in words."""
        return self.mode + _TITLES[self.quantize] + ", coded" * self.coding

    def check(self, calibrated: bool, io_type: str = "float32", limits: int = 0) -> None:
        """Checks that the parts are known and go together.

        Args:
            calibrated: whether there are representative data.
            io_type: type of the file's inputs and outputs, one of `IO_TYPES`.
            limits: how many limits, of bytes or of loss, coding is to keep.

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
        int4 = self.quantize in ("int4", "int8_int4")
        if int4 and self.mode != ONTHEFLY:
            raise ValueError(
                f"quantize={self.quantize!r} is for coefficients, so for mode='onthefly' only; got mode={self.mode!r}. "
                "There, use quantize='weights' or quantize='int8'."
            )
        if self.coding and (int4 or self.mode != ONTHEFLY):
            raise ValueError(
                "coding is of coefficients that are whole multiples of a step, so for mode='onthefly' and any quantize "
                f"but those of int4; got mode={self.mode!r}, quantize={self.quantize!r}."
            )
        if limits and not self.coding:
            raise ValueError("`max_loss` and `max_kb` are limits that coding keeps; give coding=True, too.")
        if limits > 1:
            raise ValueError("Give `max_loss` or `max_kb`, and not both.")
        if self.quantize in INT8 and not calibrated:
            raise ValueError(
                f"quantize={self.quantize!r} needs `representative_data`: some hundred typical inputs, as an iterable "
                "of batches. quantize='weights' needs none."
            )
        if limits and not calibrated:
            raise ValueError(
                "`max_loss` and `max_kb` need `representative_data`, some hundred typical inputs or more, to see what "
                "coding loses on them."
            )
        if self.quantize not in INT8 and io_type != "float32":
            raise ValueError(f"`io_type` is for quantize='int8' only; got quantize={self.quantize!r}.")
        if self.quantize not in INT8 and calibrated and not limits:
            raise ValueError(
                "`representative_data` is for quantize='int8', and for coding within a limit only; got "
                f"quantize={self.quantize!r}."
            )


# The forms that the zoo has files of, float32 first; float16 is none of them, for its files lie between.
FORMS = (
    *(Form(mode, quantize) for quantize in (None, "weights", "int8") for mode in (EXPLICIT, ONTHEFLY, FOLDED)),
    Form(ONTHEFLY, "int4"),
    Form(ONTHEFLY, "weights", True),
    Form(ONTHEFLY, "int8", True),
)
