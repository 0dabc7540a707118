"""``python -m dbf_keras.train``, also ``dbf train``."""

import sys

from dbf_keras.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
