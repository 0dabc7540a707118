import pytest

from dbf_keras.compress.plan import Plan
from dbf_keras.compress.report import COMPRESSED, NARROW, ORIGINAL, File, Report
from dbf_keras.forms import ONTHEFLY, Form


def report(*files):
    return Report("theirs", "theirs.tflite", Plan((), {}, Form(ONTHEFLY), None, None), files, tested=100)


@pytest.mark.parametrize(
    "accuracy, seconds, told",
    [
        (0.91, 2e-3, "3.00 points less accurate and takes 1.50 of its time. The narrower one is the better choice"),
        (0.88, 2e-3, "0.00 points less accurate and takes 1.50 of its time. The narrower one is the better choice"),
        (0.86, 4e-3, "2.00 points more accurate and takes 0.75 of its time. It is the better choice"),
        (0.86, 2e-3, "2.00 points more accurate and takes 1.50 of its time. Which is the better choice depends"),
        (0.91, 4e-3, "3.00 points less accurate and takes 0.75 of its time. Which is the better choice depends"),
    ],
)
def test_it_says_whether_a_narrower_plain_network_is_better(accuracy, seconds, told):
    files = File(ORIGINAL, 400_000, 6e-3, 0.92), File(COMPRESSED, 50_000, 3e-3, 0.88)
    verdict = report(*files, File(NARROW, 49_000, seconds, accuracy)).verdict
    assert verdict.startswith("Beside a narrower plain network of 49.0 kB the compressed one is ") and told in verdict
    assert report(*files).verdict == ""
