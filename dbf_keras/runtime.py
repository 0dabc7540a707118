"""Run exported files, with the ops `DBFConv2D` and `DBFDense` loaded.

Needs numpy and one TFLite runtime; TensorFlow and Keras are imported only for `runtime="tf"`.

    interpreter = dbf_keras.runtime.Interpreter("model.tflite")
    interpreter.allocate_tensors()
    ...
"""

import contextlib
import ctypes
import functools
import importlib
import importlib.metadata
import importlib.util
import os
import types
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

# Name, then what to import and what to install; in the order of preference.
RUNTIMES = {
    "litert": ("ai_edge_litert.interpreter", "ai-edge-litert"),
    "tflite_runtime": ("tflite_runtime.interpreter", "tflite-runtime 'numpy<2'"),
    "tf": ("tensorflow", "tensorflow"),
}
OPS = ("DBFConv2D", "DBFDense")
_LIBRARY = f"{__package__}._dbf_op"


def installed_runtimes() -> list[str]:
    """Returns the names of the TFLite runtimes installed here, the preferred one first."""
    return [name for name, (module, _) in RUNTIMES.items() if importlib.util.find_spec(module.partition(".")[0])]


def library_path() -> str | None:
    """Returns the path of the op's C library, or None if it was not built.

    That beside this package; or, where Python runs in a checkout and so finds the package there, that of the package
    which pip installed.
    """
    spec = importlib.util.find_spec(_LIBRARY)
    if spec:
        return spec.origin
    stem = _LIBRARY.replace(".", "/")
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("dbf-keras") or ():
            if str(file).startswith(stem) and os.path.isfile(file.locate()):
                return str(file.locate())
    return None


class OpMemory(NamedTuple):
    """Memory that our ops hold between inferences, all of what they ever take.

    Attributes:
        packed: Bytes of coefficients, in the order in which the op reads them.
        scratch: Bytes of working memory.
    """

    packed: int
    scratch: int


def op_memory() -> OpMemory:
    """Returns the memory of all DBF ops whose tensors are allocated, of every interpreter of this process."""
    path = library_path()
    if path is None:
        return OpMemory(0, 0)
    sizes = ctypes.c_size_t(), ctypes.c_size_t()
    ctypes.CDLL(path).dbf_memory(*map(ctypes.byref, sizes))
    return OpMemory(*(size.value for size in sizes))


def load_delegate(runtime: str | None = None, options: Mapping[str, Any] | None = None) -> Any:
    """Loads the op's C library as an external delegate.

    Args:
        runtime: One of `RUNTIMES`; by default the first that is installed.
        options: Options of the library, such as `{"isa": "avx2"}`.

    Returns:
        A delegate for `experimental_delegates=[...]` of that runtime's own `Interpreter`.

    Raises:
        FileNotFoundError: If the library was not built.
        ValueError: If `runtime` is unknown, or the library refuses an option.
        ImportError: If `runtime` is not installed.
    """
    module = import_runtime(resolve_runtime(runtime))
    path = library_path()
    if path is None:
        raise FileNotFoundError(no_library())
    return module.load_delegate(path, dict(options or {}))


def resolve_runtime(runtime: str | None = None) -> str:
    """Returns the name of the runtime to use.

    Args:
        runtime: One of `RUNTIMES`, or None for the first that is installed.

    Raises:
        ValueError: If `runtime` is unknown.
        ImportError: If it, or with None any, is not installed.
    """
    installed = installed_runtimes()
    if runtime is None:
        if not installed:
            raise ImportError(f"No TFLite runtime is installed. Install one: pip install {RUNTIMES['litert'][1]}")
        return installed[0]
    if runtime not in RUNTIMES:
        raise ValueError(f"Unknown runtime {runtime!r}; use one of {', '.join(RUNTIMES)}.")
    if runtime not in installed:
        found = f"; installed here: {', '.join(installed)}" if installed else ""
        raise ImportError(f"Runtime {runtime!r} is not installed (pip install {RUNTIMES[runtime][1]}){found}.")
    return runtime


