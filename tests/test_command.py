import pytest

from dbf_keras import command


@pytest.mark.parametrize(
    "mean, std, found",
    [
        (None, None, None),
        (["127.5"], ["2"], ([127.5], [2.0])),
        (["1", "2.5", "-3"], None, ([1.0, 2.5, -3.0], [1.0])),
        (None, ["255"], ([0.0], [255.0])),
        (["1e2"], ["3", "4", "5"], ([100.0], [3.0, 4.0, 5.0])),
    ],
)
def test_a_normalization_is_read(mean, std, found):
    assert command.parse_normalization(mean, std) == found


@pytest.mark.parametrize(
    "mean, std, told",
    [
        (["a"], None, "could not convert string to float: 'a'"),
        (["1"], [""], "could not convert"),
        (["1"], ["0"], "over 0; got 0"),
        (["1"], ["2", "-1"], "over 0; got -1"),
        (["nan"], None, "got nan"),
        (["1"], ["inf"], "got inf"),
    ],
)
def test_a_normalization_of_no_numbers_is_told(mean, std, told):
    with pytest.raises(ValueError, match=f"--mean and --std take numbers, by channel or one.*{told}"):
        command.parse_normalization(mean, std)


@pytest.mark.parametrize(
    "text", ["ant\nbee\n\nünter cow", "ant\nbee\n\nünter cow\n", "ant\r\nbee\r\n\r\nünter cow\r\n"]
)
def test_lines_are_read(text, tmp_path):
    """Also those of other systems; an empty one between others is a name, too."""
    (tmp_path / "labels.txt").write_bytes(text.encode())
    assert command.read_lines(str(tmp_path / "labels.txt")) == ["ant", "bee", "", "ünter cow"]


def test_a_file_of_other_letters_is_told(tmp_path):
    (tmp_path / "labels.txt").write_bytes("ünter".encode("latin-1"))
    with pytest.raises(ValueError, match="labels.txt is no UTF-8 text"):
        command.read_lines(str(tmp_path / "labels.txt"))
