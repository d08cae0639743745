import json
import logging

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_entries import BASE, gene

import select_hpa
from hpaloc.classes import N_CLASSES
from hpaloc.hpa.atlas import ATLAS_SCHEMA, name_columns, name_of, read_atlas, write_atlas
from hpaloc.hpa.names import channel_path, parse_image_id
from hpaloc.hpa.own_files import genes_files, selection_files
from hpaloc.hpa.selection import PAPER_WALK, PAPER_WALK_CSV, draw_images, select_images
from hpaloc.log import InputError

SELECT = {
    "walk": "all", "genes": None, "ids": None, "at_most": None, "seed": 1,
    "antibody_disjoint_from": None,
}  # fmt: skip


def settings(sirna="leave_out", index="atlas", genes_table=None, **select):
    return {
        "kind": "hpa", "index": index, "genes_table": genes_table, "sirna": sirna,
        "select": SELECT | select,
    }  # fmt: skip


def atlas(*images):
    """A walk of images: id, or id with gene number and labels."""
    rows = []
    for walk, image in enumerate(images):
        image_id, number, labels = image if isinstance(image, tuple) else (image, 1, [25])
        name = parse_image_id(image_id, "test") if image_id else None
        rows.append(
            {
                **name_columns(name),
                "walk": walk,
                "gene": None if number is None else gene(number),
                "labels": labels,
                "url": f"{BASE}/{walk}",
            }
        )
    return pd.DataFrame(rows, columns=ATLAS_SCHEMA.names)


SMALL = atlas(
    ("1_1_A1_1", 1, [25]), ("1_1_A1_2", 1, [25]), ("2_1_B1_1", 2, [0]), ("3_si4_A1_1", 2, [0]),
    (None, 3, [2]), ("5_1_A1_1", 3, [2]), ("1_1_A1_1", 4, [25, 0]),
)  # fmt: skip


def selected(frame=SMALL, other=None, **changes):
    images, left_out = select_images(frame, settings(**changes), other)
    return images["image_id"].tolist(), dict(zip(left_out["walk"], left_out["reason"], strict=True))


class TestSelections:
    def test_all_names_what_it_leaves_out(self, caplog):
        with caplog.at_level(logging.WARNING):
            ids, left_out = selected()
        assert ids == ["1_1_A1_1", "1_1_A1_2", "2_1_B1_1", "5_1_A1_1"]
        assert list(left_out) == [3, 4, 6]
        assert left_out[3] == "siRNA plate si4"
        assert "not the address" in left_out[4]
        assert left_out[6] == "the same image as number 0, with the labels [25, 0] for [25]"
        assert "1 of siRNA plates" in caplog.text

    def test_sirna_plates_may_stay(self):
        assert "3_si4_A1_1" in selected(sirna="keep")[0]

    def test_ids_of_a_list_or_a_file(self, tmp_path):
        wanted = ["5_1_A1_1", "1_1_A1_2"]
        path = tmp_path / "ids.csv"
        path.write_text("Id,Target\n5_1_A1_1,2\n\n1_1_A1_2,25\n")
        plain = tmp_path / "ids.txt"
        plain.write_text("\n".join(wanted))
        other = tmp_path / "other.csv"
        other.write_bytes("\ufeffTarget\tId\r\n2\t5_1_A1_1\r\n25\t1_1_A1_2".encode("utf-16-le"))
        for ids in (wanted, str(path), str(plain), str(other)):
            assert selected(ids=ids) == (["1_1_A1_2", "5_1_A1_1"], {})
        with pytest.raises(InputError, match="9_9_A9_9"):
            selected(ids=[*wanted, "9_9_A9_9"])
        with pytest.raises(InputError, match=r"select.ids: .*absent.txt: there is no such"):
            selected(ids=str(tmp_path / "absent.txt"))
        plain.write_text("Id\n")
        with pytest.raises(InputError, match="holds no image ids"):
            selected(ids=str(plain))

    def test_genes(self, caplog):
        assert selected(genes=[gene(3), gene(2)], index="folder")[0] == ["2_1_B1_1", "5_1_A1_1"]
        with caplog.at_level(logging.WARNING):
            selected(genes=[gene(3), gene(77)])
        assert gene(77) in caplog.text
        unknown = atlas(("1_1_A1_1", None, [25]))
        with pytest.raises(InputError, match="does not tell the genes"):
            selected(unknown, genes=[gene(1)], index="list.csv")

    def test_genes_drawn_from_the_users_table(self, tmp_path):
        draw = {"per_class": 1, "classes": [2], "seed": 1}
        table = tmp_path / "table.tsv"
        table.write_text(
            f"Gene\tReliability\tApproved\n{gene(1)}\tApproved\tCytosol\n"
            f"{gene(3)}\tApproved\tNucleoli\n"
        )
        kept = selected(genes=draw, index="folder", genes_table=str(table))[0]
        assert kept == ["5_1_A1_1"]
        with pytest.raises(InputError, match="genes_table"):
            selected(genes=draw, index="folder")
        assert len(selected(genes=draw)[0]) == 4  # of the atlas, only drawn genes were fetched

    def test_nothing_selected(self):
        with pytest.raises(InputError, match=r"holds no image of the 7 .*1 of siRNA plates"):
            selected(ids=["3_si4_A1_1"])
        with pytest.raises(InputError, match="holds no image"):
            selected(genes=[gene(77)])


