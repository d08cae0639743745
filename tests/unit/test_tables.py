"""Tables that programs made for each other: what is damaged or of another kind is named."""

import pandas as pd
import pytest

from hpaloc.log import InputError
from hpaloc.tables import AS_TEXT, read_table


def test_a_whole_table_is_read(tmp_path):
    table = pd.DataFrame({"name": ["01", "NA"], "value": [1.5, 2.0], "more": [0, 1]})
    table.to_csv(tmp_path / "t.csv", index=False)
    table.to_parquet(tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet", ["name"], ["value"]).equals(table)
    text = read_table(tmp_path / "t.csv", ["name"], ["value"], **AS_TEXT)
    assert text["name"].tolist() == ["01", "NA"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a readable table"),
        (b"\xff\xfe\x00 nothing", "not a readable table"),
        (b"name,other\na,1\n", "the column 'value' is missing; it has name, other"),
        (b"name,value\na,1\nb,2x\n", "row 2 has '2x' in the column 'value'"),
        (b"name,value\na,1\nb", "row 2 has 'nan' in the column 'value'"),
    ],
)
def test_a_damaged_table_is_named(tmp_path, content, said):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"^{path}: {said}"):
        read_table(path, ["name", "value"], ["value"])


def test_a_damaged_parquet_table_is_named(tmp_path):
    path = tmp_path / "t.parquet"
    pd.DataFrame({"value": range(1000)}).to_parquet(path)
    content = bytearray(path.read_bytes())
    content[-60:-8] = bytes(52)
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a readable table"):
        read_table(path, ["value"])