class Interpreter:
    """`tf.lite.Interpreter` with the DBF ops loaded.

    Has every method of the runtime's own `Interpreter`. Ops other than ours run as ever, on XNNPACK where the runtime
    delegates to it by default. Files without a DBF op need no C library.

    Args:
        model_path: Path of a .tflite file.
        model_content: Or its bytes.
        num_threads: Threads of the interpreter, its delegates and our ops.
        runtime: One of `RUNTIMES`; by default the first that is installed.
        delegate_options: Options of the op's C library, such as `{"isa": "avx2"}`.
        experimental_delegates: Further delegates, applied after ours.
        **kwargs: Other arguments of the runtime's `Interpreter`.

    Attributes:
        runtime: The name of the runtime in use.

    Raises:
        FileNotFoundError: If there is no file at `model_path`.
        ValueError: If both or neither of `model_path` and `model_content` are given, `runtime` is unknown, the model is
            not a TFLite file, or the library refuses an option.
        ImportError: If the runtime is not installed.
    """

    def __init__(
        self,
        model_path: str | os.PathLike | None = None,
        model_content: bytes | None = None,
        num_threads: int = 1,
        runtime: str | None = None,
        *,
        delegate_options: Mapping[str, Any] | None = None,
        experimental_delegates: Sequence[Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if (model_path is None) == (model_content is None):
            given = "neither" if model_path is None else "both"
            raise ValueError(f"Give one of model_path and model_content; got {given}.")
        if model_path is not None:
            model_path = os.fspath(model_path)
            if not os.path.isfile(model_path):
                raise FileNotFoundError(f"There is no model file at {model_path!r}.")
        self.runtime = resolve_runtime(runtime)
        module = import_runtime(self.runtime)
        delegates = list(experimental_delegates or ())
        if library_path() or delegate_options:
            delegates.insert(0, load_delegate(self.runtime, delegate_options))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*tf.lite.Interpreter is deprecated", category=UserWarning)
            self._interpreter = module.Interpreter(
                model_path=model_path,
                model_content=model_content,
                num_threads=num_threads,
                experimental_delegates=delegates,  # the runtime keeps them as long as its interpreter
                **kwargs,
            )

    def allocate_tensors(self) -> None:
        """Plans memory; call it once before `invoke`, and after every resize of an input.

        Raises:
            RuntimeError: If the runtime lacks an op of the model (with what to do about it), or preparing one fails.
        """
        try:
            self._interpreter.allocate_tensors()
        except RuntimeError as error:
            if "unresolved custom op" not in str(error):
                raise
            missing_ours = library_path() is None and any(f": {op}" in str(error) for op in OPS)
            hint = no_library() if missing_ours else _unknown_op(self.runtime)
            raise RuntimeError(f"{hint}\n{error}") from error

    def __getattr__(self, name: str) -> Any:
        if name == "_interpreter":  # not set: the constructor failed
            raise AttributeError(name)
        return getattr(self._interpreter, name)


@functools.cache
def import_runtime(runtime: str) -> Any:
    """Returns an object with the `Interpreter` and `load_delegate` of an installed runtime."""
    module = importlib.import_module(RUNTIMES[runtime][0])
    if runtime != "tf":
        return module
    return types.SimpleNamespace(
        Interpreter=module.lite.Interpreter, load_delegate=module.lite.experimental.load_delegate
    )


def no_library() -> str:
    """What to say where the op's C library is missing."""
    return (
        f"The C library of the ops {' and '.join(OPS)} is not beside {os.path.dirname(__file__)}. "
        "Install the package again where a C compiler is present (pip install .), "
        "or export the model with --mode explicit or --mode folded, which need no library."
    )


def _unknown_op(runtime: str) -> str:
    return (
        f"The model uses a custom op that neither runtime {runtime!r} nor this package has (ours: {', '.join(OPS)}). "
        "Try another runtime, or pass a delegate that has the op in experimental_delegates."
    )
