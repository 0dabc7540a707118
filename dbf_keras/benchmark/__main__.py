"""``python -m dbf_keras.benchmark``, also ``dbf benchmark``."""

import sys

from dbf_keras.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["benchmark", *sys.argv[1:]]))
