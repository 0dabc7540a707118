"""``dbf predict``: says what is in pictures, by a .tflite or .keras model that classifies them.

    dbf predict model.tflite picture.png

Prints a line for each picture: the most likely classes and their probabilities. Names of classes, and how the model
takes pixels, come from the file's metadata, which ``dbf export`` writes. A picture of the model's size goes in as it
is; of others the centre does, 7/8 of the shorter side, scaled.

A .tflite file needs numpy, Pillow and a TFLite runtime only.
"""

import argparse
import os
import sys
from collections.abc import Sequence

import numpy as np

from dbf_keras import command
from dbf_keras import runtime as runtime_lib
from dbf_keras.images import read_picture
from dbf_keras.predict.classifier import Classifier, KerasClassifier, TFLiteClassifier


def run(arguments: Sequence[str] | None = None) -> None:
    """Runs the command on these arguments, by default this process's, and ends the process."""
    with command.quiet_libraries():
        sys.exit(main(sys.argv[1:] if arguments is None else arguments))


def main(arguments: Sequence[str]) -> int:
    """Runs the command line.

    Args:
        arguments: The arguments, without the program's name.

    Returns:
        The exit status: 0, or 2 after an error that the user can mend, which is told in a line on stderr.
    """
    try:
        flags = _parser().parse_intermixed_args(arguments)
        _predict(flags)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command.Parser(
        "dbf predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="a .tflite or .keras file")
    add("pictures", nargs="+", metavar="PICTURE", help="files of any form that Pillow reads: .png, .jpg, .webp, ...")
    add("--top", type=command.at_least(int, 1), default=3, help="how many classes to print (default: 3)")
    add("--num_threads", type=command.at_least(int, 1), default=1, help="threads of the interpreter (default: 1)")
    add("--runtime", choices=list(runtime_lib.RUNTIMES), help="TFLite runtime (default: the first installed)")
    return parser


def _predict(flags: argparse.Namespace) -> None:
    if not os.path.isfile(flags.model):
        raise FileNotFoundError(f"There is no model file at {flags.model!r}. Export one: dbf export")
    for path in flags.pictures:
        if not os.path.isfile(path):
            what = "is a folder; give pictures" if os.path.isdir(path) else "does not exist"
            raise FileNotFoundError(f"The picture {path!r} {what}.")
    classifier: Classifier
    if flags.model.endswith(".keras"):
        classifier = KerasClassifier(flags.model)
    else:
        classifier = TFLiteClassifier(flags.model, flags.num_threads, flags.runtime)
    for note in classifier.notes:
        print(f"note: {note}", file=sys.stderr)
    for path in flags.pictures:
        pixels = read_picture(path, classifier.size, classifier.channels, classifier.trained_on_centres)
        shares = classifier.probabilities(pixels)
        best = np.argsort(-shares, kind="stable")[: flags.top]
        print(f"{path}: " + ", ".join(f"{classifier.name(index)} ({shares[index]:.1%})" for index in best), flush=True)
