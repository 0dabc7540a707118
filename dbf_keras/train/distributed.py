"""Training by several processes, on one host or more, each with its share of every batch: data parallelism on JAX.

Variables are whole on every device and batches are divided among all devices, by ``keras.distribution``; XLA adds what
the processes exchange. What is computed is what one process would compute of the joint batch: BatchNorm sees all of
it, and random numbers are those of the joint batch.
"""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np

from dbf_keras.backend import keras, ops

_AXIS = "batch"


def join(coordinator: str, processes: int, process: int) -> None:
    """Joins a job, and waits until all its processes have. To be called once, before anything is computed.

    Args:
        coordinator: ``host:port`` of process 0, which listens there.
        processes: how many there are.
        process: the number of this one, from 0.

    Raises:
        ValueError: a number out of its range, another backend than JAX, or processes with unequal numbers of devices.
    """
    if keras.backend.backend() != "jax":
        raise ValueError(f"Several processes train on JAX; set KERAS_BACKEND=jax (it is {keras.backend.backend()}).")
    host, colon, port = coordinator.rpartition(":")
    if not (host and colon and port.isdecimal()):
        raise ValueError(f"--coordinator is host:port of process 0, such as localhost:1234; got {coordinator!r}.")
    if not 0 <= process < processes:
        raise ValueError(f"--process must be from 0 to --processes - 1; got {process} of {processes}.")
    import jax

    jax.distributed.initialize(coordinator, processes, process)
    if jax.local_device_count() * processes != jax.device_count():
        raise ValueError(
            f"Every process must have as many devices; this one has {jax.local_device_count()} of "
            f"{jax.device_count()}, with {processes} processes."
        )
    mesh = keras.distribution.DeviceMesh((jax.device_count(),), [_AXIS], keras.distribution.list_devices())
    keras.distribution.set_distribution(keras.distribution.DataParallel(device_mesh=mesh, auto_shard_dataset=False))


def is_first() -> bool:
    """Whether this process is the one that writes files and prints: process 0, or the only one."""
    return _process()[0] == 0


def devices() -> int:
    """How many devices share a batch; its size must be a multiple."""
    distribution = keras.distribution.distribution()
    return 1 if distribution is None else distribution.device_mesh.shape[0]


def share(order: np.ndarray) -> np.ndarray:
    """The part of each batch that this process holds: of [steps, batch], [steps, batch / processes]."""
    process, processes = _process()
    return np.split(order, processes, axis=1)[process]


def whole(array: np.ndarray, dtype: str) -> Any:
    """An array that is on every device: the same in each process."""
    return _place(array, dtype, [])


def divided(array: np.ndarray, dtype: str) -> Any:
    """An array whose second axis is divided among the devices, of the `share` of it that is here."""
    return _place(array, dtype, [None, _AXIS])


def divide(*tensors: Any) -> tuple:
    """Tensors inside a compiled step, their first axis divided among the devices."""
    if keras.distribution.distribution() is None:
        return tensors
    return tuple(keras.distribution.distribute_tensor(tensor, _layout([_AXIS])) for tensor in tensors)


def everywhere() -> Any:
    """The sharding, for ``jax.jit``, of results that every process reads; None for one process."""
    return None if keras.distribution.distribution() is None else _layout([])


def agree(value: bool) -> bool:
    """Process 0's value, in every process."""
    if _process()[1] == 1:
        return value
    from jax.experimental import multihost_utils

    return bool(multihost_utils.broadcast_one_to_all(np.int32(value)))


def read(path: pathlib.Path) -> bytes | None:
    """The content of process 0's file, in every process; None if it has no such file."""
    content = path.read_bytes() if is_first() and path.exists() else None
    if _process()[1] == 1:
        return content
    from jax.experimental import multihost_utils

    size = int(multihost_utils.broadcast_one_to_all(np.int32(-1 if content is None else len(content))))
    if size < 0:
        return None
    held = np.zeros(size, np.uint8) if content is None else np.frombuffer(content, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(held)).tobytes()


def _process() -> tuple[int, int]:
    """The number of this process and how many there are."""
    if keras.distribution.distribution() is None:
        return 0, 1
    import jax

    return jax.process_index(), jax.process_count()


def _layout(axes: list[str | None]) -> Any:
    mesh = keras.distribution.distribution().device_mesh
    return keras.distribution.TensorLayout(axes, mesh).backend_layout


def _place(array: np.ndarray, dtype: str, axes: list[str | None]) -> Any:
    if keras.distribution.distribution() is None:
        return ops.convert_to_tensor(array, dtype)
    import jax

    return jax.make_array_from_process_local_data(_layout(axes), np.asarray(array, dtype))
