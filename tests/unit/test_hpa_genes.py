import json
import logging
import zipfile

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_entries import gene

import fetch_hpa_genes
from hpaloc.classes import CLASS_NAMES
from hpaloc.hpa.genes import Gene, chosen_genes, draw_genes, read_genes
from hpaloc.log import InputError

COLUMNS = ["Gene", "Gene name", "Reliability", "Enhanced", "Supported", "Approved", "Uncertain"]


def table(tmp_path, *rows, columns=COLUMNS, name="table.tsv"):
    path = tmp_path / name
    lines = ["\t".join(columns), *("\t".join(row) for row in rows)]
    text = "\n".join(lines) + "\n"
    if name.endswith(".zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("subcellular_location.tsv", text)
    else:
        path.write_text(text)
    return path


def row(number, approved="Cytosol", reliability="Approved", uncertain=""):
    return [gene(number), f"G{number}", reliability, "", "", approved, uncertain]


@pytest.mark.parametrize("name", ["table.tsv", "table.tsv.zip", "table"])
def test_rows_in_the_order_of_the_walk_plain_or_packed(tmp_path, name):
    path = table(
        tmp_path, row(20), row(3, "Nucleoplasm;Golgi apparatus", uncertain="Vesicles"), row(3000),
        row(20), name=name,
    )  # fmt: skip
    genes = read_genes(path)
    assert [found.gene for found in genes] == [gene(3), gene(20), gene(3000)]
    assert genes[0] == Gene(
        gene(3), "G3", "Approved", ("Nucleoplasm", "Golgi apparatus", "Vesicles")
    )


def test_columns_by_name_of_any_release(tmp_path):
    columns = ["Reliability", "Main location", "GO id", "Approved", "Validated", "Gene"]
    path = table(tmp_path, ["Validated", "x", "y", "Cytosol", "Nucleoli", gene(1)], columns=columns)
    assert read_genes(path) == [Gene(gene(1), "", "Validated", ("Nucleoli", "Cytosol"))]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "columns are none"),
        ("<html><body>", "not the atlas's table"),
        ("Gene\tName\nENSG00000000001\tA\n", "no column Reliability and one of Enhanced"),
        ("Gene\tReliability\tApproved\n", "without any gene"),
        ("Gene\tReliability\tApproved\nENSG1\tApproved\tCytosol\n", "row 2: 'ENSG1' is no"),
        ("Gene\tReliability\tApproved\nENSG00000000001\tAppr", "row 2: 2 cells"),
        ("Gene\tReliability\tApproved\n../../etc\tApproved\tCytosol\n", "row 2"),
        (
            "Gene\tReliability\tApproved\nENSG00000000001\tApproved\tA\nENSG00000000001\tApproved\tB\n",
            "row 3: ENSG00000000001 stands twice",
        ),
        (b"Gene\tReliability\xff", "UTF-8"),
    ],
)
def test_other_tables_in_words(tmp_path, text, message):
    path = tmp_path / "table.tsv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=message):
        read_genes(path)


def test_damaged_and_strange_archives(tmp_path, monkeypatch):
    path = table(tmp_path, *(row(n) for n in range(500)), name="a.tsv.zip")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"damaged|cannot be read"):
        read_genes(path)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="cannot be read"):
        read_genes(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.tsv", "x")
        archive.writestr("b.tsv", "x")
    with pytest.raises(InputError, match=r"2 \.tsv files"):
        read_genes(path)
    with pytest.raises(InputError, match="no such table"):
        read_genes(tmp_path / "absent.tsv")
    monkeypatch.setattr("hpaloc.hpa.genes.MAX_BYTES", 100)
    with pytest.raises(InputError, match="no table of the atlas"):
        read_genes(table(tmp_path, *(row(n) for n in range(50)), name="b.tsv.zip"))


GENES = [
    Gene(gene(number), "", reliability, locations)
    for number, (reliability, locations) in enumerate(
        [
            *[("Approved", ("Cytosol",))] * 20,
            *[("Supported", ("Nucleoli",))] * 20,
            *[("Enhanced", ("Cell Junctions",))] * 2,
            *[("Uncertain", ("Cytosol",))] * 20,
            *[("Approved", ("Cytosol", "Nucleoli"))] * 20,
            *[("Approved", ("Vesicles",))] * 20,
            ("Uncertain", ("Mitochondria",)),
            ("Approved", ("Rods & Rings",)),
        ]
    )
]


class TestDraw:
    def test_genes_of_one_certain_location(self, caplog):
        with caplog.at_level(logging.WARNING):
            drawn = draw_genes(GENES, 5, [2, 22, 25], 1)
        assert [gene.locations for gene in drawn] == (
            [("Cytosol",)] * 5 + [("Nucleoli",)] * 5 + [("Cell Junctions",)] * 2
        )
        assert all(gene.reliability != "Uncertain" for gene in drawn)
        assert "Cell junctions: 2 genes" in caplog.text

    @given(st.integers(0, 50), st.integers(1, 12), st.permutations(range(len(GENES))))
    def test_the_same_for_a_seed_whatever_the_order(self, seed, count, order):
        drawn = draw_genes(GENES, count, [25, 2], seed)
        mixed = draw_genes([GENES[k] for k in order], count, [2, 25], seed)
        assert drawn == sorted(mixed)
        assert set(drawn) <= set(draw_genes(GENES, count + 3, [2, 25], seed))

    def test_another_seed_draws_others(self):
        assert draw_genes(GENES, 5, [25], 1) != draw_genes(GENES, 5, [25], 2)

    @pytest.mark.parametrize(("number", "message"), [(23, "no gene"), (27, "gives no image")])
    def test_classes_without_genes(self, number, message):
        with pytest.raises(InputError, match=message):
            draw_genes(GENES, 5, [25, number], 1)


def test_which_entries_a_selection_needs():
    def chosen(walk, genes):
        return chosen_genes(GENES, {"walk": walk, "genes": genes})

    assert chosen("all", None) == GENES
    assert chosen("paper", [gene(3)]) == GENES
    assert chosen("all", [gene(30), gene(3)]) == [GENES[3], GENES[30]]
    assert len(chosen("all", {"per_class": 4, "classes": [2], "seed": 1})) == 4
    with pytest.raises(InputError, match=gene(999)):
        chosen("all", [gene(3), gene(999)])


def test_the_users_table_needs_no_network(tmp_path, inputs_of):
    path = table(tmp_path, row(2), row(1), row(3, "Nucleoli"))
    settings = {"genes_table": str(path), "select": {"walk": "all", "genes": [gene(3), gene(1)]}}
    arguments = ["--settings", json.dumps(settings), "--downloads", str(tmp_path / "downloads")]
    out = tmp_path / "genes.csv"
    fetch_hpa_genes.main([*arguments, "--network", "{}", "--genes", str(out)])
    assert pd.read_csv(out)["gene"].tolist() == [gene(1), gene(3)]
    assert pd.read_csv(out)["locations"].tolist() == [CLASS_NAMES[25], CLASS_NAMES[2]]
    assert not (tmp_path / "downloads").exists()
    assert inputs_of(out) == {str(path)}
