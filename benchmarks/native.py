"""The benchmarks' own C: the processor's floating-point peak, and a processor that looks older than it is."""

import ctypes
import functools
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable

from dbf_keras.runtime import RUNTIMES

_FOLDER = pathlib.Path(__file__).parent
_PEAK_STEPS = 20_000  # about 0.1 ms
_MACHINE_FLAGS = {"x86_64": ["-march=native", "-mprefer-vector-width=512"]}
_ISA_FLAGS = {"avx2": ["-mavx2", "-mfma"]}


def compile_library(name: str, flags: list[str]) -> ctypes.CDLL:
    """Compiles a C file of this folder with the system's compiler and loads it.

    Args:
        name: Name of the file.
        flags: Flags of the compiler, beside those that make an optimised shared library.

    Returns:
        The library.

    Raises:
        OSError: If there is no compiler, or it fails, with what it wrote.
    """
    with tempfile.TemporaryDirectory() as folder:
        library = os.path.join(folder, "library.so")
        arguments = ["-O3", "-ffp-contract=fast", "-shared", "-fPIC", *flags, str(_FOLDER / name), "-o", library]
        done = subprocess.run(["cc", *arguments], capture_output=True, text=True)
        if done.returncode:
            raise OSError(f"{name} could not be compiled:\n{done.stderr}")
        return ctypes.CDLL(library)


def fma_peak(isa: str | None) -> tuple[Callable[[], float], float]:
    """Prepares a measurement of the peak of float32 multiply-adds of one core.

    Args:
        isa: An instruction set, or None for the best of this machine.

    Returns:
        The call to time, and the floating-point operations it does: two for a multiply-add.
    """
    flags = _ISA_FLAGS[isa] if isa else _MACHINE_FLAGS.get(platform.machine(), [])
    function = compile_library("peak.c", flags).dbf_peak
    function.restype, function.argtypes = ctypes.c_double, [ctypes.c_long]
    run = functools.partial(function, _PEAK_STEPS)
    return run, run()


@functools.cache
def mask_cpuid() -> None:
    """Makes the processor look, to TFLite runtimes loaded later, like one with AVX2 and nothing newer.

    Raises:
        OSError: If that is not possible here.
        RuntimeError: If a runtime is loaded already, and may have looked.
    """
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise OSError("--isa=avx2 needs Linux on x86-64, where CPUID can be made to fault.")
    module = RUNTIMES["litert"][0]
    if module in sys.modules:
        raise RuntimeError(f"CPUID must be masked before {module} is imported.")
    error = compile_library("cpuid_mask.c", []).dbf_mask_cpuid()
    if error:
        raise OSError(
            f"--isa=avx2 needs CPUID faulting, which this processor or its hypervisor lacks ({os.strerror(error)}; see "
            "cpuid_fault in /proc/cpuinfo). Run on a machine without AVX-512 instead."
        )
