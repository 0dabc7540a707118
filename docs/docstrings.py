"""Gives the reference docstrings that are put together when a module is imported, which reading its source misses."""

import inspect
import os

import griffe

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # The layers import TensorFlow, which is to be quiet.


class ComposedDocstrings(griffe.Extension):
    """Imports the classes that assign their own ``__doc__``, and takes it from there."""

    def on_class_members(self, *, cls: griffe.Class, **_) -> None:
        """Sets the docstring of a class that is read."""
        if "__doc__" in cls.members:
            cls.docstring = griffe.Docstring(inspect.cleandoc(griffe.dynamic_import(cls.path).__doc__), parent=cls)