class TestDisjoint:
    def test_antibodies_and_genes_of_the_other_source_are_left_out(self):
        other = pd.DataFrame({"antibody": ["HPA000002", None], "gene": [None, gene(3)]})
        ids, left_out = selected(other=other, antibody_disjoint_from="training")
        assert ids == ["1_1_A1_1", "1_1_A1_2"]
        assert left_out[2] == "antibody 2 is in training too"
        assert left_out[5] == f"gene {gene(3)} is in training too"

    def test_what_cannot_be_told_is_refused_or_warned_of(self, caplog):
        nothing = pd.DataFrame({"antibody": [None, np.nan], "gene": [None, None]})
        with pytest.raises(InputError, match="nothing is known"):
            selected(other=nothing, antibody_disjoint_from="kaggle")
        genes = pd.DataFrame({"antibody": [None, None], "gene": [gene(3), "TSPAN6"]})
        for frame, other in (
            (atlas(("1_1_A1_1", None, [0])), genes),  # a list that tells no genes
            (SMALL, genes.iloc[1:]),  # symbols, where the list has Ensembl ids
        ):
            with pytest.raises(InputError, match=r"nothing is known .* could be compared"):
                selected(frame, other=other, antibody_disjoint_from="kaggle")
        with pytest.raises(InputError, match="was not given"):
            selected(antibody_disjoint_from="kaggle")
        some = pd.DataFrame({"antibody": ["77", None], "gene": [None, None]})
        with caplog.at_level(logging.WARNING):
            ids, _ = selected(other=some, antibody_disjoint_from="kaggle")
        assert len(ids) == 4
        assert "1 of 2 images of kaggle" in caplog.text


class TestDraw:
    IMAGES = atlas(
        *((f"{antibody}_1_A1_{n}", antibody, [25]) for antibody in range(1, 13) for n in range(5))
    )

    @given(st.integers(1, 70), st.integers(0, 5), st.randoms(use_true_random=False))
    def test_spread_over_antibodies_and_the_same_for_a_seed(self, count, seed, random):
        drawn = draw_images(self.IMAGES, count, seed)
        assert len(drawn) == min(count, 60)
        assert drawn["walk"].is_monotonic_increasing
        each = drawn["antibody"].value_counts()
        assert len(each) == min(count, 12)
        assert each.max() - each.min() <= 1
        order = random.sample(range(60), 60)
        assert set(draw_images(self.IMAGES.iloc[order], count, seed).index) == set(drawn.index)
        assert set(drawn.index) <= set(draw_images(self.IMAGES, count + 7, seed).index)

    def test_another_seed_draws_others(self):
        first, second = (set(draw_images(self.IMAGES, 20, seed).index) for seed in (1, 2))
        assert first != second


def paper_walk():
    """A walk of the paper's size, with labels dealt so that its counts are the published ones."""
    counts = pd.read_csv(PAPER_WALK_CSV)
    walk = np.arange(PAPER_WALK)
    test = np.char.startswith(walk.astype(str), "1")
    labels = [[] for _ in walk]
    for chosen, column in ((test, counts["test"]), (~test, counts["walk"] - counts["test"])):
        numbers = np.flatnonzero(chosen)
        place = 0
        for label in range(N_CLASSES):
            for _ in range(column[label]):
                labels[numbers[place % len(numbers)]].append(label)
                place += 1
    frame = pd.DataFrame({"walk": walk, "labels": pd.Series(labels, dtype=object)})
    frame["antibody"], frame["plate"], frame["well"], frame["suffix"] = "7", "1", "A1", ""
    frame["position"] = walk.astype(str)
    frame["image_id"] = "7_1_A1_" + frame["position"]
    frame["gene"], frame["url"] = gene(1), BASE
    return frame.reindex(columns=ATLAS_SCHEMA.names).astype({"reliability": object})


