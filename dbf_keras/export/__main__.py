"""``python -m dbf_keras.export``, also ``dbf export``."""

import sys

from dbf_keras.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
