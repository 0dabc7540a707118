"""Builds the native op as a shared library inside the package. All metadata is in setup.cfg.

The library uses nothing of Python; it is an Extension only so that pip builds it and puts it in wheels. It is found by
``importlib.util.find_spec("dbf_keras._dbf_op").origin`` and loaded by a TFLite runtime, never imported.
"""

from glob import glob

from setuptools import Extension, setup

FOLDERS = ("tflite", "engine", "plan", "kernels", "support")  # of export/, without the tests


def files(suffix: str) -> list[str]:
    """Returns the library's files with a suffix."""
    return sorted(path for folder in FOLDERS for path in glob(f"export/{folder}/*.{suffix}"))


setup(
    ext_modules=[
        Extension(
            "dbf_keras._dbf_op",
            sources=files("c"),
            depends=["export/dbf_op.h", *files("h"), *files("inl")],
            include_dirs=["export"],
            define_macros=[("NDEBUG", None)],
            libraries=["m", "pthread", "dl"],
            extra_compile_args=["-std=gnu11", "-O3", "-pthread", "-fvisibility=hidden", "-ffp-contract=fast"],
        )
    ]
)
