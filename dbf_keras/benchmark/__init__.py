"""Compare .tflite files by size, memory, latency and accuracy: `python -m dbf_keras.benchmark`."""

from dbf_keras.benchmark.timing import prepare, time_interleaved

__all__ = ["prepare", "time_interleaved"]
