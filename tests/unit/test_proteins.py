import pandas as pd
import pytest

from hpaloc.proteins import antibody_number, comparable_genes


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("HPA004109", "4109"), ("4109", "4109"), ("CAB000020", "20"), (" HPA1 ", "1"),
        ("ab1234", "ab1234"), ("HPA", "HPA"), ("0", "0"),
    ],
)  # fmt: skip
def test_antibodies_by_name_and_by_number(name, number):
    assert antibody_number(name) == number


def test_genes_in_other_words_are_unknown(caplog):
    ensembl = pd.Series(["ENSG00000000003", "ENSG00000000460.12", None], dtype="string")
    symbols = pd.Series(["TSPAN6", None, "ENSG00000000460"], dtype="string")
    names = ("ours", "theirs")
    columns = comparable_genes(ensembl, symbols, names)
    assert [column.fillna("").tolist() for column in columns] == [
        ["ENSG00000000003", "ENSG00000000460", ""],
        ["", "", "ENSG00000000460"],
    ]
    assert "1 of 2 genes of theirs are no Ensembl ids" in caplog.text
    caplog.clear()
    columns = comparable_genes(symbols.iloc[:2], symbols.iloc[:2], names)
    assert [column.fillna("").tolist() for column in columns] == [["TSPAN6", ""]] * 2
    nothing = pd.Series([None, None], dtype=object)
    assert all(column.isna().all() for column in comparable_genes(nothing, nothing, names))
    assert not caplog.text
