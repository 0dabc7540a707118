"""Run exported files with LiteRT 2's `CompiledModel`, with the ops `DBFConv2D` and `DBFDense` loaded.

Needs ai-edge-litert from 2.0, of which 2.0 itself takes only files whose sizes are all given, the batch's too.

    model = dbf_keras.CompiledModel.from_file("model.tflite")
    inputs, outputs = model.create_input_buffers(0), model.create_output_buffers(0)
    inputs[0].write(image)
    model.run_by_index(0, inputs, outputs)
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import pathlib
from typing import Any

from dbf_keras import runtime

try:
    from ai_edge_litert import compiled_model
except ImportError as error:
    raise ImportError("CompiledModel is LiteRT 2's; install that: pip install 'ai-edge-litert>=2'") from error

# What LiteRT's C functions are in, by release and platform.
_LIBRARIES = ("libLiteRt.so", "libLiteRt.dylib", "libLiteRtRuntimeCApi.so")


@functools.cache
def register() -> None:
    """Has all LiteRT environments of this process that are made from now on run the DBF ops.

    Raises:
        FileNotFoundError: If the op's C library was not built.
        RuntimeError: If this release of LiteRT takes no ops from other libraries; says what would.
    """
    path = runtime.library_path()
    if path is None:
        raise FileNotFoundError(runtime.no_library())
    folder = pathlib.Path(compiled_model.__file__).parent
    for name in _LIBRARIES:
        with contextlib.suppress(OSError):
            ctypes.CDLL(str(folder / name))  # Later releases load it only when they need it.
    library = ctypes.CDLL(path)
    library.dbf_register_litert.restype = ctypes.c_char_p
    error = library.dbf_register_litert(None)
    if error is not None:
        raise RuntimeError(f"LiteRT's CompiledModel cannot run the DBF ops: {error.decode()}.")


class CompiledModel(compiled_model.CompiledModel):
    """`ai_edge_litert.compiled_model.CompiledModel` with the DBF ops loaded.

    Has every method of LiteRT's own. On processors the ops run as in `dbf_keras.Interpreter`, with the same bits; an
    ``environment`` that is passed must have been made after `register` was called.
    """

    @classmethod
    def from_file(cls, model_path: str | os.PathLike, *args: Any, **kwargs: Any) -> CompiledModel:
        """Makes a model of a .tflite file; other arguments are LiteRT's.

        Raises:
            FileNotFoundError: If there is no file at `model_path`, or the op's C library was not built.
            RuntimeError: If LiteRT takes no ops from other libraries, or refuses the file.
        """
        register()
        if not os.path.isfile(model_path):
            raise FileNotFoundError(f"There is no model file at {os.fspath(model_path)!r}.")
        return super().from_file(os.fspath(model_path), *args, **kwargs)

    @classmethod
    def from_buffer(cls, model_data: bytes, *args: Any, **kwargs: Any) -> CompiledModel:
        """Makes a model of the bytes of a .tflite file; other arguments are LiteRT's.

        Raises:
            FileNotFoundError: If the op's C library was not built.
            RuntimeError: If LiteRT takes no ops from other libraries, or refuses the file.
        """
        register()
        return super().from_buffer(model_data, *args, **kwargs)
