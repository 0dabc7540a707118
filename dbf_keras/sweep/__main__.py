"""``python -m dbf_keras.sweep``, also ``dbf sweep``."""

import sys

from dbf_keras.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["sweep", *sys.argv[1:]]))
