import gzip
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_entries import BASE, assay, block, entry, gene, image, location, simple, write

import index_hpa
from hpaloc.classes import CLASS_NAMES, format_labels
from hpaloc.files import sha256_of_file
from hpaloc.hpa import entry as entries
from hpaloc.hpa.atlas import read_atlas
from hpaloc.hpa.entry import BadEntry, read_entry
from hpaloc.hpa.walk import walk_fetched, walk_folder
from hpaloc.log import InputError
from hpaloc.triggers import status_of_list

GENE = gene(7)


def read(tmp_path, *parts):
    return read_entry(write(tmp_path, f"{GENE}.xml", entry(GENE, *parts)))


def taken(tmp_path, *parts):
    """``plate_well_n`` and labels of the images that the rule takes."""
    return [
        (image.url.removeprefix(f"{BASE}/5/").removesuffix("_blue_red_green.jpg"), image.labels)
        for image in read(tmp_path, *parts).images
    ]


def reason(tmp_path, data, name="bad.xml"):
    with pytest.raises(BadEntry) as error:
        read_entry(write(tmp_path, name, data))
    return str(error.value)


class TestRule:
    def test_labels_are_in_document_order_without_repeats_and_of_the_block_alone(self, tmp_path):
        first = block(
            "A-431", location("cytosol"), location("nucleoplasm"), location("cytosol"),
            image(5, "1_A1_1"),
        )  # fmt: skip
        second = block("U-2 OS", location("nucleoli"), image(5, "2_A1_1"))
        third = block("MCF7", image(5, "3_A1_1"))
        assert taken(tmp_path, assay("HPA000005", first, second, third)) == [
            ("1_A1_1", (25, 0)),
            ("2_A1_1", (2,)),
        ]

    def test_an_image_has_the_labels_found_before_it(self, tmp_path):
        cells = block(
            "A-431", image(5, "1_A1_1"), location("nucleoplasm"), image(5, "1_A1_2"),
            location("cytosol"), image(5, "1_A1_3"),
        )  # fmt: skip
        assert taken(tmp_path, assay("HPA000005", cells)) == [("1_A1_2", (0,)), ("1_A1_3", (0, 25))]

    def test_names_that_do_not_count(self, tmp_path):
        ignored = [
            "Mitochondria", "vesicles", "nucleus", "midbody", "rods &amp; rings", "Rods &amp; rings",
            " cytosol", "cytosol (weak)", "none", "",
        ]  # fmt: skip
        cells = block("A-431", *map(location, ignored), image(5, "1_A1_1"))
        assert taken(tmp_path, assay("HPA000005", cells)) == []

    @pytest.mark.parametrize("number", range(27))
    def test_every_other_class_counts_in_lower_case(self, tmp_path, number):
        cells = block("A-431", location(CLASS_NAMES[number].lower()), image(5, "1_A1_1"))
        assert taken(tmp_path, assay("HPA000005", cells)) == [("1_A1_1", (number,))]

    def test_the_last_validation_before_an_image_decides_across_antibodies(self, tmp_path):
        cells = location("cytosol"), image(5, "1_A1_1")
        blot = '<westernBlot><verification type="validation">uncertain</verification></westernBlot>'
        unsure = assay("HPA000001", block("A-431", *cells), verification="uncertain")
        sure = assay("HPA000005", block("A-431", *cells))
        silent = assay("HPA000005", block("A-431", *cells), verification=None)
        assert taken(tmp_path, unsure) == []
        assert len(taken(tmp_path, silent)) == 1
        assert taken(tmp_path, unsure, silent) == []
        assert len(taken(tmp_path, unsure, sure)) == 1
        assert taken(tmp_path, blot, silent) == []
        assert len(taken(tmp_path, sure, blot)) == 1

    def test_a_reliability_is_no_validation(self, tmp_path):
        text = entry(
            GENE, assay("HPA000005", block("A-431", location("cytosol"), image(5, "1_A1_1"))),
            reliability="uncertain",
        )  # fmt: skip
        found = read_entry(write(tmp_path, "a.xml", text))
        assert len(found.images) == 1
        assert found.reliability == "uncertain"

    def test_only_addresses_with_red_in_blocks_count(self, tmp_path):
        outside = image(5, "1_A1_1_selected")
        cells = block(
            "A-431", location("cytosol"), image(5, "1_A1_1", "blue_green"),
            image(5, "if", "selected"), image(5, "1_A1_2"),
        )  # fmt: skip
        after = "<image><imageUrl>http://x/5/9_A1_1_blue_red_green.jpg</imageUrl></image>"
        assert taken(tmp_path, outside, assay("HPA000005", cells), after) == [("1_A1_2", (25,))]

    def test_gfp_and_sirna_assays(self, tmp_path):
        tagged = "<antibodyData>" + location("Cytosol") + "</antibodyData>" + image(5, "fp1_A1_1")
        silenced = '<sirna sirna="1"/>' + image(5, "si1_A1_1")
        nested = "<antibodyData>" + location("cytosol") + "</antibodyData>" + image(5, "fp1_A2_1")
        parts = [
            assay("HPA000005", block("HeLa", tagged), kind="gfp"),
            assay("HPA000005", block("U-2 OS", silenced), kind="sirna"),
            assay("HPA000005", block("HeLa", nested), kind="gfp"),
        ]
        assert taken(tmp_path, *parts) == [("fp1_A2_1", (25,))]

    def test_what_the_rule_ignores_is_kept(self, tmp_path):
        cells = block("U-2 OS", location("cytosol"), image(5, "1_A1_1"))
        found = read(tmp_path, assay("CAB000005", cells, kind="mouse", verification="enhanced"))
        assert (found.gene, found.reliability) == (GENE, "approved")
        (seen,) = found.images
        assert seen.cell_line == "U-2 OS"
        assert seen.antibody_name == "CAB000005"
        assert seen.sub_assay == "mouse"
        assert seen.verification == "enhanced"


