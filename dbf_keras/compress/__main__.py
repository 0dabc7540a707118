"""``python -m dbf_keras.compress``, also ``dbf compress``."""

import sys

from dbf_keras.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["compress", *sys.argv[1:]]))
