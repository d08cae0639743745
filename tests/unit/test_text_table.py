import pytest

from hpaloc.log import InputError
from hpaloc.text_table import read_text_table


def test_cells_are_text_whatever_they_look_like(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('\ufeffId,more,Predicted\n007,x,\nNA,,"1 2"\n\nnan,y,1e3\n', encoding="utf-8")
    table = read_text_table(path, ["Predicted", "Id"])
    assert table.to_numpy().tolist() == [["", "007"], ["1 2", "NA"], ["1e3", "nan"]]
    path.write_text("Id,Predicted\n")
    assert read_text_table(path, ["Id"]).empty


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the columns are none; Id cannot be found"),
        (b"Id;Predicted\na;0\n", "the columns are Id;Predicted; Id cannot be found"),
        (b"Id,Predicted\na,0\nb,1,2\n", "t.csv, line 3: 3 cells, the header has 2"),
        (b"Id,Predicted\na\n", "line 2: 1 cells"),
        (b"\x82\x00PK", "not a readable CSV table in UTF-8"),
        (b'Id,Predicted\n"a,0\n', "not a readable CSV table in UTF-8"),
        (None, "not a readable CSV table"),
    ],
)
def test_what_is_no_such_table_is_refused(tmp_path, data, message):
    path = tmp_path / "t.csv"
    path.mkdir() if data is None else path.write_bytes(data)
    with pytest.raises(InputError, match=message):
        read_text_table(path, ["Id"])
