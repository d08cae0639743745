import gzip
import json

import pandas as pd
import pytest
from atlas_server import Answer, AtlasServer, atlas_answers
from made_entries import gene, simple, write

import fetch_hpa_entries
import fetch_hpa_genes
import index_hpa
from hpaloc.hpa.atlas import read_atlas
from hpaloc.hpa.download import fetch_entries
from hpaloc.log import InputError

TABLE = "Gene\tReliability\tApproved\n" + "".join(
    f"{gene(number)}\tApproved\t{'Nucleoli' if number % 2 else 'Cytosol'}\n"
    for number in range(1, 7)
)
PAGE = Answer(200, b"<!DOCTYPE html><html><body>No such gene</body></html>", "text/html")
# In which this body is not the whole one.
CUT = simple(3)[:400].encode()


@pytest.fixture
def server(tmp_path):
    for number in range(1, 7):
        write(tmp_path / "served", f"{gene(number)}.xml", simple(number))
    (tmp_path / "served.tsv").write_text(TABLE)
    with AtlasServer(atlas_answers(tmp_path / "served", tmp_path / "served.tsv")) as server:
        yield server


def network(*servers, **changes):
    return {
        "connections": 4, "requests_per_second": None, "attempts": 2, "timeout_s": 2,
        "contact": "", "private_addresses": True,
        "addresses": {
            "genes": [server.url("/download/subcellular_location.tsv.zip") for server in servers],
            "entries": [server.url("/{gene}.xml") for server in servers],
            "images": [],
        },
    } | changes  # fmt: skip


def genes_csv(tmp_path, server, select=None, **changes):
    settings = {"genes_table": None, "select": {"walk": "all", "genes": select}}
    out = tmp_path / "genes.csv"
    fetch_hpa_genes.main(
        [
            "--settings", json.dumps(settings), "--downloads", str(tmp_path / "downloads"),
            "--network", json.dumps(network(server, **changes)), "--genes", str(out),
        ]
    )  # fmt: skip
    return out


def entries_csv(tmp_path, genes, *servers):
    out = tmp_path / "entries.csv"
    fetch_hpa_entries.main(
        [
            "--genes", str(genes), "--downloads", str(tmp_path / "downloads"),
            "--network", json.dumps(network(*servers)), "--entries", str(out),
            "--digest", str(tmp_path / "entries.sha256"),
        ]
    )  # fmt: skip
    return pd.read_csv(out, keep_default_na=False)


def test_from_the_table_to_the_index(tmp_path, server):
    genes = genes_csv(tmp_path, server)
    assert pd.read_csv(genes)["gene"].tolist() == [gene(number) for number in range(1, 7)]
    entries = entries_csv(tmp_path, genes, server)
    assert entries["gene"].tolist() == [gene(number) for number in range(1, 7)]
    assert (entries["reason"] == "").all()
    stored = tmp_path / "downloads" / entries["path"].iloc[2]
    assert stored.name == f"{gene(3)}.xml.gz"
    assert gzip.decompress(stored.read_bytes()).decode() == simple(3)
    assert stored.stat().st_size == entries["bytes"].iloc[2]

    index = tmp_path / "index.parquet"
    arguments = ["--entries", str(tmp_path / "entries.csv"), "--index", str(index)]
    index_hpa.main([*arguments, "--downloads", str(tmp_path / "downloads")])
    assert read_atlas(index)["gene"].tolist() == [gene(n) for n in range(1, 7) for _ in range(2)]


def test_what_is_there_is_not_fetched_again(tmp_path, server):
    genes = genes_csv(tmp_path, server)
    entries_csv(tmp_path, genes, server)
    first = (tmp_path / "entries.csv").read_bytes()
    asked = len(server.asked)
    genes_csv(tmp_path, server)
    entries_csv(tmp_path, genes, server)
    assert len(server.asked) == asked
    assert (tmp_path / "entries.csv").read_bytes() == first

    folder = tmp_path / "downloads" / "entries"
    damaged = folder / f"{gene(2)}.xml.gz"
    damaged.write_bytes(damaged.read_bytes()[:-20])
    write(folder, f"{gene(5)}.xml.gz", simple(4))
    entries_csv(tmp_path, genes, server)
    assert [ask.path for ask in server.asked[asked:]] == [f"/{gene(2)}.xml", f"/{gene(5)}.xml"]
    assert (tmp_path / "entries.csv").read_bytes() == first


