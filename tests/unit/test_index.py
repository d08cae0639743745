import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from hpaloc.classes import CHANNELS
from hpaloc.files import sha256_of_file
from hpaloc.index import ARRAYS_SCHEMA, INDEX_SCHEMA, read_index, write_index
from hpaloc.log import InputError


def raw_frame(ids=("b", "a", "c"), labels=([16, 0], [], None)):
    frame = pd.DataFrame({"image_id": list(ids), "parent": list(ids), "source": "made"})
    frame["antibody"] = ["HPA1", None, np.nan]
    frame["labels"] = pd.Series(list(labels), dtype=object)
    for name, value in (("x", 0), ("y", 0), ("width", 64), ("height", 48)):
        frame[name] = value
    for channel in CHANNELS:
        frame[f"path_{channel}"] = [f"{image_id}_{channel}.png" for image_id in ids]
        frame[f"bytes_{channel}"] = 5_000_000_000
        frame[f"sha256_{channel}"] = "0" * 64
    return frame


def test_an_index_comes_back_as_it_was_written(tmp_path):
    path = tmp_path / "index.parquet"
    write_index(raw_frame(), path)
    back = read_index(path)
    assert list(back["image_id"]) == ["b", "a", "c"]
    assert list(back["labels"]) == [[16, 0], [], None]
    assert back["antibody"].isna().tolist() == [False, True, True]
    assert back["gene"].isna().all()
    assert back["bytes_red"].tolist() == [5_000_000_000] * 3
    assert pq.read_schema(path).metadata is None
    assert pq.read_schema(path).equals(INDEX_SCHEMA)
    assert (tmp_path / "index.sha256").read_text().strip() == sha256_of_file(path)


def test_writing_what_was_read_gives_the_same_bytes(tmp_path):
    write_index(raw_frame(), tmp_path / "one.parquet")
    write_index(read_index(tmp_path / "one.parquet"), tmp_path / "two.parquet")
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


def test_an_index_of_arrays_leaves_the_files_out(tmp_path):
    frame = raw_frame().assign(shard=[0, 0, 1], row=[0, 1, 0])
    write_index(frame, tmp_path / "index.parquet")
    assert list(read_index(tmp_path / "index.parquet").columns) == ARRAYS_SCHEMA.names


def test_labels_may_be_arrays(tmp_path):
    labels = (np.array([1], np.int8), np.array([], np.int8), None)
    write_index(raw_frame(labels=labels), tmp_path / "index.parquet")
    assert list(read_index(tmp_path / "index.parquet")["labels"]) == [[1], [], None]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (raw_frame(ids=("a", "b", "a")), "stand twice.*'a'"),
        (raw_frame(labels=([28], [], None)), "'b' has labels out of range"),
        (raw_frame().drop(columns="path_blue"), "lacks the column path_blue"),
        (raw_frame().assign(sha256_red=["0", None, "0"]), "'a' has no value of sha256_red"),
    ],
)
def test_a_wrong_frame_is_refused(tmp_path, frame, message):
    with pytest.raises(InputError, match=message):
        write_index(frame, tmp_path / "index.parquet")
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_index_is_refused(tmp_path):
    path = tmp_path / "index.parquet"
    path.write_bytes(b"<html>404</html>")
    with pytest.raises(InputError, match="not a readable index"):
        read_index(path)
    pd.DataFrame({"Id": ["a"]}).to_parquet(path)
    with pytest.raises(InputError, match="its columns are Id"):
        read_index(path)