class TestPaper:
    WALK = paper_walk()

    def test_the_papers_images(self):
        images, left_out = select_images(self.WALK, settings(walk="paper"))
        assert len(images) == 11_111
        assert left_out.empty
        assert images["walk"].head(13).tolist() == [1, *range(10, 20), 100, 101]
        assert images["walk"].iloc[-1] == 19_999

    def test_images_that_stand_twice_stay_with_ids_of_their_own(self):
        walk = self.WALK.copy()
        parts = ["image_id", "position"]
        walk.loc[12_000, parts] = walk.loc[11_000, parts]
        images, left_out = select_images(walk, settings(walk="paper"))
        assert left_out.empty
        assert images["image_id"].is_unique
        twins = images[images["position"] == "11000"].to_dict("records")
        assert [twin["image_id"] for twin in twins] == ["7_1_A1_11000", "7_1_A1_11000_w12000"]
        assert len({channel_path(name_of(twin), "red") for twin in twins}) == 1

    def test_one_missing_image_refuses_it(self):
        walk = self.WALK.drop(index=5).reset_index(drop=True)
        walk["walk"] = range(len(walk))
        with pytest.raises(InputError, match=r"has 64,212 images, the paper's 64,213"):
            select_images(walk, settings(walk="paper"))

    def test_other_labels_refuse_it(self):
        walk = self.WALK.copy()
        walk.at[12_000, "labels"] = [*walk.at[12_000, "labels"], 27]
        with pytest.raises(
            InputError, match=r"begin with 1, 1 classes differ: Rods & rings 1 for 0"
        ):
            select_images(walk, settings(walk="paper"))

    def test_gaps_and_lists_refuse_it(self):
        with pytest.raises(InputError, match="gaps"):
            select_images(self.WALK.drop(index=[5]), settings(walk="paper"))
        with pytest.raises(InputError, match="no walk through genes"):
            select_images(self.WALK.assign(gene=None), settings(walk="paper"))


def test_program(tmp_path, inputs_of):
    index, ids = tmp_path / "index.parquet", tmp_path / "ids.txt"
    write_atlas(SMALL, index)
    outputs = [tmp_path / name for name in ("images.parquet", "images.sha256", "left_out.csv")]

    def run(**more):
        select_hpa.main(
            [
                "--index", str(index), "--settings", json.dumps(settings(at_most=3, **more)),
                "--images", str(outputs[0]), "--digest", str(outputs[1]),
                "--left-out", str(outputs[2]),
            ]
        )  # fmt: skip
        return [path.read_bytes() for path in outputs]

    first = run()
    assert run() == first
    images = read_atlas(outputs[0])
    assert len(images) == 3
    assert images["labels"].map(type).eq(list).all()
    assert pd.read_csv(outputs[2]).columns.tolist() == ["image_id", "walk", "gene", "reason"]
    ids.write_text("1_1_A1_1\n")
    assert run(ids=str(ids)) != first
    assert inputs_of(outputs[0]) == {str(index), str(ids)}
    index.write_bytes(b"no list")
    with pytest.raises(InputError, match="is not a Parquet file"):
        run()


def test_the_files_that_a_selection_reads_are_known():
    draw = {"per_class": 2, "classes": [25], "seed": 1}
    for more, files in (
        ({"genes_table": "table"}, []),
        ({"genes_table": "table", "ids": ["1_1_A1_1"]}, []),
        ({"genes_table": "table", "ids": "ids.txt", "genes": ["ENSG00000000001"]}, ["ids.txt"]),
        ({"genes_table": "table", "genes": draw, "index": "folder"}, ["table"]),
        ({"genes_table": "table", "ids": "ids.txt", "genes": draw}, ["ids.txt"]),
    ):
        assert selection_files(settings(**more)) == files
    assert genes_files(settings(genes_table="table")) == ["table"]
    assert genes_files(settings(genes_table="table", index="folder")) == []
    assert genes_files(settings()) == []