def test_only_the_genes_that_are_selected_are_fetched(tmp_path, server):
    draw = {"per_class": 2, "classes": [2], "seed": 1}
    genes = genes_csv(tmp_path, server, draw)
    drawn = pd.read_csv(genes)["gene"].tolist()
    assert len(drawn) == 2 and set(drawn) < {gene(1), gene(3), gene(5)}
    assert entries_csv(tmp_path, genes, server)["gene"].tolist() == drawn


def test_what_is_no_entry_is_listed(tmp_path, server):
    (tmp_path / "served" / f"{gene(1)}.xml").unlink()
    server.every = lambda path, number: {
        f"/{gene(2)}.xml": PAGE,
        f"/{gene(3)}.xml": Answer(body=simple(4).encode(), content_type="text/xml"),
        f"/{gene(4)}.xml": Answer(body=CUT, content_type="text/xml"),
    }.get(path)
    entries = entries_csv(tmp_path, genes_csv(tmp_path, server), server)
    reasons = entries.set_index("gene")["reason"]
    assert "404" in reasons[gene(1)]
    assert "HTML" in reasons[gene(2)]
    assert f"another gene, {gene(4)}" in reasons[gene(3)]
    assert "damaged" in reasons[gene(4)]
    assert reasons[gene(5)] == reasons[gene(6)] == ""
    assert entries["path"].tolist()[:4] == [""] * 4
    assert len(list((tmp_path / "downloads" / "entries").glob("*.gz"))) == 2


def test_another_host_has_what_the_first_one_lacks(tmp_path, server):
    for number in (2, 4):
        (tmp_path / "served" / f"{gene(number)}.xml").unlink()
    write(tmp_path / "mirror", f"{gene(2)}.xml.gz", simple(2))
    with AtlasServer(atlas_answers(tmp_path / "mirror")) as mirror:
        entries = entries_csv(tmp_path, genes_csv(tmp_path, server), server, mirror)
        assert set(mirror.counts) == {f"/{gene(2)}.xml", f"/{gene(4)}.xml"}
    assert entries.loc[entries["reason"] != "", "gene"].tolist() == [gene(4)]


def test_a_failure_that_passes_ends_the_job_after_all_others(tmp_path, server):
    genes = genes_csv(tmp_path, server)
    server.faults[f"/{gene(3)}.xml"] = [Answer(500)] * 2
    with pytest.raises(InputError, match=r"1 of 6 gene entries .*The other 5 are kept"):
        entries_csv(tmp_path, genes, server)
    assert not (tmp_path / "entries.csv").exists()
    asked = len(server.asked)
    assert (entries_csv(tmp_path, genes, server)["reason"] == "").all()
    assert len(server.asked) == asked + 1


def test_no_entry_at_all(tmp_path, server):
    genes = genes_csv(tmp_path, server)
    server.every = lambda path, number: PAGE
    with pytest.raises(InputError, match=r"None of 6 .*fetch\.addresses\.entries"):
        entries_csv(tmp_path, genes, server)


def test_a_truncated_entry_is_asked_for_again(tmp_path, server):
    server.faults[f"/{gene(3)}.xml"] = [Answer(body=CUT, content_type="text/xml")]
    entries = fetch_entries([gene(3)], tmp_path / "downloads", network(server))
    assert entries["reason"].tolist() == [""]
    assert server.counts[f"/{gene(3)}.xml"] == 2


@pytest.mark.parametrize("answer", [PAGE, Answer(404, b""), Answer(503)])
def test_no_table_of_genes(tmp_path, server, answer):
    server.every = lambda path, number: answer
    with pytest.raises(InputError, match="genes_table"):
        genes_csv(tmp_path, server)
    assert not list((tmp_path / "downloads").rglob("*location*"))
