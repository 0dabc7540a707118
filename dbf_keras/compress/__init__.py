"""Compression of trained Keras networks: ``dbf compress``, or a call of this package itself.

    small = dbf_keras.compress(model, (images, labels), max_kb=100)

That is `compression.compress`. `fit` puts DBF layers in place of a network's own; `losses` and `stopwatch` say what a
choice of codes costs; `planning` chooses for each layer, by `allocation`; `search` makes plans until their files, which
`judge` tries, keep the limits; and `compression` does all that, fine-tunes, and writes a `report`.
"""

from __future__ import annotations

import sys
import types
from typing import Any

from dbf_keras import lazy

# Late, so that the command line can say --help or complain without importing TensorFlow.
__getattr__, __dir__, __all__ = lazy.attach(
    __name__, {"Compression": "compression", "Plan": "plan", "Report": "report", "compress": "compression"}
)


class _Callable(types.ModuleType):
    """This package, which ``dbf_keras.compress`` means as soon as a part of it is imported, as the function."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """`compression.compress`."""
        return self.compress(*arguments, **options)


sys.modules[__name__].__class__ = _Callable