class TestBadEntries:
    def test_what_is_no_entry_has_its_reason(self, tmp_path):
        page = b"\n\t<!DOCTYPE HTML PUBLIC '-//W3C//DTD'><html><body>404 &nbsp; Not found</body>"
        whole = simple(7)
        cases = {
            "empty": b"",
            "web page": page,
            "first element is <feed>": b"<feed/>",
            "no gene entry": b"<proteinAtlas/>",
            "more than one gene entry": whole.replace("</entry>", "</entry><entry/>").encode(),
            "Ensembl id is None": whole.replace("identifier", "other").encode(),
            "Ensembl id is 'ENSG7'": whole.replace(GENE, "ENSG7").encode(),
            "damaged": whole.replace("</data>", "</date>").encode(),
            "not well-formed": b"\x89PNG\r\n\x1a\n" + bytes(50),
        }
        for part, data in cases.items():
            assert part in reason(tmp_path, data)

    @pytest.mark.parametrize("encoding", ["x-none", "utf-7", "cp037", "gb2312", "a\u0308"])
    def test_encodings_that_are_not_read(self, tmp_path, encoding):
        path = tmp_path / "a.xml"
        path.write_text(f'<?xml version="1.0" encoding="{encoding}"?><proteinAtlas/>')
        with pytest.raises(BadEntry, match=r"encoding|damaged"):
            read_entry(path)

    def test_a_web_page_with_a_byte_order_mark_is_one(self, tmp_path):
        (tmp_path / "a.xml").write_text("\ufeff<!DOCTYPE html><html></html>", "utf-8")
        with pytest.raises(BadEntry, match="web page"):
            read_entry(tmp_path / "a.xml")

    def test_entities_are_refused(self, tmp_path):
        bomb = (
            '<!DOCTYPE proteinAtlas [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;">'
            '<!ENTITY c SYSTEM "file:///etc/passwd">]>'
        )
        text = simple(7).replace("<proteinAtlas", bomb + "<proteinAtlas", 1)
        assert "declares a document type" in reason(tmp_path, text.replace("MADE", "&b;&c;"))

    @given(st.integers(min_value=0, max_value=len(simple(7)) - 20), st.booleans())
    def test_a_cut_entry_is_never_taken_for_a_whole_one(self, tmp_path_factory, end, packed):
        folder = tmp_path_factory.mktemp("cut")
        data = simple(7).encode()
        if packed:
            data = gzip.compress(data)
            end = end * (len(data) - 1) // len(simple(7))
        with pytest.raises(BadEntry) as error:
            read_entry(write(folder, "cut.xml", data[:end]))
        assert error.value.cut_off

    @given(st.binary(max_size=200))
    def test_any_bytes_are_an_entry_or_have_a_reason(self, tmp_path_factory, data):
        path = write(tmp_path_factory.mktemp("any"), "a.xml", data)
        with pytest.raises(BadEntry, match=r"\w"):
            read_entry(path)

    def test_gzip_by_content_whatever_the_name(self, tmp_path):
        packed = gzip.compress(simple(7).encode())
        assert read_entry(write(tmp_path, "a.xml", packed)).gene == GENE
        path = tmp_path / "b.xml.gz"
        path.write_text(simple(7))
        assert read_entry(path).gene == GENE

    def test_damaged_gzip(self, tmp_path):
        packed = bytearray(gzip.compress(simple(7).encode()))
        packed[len(packed) // 2] ^= 0xFF
        assert "damaged" in reason(tmp_path, bytes(packed))
        packed = bytearray(gzip.compress(simple(7).encode()))
        packed[-6] ^= 0xFF  # the checksum
        assert "gzip file is damaged" in reason(tmp_path, bytes(packed))

    def test_limits(self, tmp_path, monkeypatch):
        long_name = simple(7, label="x" * 5000)
        assert "longer than 4096 characters" in reason(tmp_path, long_name)
        deep = simple(7).replace("<name>MADE</name>", "<data>" * 200 + "</data>" * 200)
        assert "nested more than 100" in reason(tmp_path, deep)
        many = simple(7).replace(
            "<name>MADE</name>", "".join(f"<a{number}/>" for number in range(60_000))
        )
        assert "kinds of elements" in reason(tmp_path, many)
        comment = simple(7).replace("<name>MADE</name>", f"<!--{'x' * 9_000_000}-->")
        assert "longer than 4 MiB" in reason(tmp_path, comment)
        monkeypatch.setattr(entries, "_MAX_IMAGES", 3)
        assert "more than 3 images" in reason(tmp_path, simple(7, images=4))
        monkeypatch.setattr(entries, "MAX_BYTES", 2**20)
        bomb = gzip.compress(simple(7).replace("MADE", " " * 2**21).encode())
        assert "unpacks to more than 1 MiB" in reason(tmp_path, bomb)

    def test_200_mb_in_bounded_memory(self, tmp_path):
        """An entry with a text of 200 MB, read in a process whose memory may hardly grow."""
        path = tmp_path / "large.xml.gz"
        begin, end = simple(7).encode().split(b"MADE")
        with gzip.open(path, "wb", compresslevel=1) as file:
            file.write(begin)
            for _ in range(200):
                file.write((b"words of a summary " * 60_000)[: 10**6])
            file.write(end)
        program = (
            "import resource, sys; from hpaloc.hpa.entry import read_entry;"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
            "entry = read_entry(sys.argv[1]);"
            "print(len(entry.images), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
        )
        scripts = Path(index_hpa.__file__).parent
        done = subprocess.run(
            [sys.executable, "-c", program, str(path)],
            capture_output=True, text=True, check=True, cwd=scripts,
        )  # fmt: skip
        images, grown_kib = map(int, done.stdout.split())
        assert images == 2
        assert grown_kib < 20_000


class TestWalk:
    def test_genes_in_alphabetical_order_and_running_numbers(self, tmp_path):
        for number in (30, 4, 200):
            write(tmp_path, f"{gene(number)}.xml.gz", simple(number))
        write(tmp_path / "more", "unnamed.xml", simple(5, images=1))
        walk, left_out = walk_folder(tmp_path)
        assert left_out.empty
        assert list(walk["walk"]) == list(range(7))
        assert list(walk["gene"]) == [gene(n) for n in (4, 4, 5, 30, 30, 200, 200)]
        assert walk["image_id"].iloc[3] == "30_30_A1_1"

    def test_bad_files_are_listed_or_stop(self, tmp_path, caplog):
        write(tmp_path, f"{gene(1)}.xml", simple(1))
        write(tmp_path, f"{gene(2)}.xml", "<html><body>not found</body></html>")
        write(tmp_path, f"{gene(3)}.xml.gz", simple(4))
        write(tmp_path, "again.xml.gz", simple(1))
        with caplog.at_level(logging.WARNING):
            walk, left_out = walk_folder(tmp_path)
        assert list(walk["gene"]) == [gene(1)] * 2
        reasons = dict(left_out.itertuples(index=False, name=None))
        assert "web page" in reasons[f"{gene(2)}.xml"]
        assert f"another gene, {gene(4)}" in reasons[f"{gene(3)}.xml.gz"]
        assert len(reasons) == 3 and any("again" in reason for reason in reasons.values())
        assert "3 files are no gene entries" in caplog.text
        with pytest.raises(InputError, match=r"3 files are no gene entries .*skip"):
            walk_folder(tmp_path, "stop")

    def test_names_that_are_not_utf_8_are_listed(self, tmp_path):
        write(tmp_path, f"{gene(1)}.xml", simple(1))
        write(tmp_path, os.fsdecode(b"bad\xff.xml"), "<html/>")
        out = tmp_path / "left_out.csv"
        index_hpa.main(
            [
                *("--xml", str(tmp_path), "--index", str(tmp_path / "index.parquet")),
                *("--left-out", str(out)),
            ]
        )
        assert pd.read_csv(out)["file"].tolist() == [r"bad\udcff.xml"]

    def test_an_address_of_no_image_keeps_its_number(self, tmp_path):
        odd = f"<imageUrl>{BASE}/7/odd_red.jpg</imageUrl>"
        text = entry(
            gene(7), assay("HPA000007", block("A", location("cytosol"), odd, image(7, "7_A1_1")))
        )
        write(tmp_path, "a.xml", text)
        walk, _ = walk_folder(tmp_path)
        assert walk["image_id"].isna().tolist() == [True, False]
        assert walk["walk"].tolist() == [0, 1]

    def test_processes_give_the_same_order(self, tmp_path, monkeypatch):
        for number in range(12):
            write(tmp_path, f"{gene(number)}.xml.gz", simple(number, images=1))
        write(tmp_path, f"{gene(12)}.xml", "no entry")
        alone = walk_folder(tmp_path)
        monkeypatch.setattr("hpaloc.hpa.walk._FILES_PER_PROCESS", 2)
        together = walk_folder(tmp_path, workers=2)
        for first, second in zip(alone, together, strict=True):
            pd.testing.assert_frame_equal(first, second)

    @pytest.mark.parametrize("files", [None, {}, {"a.txt": "x"}, {"a.xml": "x"}])
    def test_nothing_to_walk(self, tmp_path, files):
        folder = tmp_path / "entries"
        if files is not None:
            folder.mkdir()
            for name, text in files.items():
                write(folder, name, text)
        with pytest.raises(InputError, match="entries"):
            walk_folder(folder)

    def test_fetched_entries_and_missing_genes(self, tmp_path):
        write(tmp_path / "entries", f"{gene(1)}.xml.gz", simple(1))
        table = tmp_path / "entries.csv"
        table.write_text(
            "gene,path,bytes,sha256,reason\n"
            f"{gene(1)},entries/{gene(1)}.xml.gz,1,a,\n{gene(2)},,0,,v18: 404\n"
        )
        walk, left_out = walk_fetched(table, tmp_path)
        assert len(walk) == 2
        assert left_out.values.tolist() == [[gene(2), "v18: 404"]]
        with pytest.raises(InputError, match="404"):
            walk_fetched(table, tmp_path, "stop")
        table.write_text("gene,path,bytes,sha256,reason\nENSG,../x.xml,1,a,\n")
        with pytest.raises(InputError, match="leaves the folder"):
            walk_fetched(table, tmp_path)

    def test_real_entries_give_exactly_the_expected_images(self, shared, tmp_path):
        folder = shared / "data" / "hpa_v18"
        index, left_out = tmp_path / "index.parquet", tmp_path / "left_out.csv"
        index_hpa.main(
            ["--xml", str(folder / "xml"), "--index", str(index), "--left-out", str(left_out)]
        )
        walk = read_atlas(index)
        walk["target"] = walk["labels"].map(format_labels)
        expected = pd.read_csv(folder / "expected_images.csv", dtype=str)
        pd.testing.assert_frame_equal(
            walk[list(expected.columns)].astype(object), expected.astype(object), check_dtype=False
        )
        assert walk["image_id"].iloc[0] == "4109_24_H11_1"
        assert pd.read_csv(left_out)["file"].tolist() == ["Gene.xml.gz"]
        again = tmp_path / "again.parquet"
        index_hpa.main(["--xml", str(folder / "xml"), "--index", str(again)])
        assert again.read_bytes() == index.read_bytes()
        with pytest.raises(InputError, match="web page"):
            index_hpa.main(
                ["--xml", str(folder / "xml"), "--index", str(again), "--bad-entries", "stop"]
            )


def changed_meanwhile(monkeypatch, path, text):
    """The program's last step before it keeps the sums, and then an edit of its input."""
    real = index_hpa.write_atlas

    def write_and_edit(*arguments):
        real(*arguments)
        assert len(text.encode()) == path.stat().st_size
        path.write_text(text)

    monkeypatch.setattr(index_hpa, "write_atlas", write_and_edit)


def index_with_token(option, path, source):
    """Plan and job of a source: the token of its list or entries."""
    token = status_of_list(path, source, True).token
    index_hpa.main(
        [option, str(path), "--index", f"{source}/atlas/index.parquet", "--contents", token]
    )
    return token


def test_an_entry_that_changes_while_entries_are_read_is_noticed(tmp_path, monkeypatch):
    entries, source = tmp_path / "entries", tmp_path / "source"
    path = write(entries, f"{gene(1)}.xml", simple(1, "cytosol"))
    write(entries, f"{gene(2)}.xml", simple(2))
    changed_meanwhile(monkeypatch, path, simple(1, "nucleus"))
    token = index_with_token("--xml", entries, source)
    status = status_of_list(entries, source, True)
    assert (status.changes.edited, status.token == token) == ([path.name], False)


def test_a_list_that_changes_while_it_is_read_is_noticed(tmp_path, monkeypatch, inputs_of):
    path, source = tmp_path / "list.csv", tmp_path / "source"
    path.write_text("Id,Target\n10_1_C1_1,1\n")
    before = sha256_of_file(path)
    changed_meanwhile(monkeypatch, path, "Id,Target\n10_1_C1_1,5\n")
    token = index_with_token("--list", path, source)
    assert status_of_list(path, source, True).token != token
    record = json.loads((source / "atlas/index.provenance.json").read_text())
    assert record["inputs"][str(path)]["sha256"] == before


def test_an_entry_that_cannot_be_read_is_skipped_until_it_can(tmp_path):
    entries, source = tmp_path / "entries", tmp_path / "source"
    write(entries, f"{gene(1)}.xml", simple(1))
    (entries / f"{gene(2)}.xml").symlink_to(tmp_path / "later.xml")
    token = index_with_token("--xml", entries, source)
    assert status_of_list(entries, source, True).token == token
    write(tmp_path, "later.xml", simple(2))
    assert status_of_list(entries, source, True).token != token
    index_with_token("--xml", entries, source)
    assert read_atlas(source / "atlas/index.parquet")["gene"].nunique() == 2


def test_image_lists(tmp_path, caplog):
    table = tmp_path / "list.csv"
    table.write_text("Id,Target\n10_1_C1_1,13 25 0\n11_2_F3_18_cr58061,2\n12_si3_A1_4,\nnoid,3\n")
    index, left_out = tmp_path / "index.parquet", tmp_path / "left_out.csv"
    arguments = ["--list", str(table), "--index", str(index), "--left-out", str(left_out)]
    index_hpa.main([*arguments, "--digest", str(tmp_path / "index.sha256")])
    images = read_atlas(index)
    assert images["image_id"].tolist() == ["10_1_C1_1", "11_2_F3_18_cr58061", "12_si3_A1_4"]
    assert images["labels"].tolist() == [[13, 25, 0], [2], []]
    assert images["url"].iloc[0] == f"{BASE}/10/1_C1_1_blue_red_green.jpg"
    assert images["suffix"].tolist() == ["", "_cr58061", ""]
    assert images["gene"].tolist() == [None] * 3
    assert "'noid' is no id" in left_out.read_text()
    assert (tmp_path / "index.sha256").is_file()
    with pytest.raises(InputError, match="'noid' is no id"):
        index_hpa.main([*arguments, "--bad-entries", "stop"])
    table.write_text("Id,Target\nnoid,3\n")
    with pytest.raises(InputError, match="no row names an atlas image"):
        index_hpa.main(arguments)


def test_the_real_list(shared, tmp_path):
    index = tmp_path / "index.parquet"
    table = shared / "data" / "hpa_v18" / "HPAv18RBGY_wodpl.csv"
    index_hpa.main(["--list", str(table), "--index", str(index), "--bad-entries", "stop"])
    images = read_atlas(index)
    assert len(images) == 74_606
    assert (images["suffix"] != "").sum() == 1_406
