"""Builds the native op as a shared library inside the package. All metadata is in setup.cfg.

The library uses nothing of Python; it is an Extension only so that pip builds it and puts it in wheels. It is found by
``importlib.util.find_spec("dbf_keras._dbf_op").origin`` and loaded by a TFLite runtime, never imported.
"""

from glob import glob

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "dbf_keras._dbf_op",
            sources=sorted(glob("export/*.c") + glob("export/kernels/*.c")),
            depends=sorted(glob("export/*.h") + glob("export/kernels/*.h") + glob("export/kernels/*.inl")),
            include_dirs=["export"],
            libraries=["m", "pthread"],
            extra_compile_args=["-std=gnu11", "-O3", "-pthread", "-fvisibility=hidden", "-ffp-contract=fast"],
        )
    ]
)
