"""One reader for all tables of ids and labels: the same tolerance, whatever they are for."""

import unicodedata

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpaloc.answers import ANSWERS, TRUTH, read_sheet
from hpaloc.classes import CLASS_NAMES
from hpaloc.hpa.image_list import read_image_list
from hpaloc.hpa.selection import read_ids
from hpaloc.label_table import read_labels
from hpaloc.log import InputError
from hpaloc.text_table import read_text_table

COLUMNS = dict.fromkeys(("id", "labels", "antibody", "gene", "cell_line"))
# Ids of atlas images: what all of the readers take.
TABLE = {
    "4109_24_H11_1": [25, 0],
    "10008_57_F11_1": [],
    "7_1_A1_2_cr5a": [27],
    "9_si4_B2_1": [3, 2],
}
OTHER_NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="\0\r\n"), min_size=1, max_size=5
)


@st.composite
def written(draw):
    """The bytes of a table, in one of the ways that people and programs write it; and column."""
    separator = draw(st.sampled_from(",;\t"))
    end = draw(st.sampled_from(["\n", "\r\n"]))
    quoted = draw(st.booleans())
    with_names = draw(st.booleans())
    between = (
        draw(st.sampled_from([";", "|", ", "])) if with_names else draw(st.sampled_from(" ;|,"))
    )
    # A column of other words, which may hold separators, quotes and breaks of lines.
    more = draw(st.sampled_from([None, "plain", 'with ; , \t "all"', "two\nlines", "Zu\u0308rich"]))

    def cell(text):
        special = any(letter in text for letter in f'{separator}"\n\r')
        return f'"{text.replace(chr(34), chr(34) * 2)}"' if quoted or special else text

    def row(image_id, label, other):
        cells = [image_id, label] if more is None else [other, image_id, label]
        return separator.join(map(cell, cells)) + end

    def label(numbers):
        return between.join(CLASS_NAMES[n] if with_names else str(n) for n in numbers)

    column = draw(st.sampled_from([TRUTH, ANSWERS]))
    blank = st.sampled_from(["", end, separator * (1 if more is None else 2) + end])
    text = row("Id", column, "comment")
    for image_id, numbers in TABLE.items():
        text += draw(blank) + row(image_id, label(numbers), more)
    if draw(st.booleans()):
        text = f"sep={separator}{end}{text}"
    if draw(st.booleans()):
        text = text.removesuffix(end)
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
    return text.encode(encoding), column


@given(written())
def test_every_reader_reads_every_way_to_write_a_table(tmp_path_factory, table):
    content, column = table
    path = tmp_path_factory.mktemp("tables") / "t.csv"
    path.write_bytes(content)
    expected = list(TABLE.items())
    sheet = read_sheet(path, column)
    assert list(zip(sheet["image_id"], sheet["labels"], strict=True)) == expected
    rows = read_labels(path, COLUMNS | {"labels": column})
    assert [(image_id, row["labels"]) for image_id, row in rows.items()] == expected
    assert read_ids(path) == list(TABLE)
    assert read_text_table(path, ["Id"])["Id"].tolist() == list(TABLE)
    if column == TRUTH:
        images, left_out = read_image_list(path)
        assert list(zip(images["image_id"], images["labels"], strict=True)) == expected
        assert left_out.empty


@given(st.dictionaries(OTHER_NAMES.map(str.strip).filter(bool), st.just([1]), min_size=1))
def test_ids_are_composed_and_collide_where_they_are_the_same(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("ids") / "t.csv"
    frame = pd.DataFrame({"Id": rows.keys(), "Target": "1"})
    frame.to_csv(path, index=False)
    composed = [unicodedata.normalize("NFC", image_id).strip() for image_id in rows]
    if len(set(composed)) < len(composed):
        with pytest.raises(InputError, match="already"):
            read_labels(path, COLUMNS)
    else:
        assert list(read_labels(path, COLUMNS)) == composed


def test_advice_fits_what_can_be_done(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text('image,locations\n4109_1832_C1_2,"Centrosome"\n')
    with pytest.raises(InputError, match=r"Name it as columns\.labels\."):
        read_labels(path, COLUMNS)
    for read, name in (
        (read_image_list, "Target"),
        (lambda path: read_sheet(path, TRUTH), "Target"),
        (lambda path: read_sheet(path, ANSWERS), "Predicted"),
    ):
        with pytest.raises(
            InputError, match=rf"are image, locations\..*rename.* to {name}\."
        ) as error:
            read(path)
        assert "columns." not in str(error.value)
    path.write_text("image,Target\n4109_1832_C1_2,Centrosome\n")
    assert read_image_list(path)[0]["labels"].tolist() == [[19]]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_column_is_found_in_any_unicode_form(tmp_path, form):
    path = tmp_path / "t.csv"
    path.write_text("\u00c9chantillon,Id,Target\na,b,1\n", encoding="utf-8")
    name = unicodedata.normalize(form, "\u00c9chantillon")
    assert list(read_labels(path, COLUMNS | {"id": name})) == ["a"]


def test_a_list_names_the_line_of_an_id_that_is_none(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("Id,Target\n\n4109_1832_C1_2,1\nnone,2\n")
    with pytest.raises(InputError, match=r"list\.csv, line 4: .none. is no id"):
        read_image_list(path, "stop")
    assert read_image_list(path)[1]["reason"].str.startswith("line 4:").all()
