"""Training: ``dbf train``, resumes after a kill, writes model, history and learning curve.

`settings` says what is trained and how, `loop` trains, over `engine`'s compiled steps. `start`, `teacher` and
`checkpoint` are what a training may begin from.
"""

from __future__ import annotations

import importlib
from typing import Any

_MODULES = {
    "CodeSGD": "optimizers",
    "OneCycle": "optimizers",
    "Recipe": "recipes",
    "Settings": "settings",
    "Teacher": "teacher",
    "train": "loop",
}

__all__ = sorted(_MODULES)


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    # Late, so that a module can be imported from here without all the others, and Keras.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
