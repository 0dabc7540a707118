"""``python -m dbf_keras.export``, also ``dbf export``."""

from dbf_keras.export.command import run

if __name__ == "__main__":
    run()
