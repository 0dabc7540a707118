"""The place of `CodeSGD` and `OneCycle` in version 0.1, which .keras files of compiled models name."""

from dbf_keras.train.optimizers import CodeSGD, OneCycle

__all__ = ["CodeSGD", "OneCycle"]
