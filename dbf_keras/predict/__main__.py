"""``python -m dbf_keras.predict``, also ``dbf predict``."""

import sys

from dbf_keras.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["predict", *sys.argv[1:]]))
