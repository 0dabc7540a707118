"""``python -m dbf_keras.train``, also ``dbf train``."""

from dbf_keras.train.command import run

if __name__ == "__main__":
    run()
