import pytest

from hpaloc.log import InputError
from hpaloc.text_table import read_rows, read_text_table


def test_cells_are_text_whatever_they_look_like(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('\ufeffId,more,Predicted\n007,x,\nNA,,"1 2"\n\nnan,y,1e3\n', encoding="utf-8")
    table = read_text_table(path, ["Predicted", "Id"])
    assert table.to_numpy().tolist() == [["", "007"], ["1 2", "NA"], ["1e3", "nan"]]
    path.write_text("Id,Predicted\n")
    assert read_text_table(path, ["Id"]).empty


@pytest.mark.parametrize(
    "content",
    [
        b"Id,Predicted,x\na,0 1,y\n\nb,,",
        b"Id;Predicted;x\r\na;0 1;y\r\nb;;\r\n;;\r\n",
        b"Id\tPredicted\tx\na\t0 1\ty\n\t\t\nb\t\t\n",
        b'"Id";"Predicted";"x"\n"a";"0 1";"y"\n"b";"";""\n',
        b"sep=;\r\nId;Predicted;x\r\na;0 1;y\r\nb;;\r\n",
        b'"sep=|"\nId|Predicted|x\na|0 1|y\nb||\n',
        b"\xef\xbb\xbfSEP=\t\nId\tPredicted\tx\na\t0 1\ty\nb\t\t\n",
        "\ufeffId\tPredicted\tx\r\na\t0 1\ty\r\nb\t\t\r\n".encode("utf-16-le"),
        "\ufeffId\tPredicted\tx\na\t0 1\ty\nb\t\t\n".encode("utf-16-be"),
        b'\nId;"Predicted";"x"\na;0 1;y\nb;;\n',
        b"Id;Predicted;x\ra;0 1;y\rb;;\r",
        b"sep=;\rId;Predicted;x\ra;0 1;y\rb;;\r",
        b"Id\tPredicted\tx\ra\t0 1\ty\rb\t\t",
    ],
)
def test_every_way_to_write_a_table(tmp_path, content):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    table = read_text_table(path, ["Id", "Predicted", "x"])
    assert table.to_numpy().tolist() == [["a", "0 1", "y"], ["b", "", ""]]


def test_separators_in_quotes_do_not_count(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('"Id, as in; the; book";Predicted\na;0\n')
    assert read_text_table(path, ["Predicted"]).to_numpy().tolist() == [["0"]]


def test_text_is_composed(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("Id,Pre\u0301\nZu\u0308rich,1\n", encoding="utf-8")
    assert read_text_table(path, ["Id", "Pr\u00e9"]).to_numpy().tolist() == [["Z\u00fcrich", "1"]]


def test_rows_know_the_line_where_they_begin(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('sep=,\na,b\n\n"1\n2",3\n4,5\n')
    assert list(read_rows(path)) == [(2, ["a", "b"]), (4, ["1\n2", "3"]), (6, ["4", "5"])]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the columns are none; Id cannot be found"),
        (b"Image;Predicted\na;0\n", "the columns are Image, Predicted; Id cannot be found"),
        (b"Id,Predicted\na,0\nb,1,2\n", "line 3: 'b,1,2' has 3 cells, the header has 2"),
        (b'"sep=;\nId;Predicted\na;0\n', "t.csv, line 1: not a row of a CSV table"),
        (b'sep="\r\nId,Predicted\r\n', 'the columns are sep="'),
        (b"sep=\r\nId,Predicted\r\n", "the columns are sep=; Id cannot be found"),
        (b"Id;x\ra;1\rb;2;3\r", "line 3: 'b;2;3' has 3 cells, the header has 2"),
        (b"Id;x\ra;1\rZ\xfcrich;2\r", r"line 3: the bytes b'\\xfc'"),
        (b"Id;Predicted\n\na\n", "line 3: 'a' has 1 cells, the header has 2.* hold a ';' in"),
        (b"\x82\x00PK", "line 1: the bytes .*are not UTF-8 text.*Save the table as CSV UTF-8"),
        (
            "Id,x\na,1\nZ\u00fcrich,2\n".encode("cp1252"),
            r"line 3: the bytes b'\\xfc'.*Windows-1252",
        ),
        (b"\xff\xfeI\x00d\x00\n\x00\x00\xd8", "line 2: the bytes .* are not UTF-16-LE text"),
        ("Id,x\n".encode("utf-16-le"), "line 1: holds zero bytes: UTF-16 without"),
        (b"PK\x03\x04rest", "a workbook of a spreadsheet program"),
        (b'Id,Predicted\nb,1\n"a,0\n', "t.csv, line 3: not a row of a CSV table"),
        (None, "t.csv: cannot be read"),
    ],
)
def test_what_is_no_such_table_is_refused(tmp_path, data, message):
    path = tmp_path / "t.csv"
    path.mkdir() if data is None else path.write_bytes(data)
    with pytest.raises(InputError, match=message):
        read_text_table(path, ["Id"])
