"""Training: ``dbf train``, resumes after a kill, writes model, history and learning curve.

`settings` says what is trained and how, `loop` trains, over `engine`'s compiled steps. `start`, `teacher` and
`checkpoint` are what a training may begin from.
"""

from __future__ import annotations

from dbf_keras import lazy

# Late, so that a module can be imported from here without all the others, and Keras.
__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    {
        "CodeSGD": "optimizers",
        "OneCycle": "optimizers",
        "Recipe": "recipes",
        "Settings": "settings",
        "Teacher": "teacher",
        "train": "loop",
    },
)
