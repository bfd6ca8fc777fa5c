"""Reading a table or a folder of images: what is found, and one sentence for what is not."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tlbook.advisor.reading import read

WORDS = ["red", "green", "blue", "yellow", "black", "white", "brown", "purple", "gray"]


def table(n: int = 60, classes: int = 2, **columns) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    texts = [f"number {i} is " + " ".join(rng.choice(WORDS, 5)) for i in range(n)]
    labels = [f"class {i % classes}" for i in range(n)]
    return pd.DataFrame({"text": texts, "label": labels} | columns)


@pytest.mark.parametrize("kind", ["csv", "tsv", "semicolons", "parquet", "jsonl"])
def test_every_format_gives_the_same(kind, tmp_path):
    data = table()
    path = tmp_path / f"my.{'csv' if kind == 'semicolons' else kind}"
    if kind == "parquet":
        data.to_parquet(path)
    elif kind == "jsonl":
        data.to_json(path, orient="records", lines=True)
    else:
        data.to_csv(path, index=False, sep={"csv": ",", "tsv": "\t"}.get(kind, ";"))
    found = read(path)
    assert found.columns == {"input": "text", "label": "label"} and found.modality == "text"
    assert found.data.x.tolist() == data["text"].tolist() and len(found.data.classes) == 2


def test_columns_are_found_by_what_they_hold():
    data = table().rename(columns={"text": "what was said", "label": "mood"})
    data["when"] = np.arange(len(data))
    assert read(data).columns == {"input": "what was said", "label": "mood"}


def test_what_cannot_be_told_apart_is_said():
    data = table().rename(columns={"text": "first"})
    data["second"] = data["first"] + " again"
    with pytest.raises(ValueError, match=r"'first' and 'second' cannot be told apart.*text="):
        read(data)
    assert read(data, text="second").columns["input"] == "second"
    data = table().rename(columns={"label": "mood"})
    data["tone"] = data["mood"]
    with pytest.raises(ValueError, match=r"'mood' and 'tone' cannot be told apart.*--label"):
        read(data)


BAD = {
    "no header": (table(), {"header": False}, "no header.*add a first row"),
    "one class": (table(classes=1), {}, "one class, 'class 0': add"),
    "ten rows": (table(10), {}, "10 rows are too few.*label at least 20"),
    "200 classes": (table(600, 200), {}, "200 classes, and 100 are the most: merge"),
    "empty text": (table(text=""), {}, "'text' is empty: fill it in"),
    "empty label": (table(label=""), {}, "'label' is empty: fill it in"),
    "numbers": (table(label=np.linspace(0, 1, 60)), {}, "numbers such as .*pandas.cut"),
    "many numbers": (table(400, label=range(400)), {}, "numbers such as .*pandas.cut"),
    "no label": (table().drop(columns="label"), {}, "no column looks like the labels: name it"),
    "no rows": (table(0), {}, "0 rows are too few"),
    "all alike": (table(text="the same text"), {}, "fewer than two classes|too few"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_sentence(case, tmp_path):
    data, options, message = BAD[case]
    data.to_csv(tmp_path / "my.csv", index=False, **options)
    with pytest.raises(ValueError, match=message) as error:
        read(tmp_path / "my.csv")
    assert "\n" not in str(error.value)


def test_missing_files_foreign_encodings_and_absent_columns(tmp_path):
    with pytest.raises(ValueError, match=r"no file or folder .*check the path"):
        read(tmp_path / "none.csv")
    (tmp_path / "latin.csv").write_bytes("text,label\nžaba,a\n".encode("cp1250"))
    with pytest.raises(ValueError, match="not in UTF-8: save it"):
        read(tmp_path / "latin.csv")
    with pytest.raises(ValueError, match="no column 'mood': choose one of 'text', 'label'"):
        read(table(), label="mood")


def test_a_small_class_is_kept_and_a_single_example_left_out():
    data = table(63)
    data.loc[60:61, "label"], data.loc[62, "label"] = "rare", "alone"
    found = read(data)
    assert "rare" in found.data.classes and "alone" not in found.data.classes
    assert np.bincount(found.data.y).tolist() == [30, 30, 2]
    assert any("'rare' has 2 examples only: it is kept" in note for note in found.notes)
    assert any("'alone' left out" in note for note in found.notes)


def test_copies_contradictions_and_rows_without_a_label():
    data = table(64)
    data.loc[60, ["text", "label"]] = [data["text"][0].upper(), data["label"][0]]
    data.loc[61, ["text", "label"]] = [data["text"][1], "class 0"]
    data.loc[62, "label"] = ""
    found = read(data)
    assert found.copies == ((0, 60), (1, 61)) and found.contradictory == ((1, 61),)
    assert found.unlabeled.tolist() == [62] and len(found.data) == 60
    assert found.data.x[1] == data["text"][found.data.extra["row"][1]]
    assert "1 row has no label." in found.notes


def test_groups_by_name():
    data = table(author=[f"author {i // 4}" for i in range(59)] + [""])
    found = read(data, group="author")
    assert len(set(found.data.groups)) == 16  # who is not named stands alone


def images(folder) -> pd.DataFrame:
    rng, rows = np.random.default_rng(0), []
    for i in range(24):
        path = folder / ("cats" if i % 2 else "dogs") / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).save(path)
        rows.append((str(path.relative_to(folder)), path.parent.name))
    return pd.DataFrame(rows, columns=["photo", "animal"])


def test_a_folder_by_class_and_a_column_of_paths_are_the_same(tmp_path):
    listed = images(tmp_path)
    (tmp_path / "cats" / "broken.png").write_text("no image")
    by_folder = read(tmp_path, size=32)
    assert by_folder.data.x.shape == (24, 32, 32, 3) and by_folder.modality == "image"
    assert by_folder.data.classes == ("cats", "dogs")
    assert any("cats/broken.png" in note for note in by_folder.notes)
    listed.to_csv(tmp_path / "list.csv", index=False)
    by_table = read(tmp_path / "list.csv", size=32)
    assert by_table.columns == {"input": "photo", "label": "animal"}
    assert sorted(map(bytes, by_table.data.x)) == sorted(map(bytes, by_folder.data.x))


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match="make one folder for each class"):
        read(tmp_path)
