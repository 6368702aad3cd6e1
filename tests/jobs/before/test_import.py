"""Import: what people have becomes seed rows whose split is their own content's, and nothing is lost on the way."""

import csv
import io
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cluster import pii
from cluster.recipe import load
from jobs import tasks
from jobs.before import ingest, seeds
from jobs.before.seeds import SPLITS, Seed, Shares

CLASSES = ("bill", "card", "loan")
ROWS = [(f"{CLASSES[row % 3]} question number {row}", CLASSES[row % 3]) for row in range(90)]
BANKING = Path(__file__).resolve().parents[4] / "shared/data/text/banking77_train.parquet"
Command = Callable[..., tuple[int, dict[str, Any]]]


def write_csv(path: Path, rows: list[tuple[Any, ...]], header: tuple[str, ...] = ("text", "label")) -> Path:
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


def read(folder: str | Path) -> dict[str, list[dict[str, Any]]]:
    return {split: pq.read_table(Path(folder) / f"{split}.parquet").to_pylist() for split in SPLITS}


def where(folder: str | Path) -> dict[str, str]:
    """Text -> the split it is in."""
    return {row["text"]: split for split, rows in read(folder).items() for row in rows}


def dead(folder: str | Path) -> list[tuple[str, int, str]]:
    rows = pq.read_table(Path(folder) / "dead_letters.parquet").to_pylist()
    return [(row["file"], row["row"], row["reason"]) for row in rows]


def test_a_csv_file_becomes_three_files_and_a_command_that_goes_on(command: Command, tmp_path: Path) -> None:
    code, said = command("import", write_csv(tmp_path / "bank.csv", ROWS))
    assert code == 0
    assert said["out"] == "imported/bank"
    assert sum(said["rows"].values()) == said["read"] == 90
    assert all(said["rows"].values())
    assert said["labels"] == {"bill": 30, "card": 30, "loan": 30}
    assert where("imported/bank").keys() == {text for text, _ in ROWS}
    assert said["next"].startswith(
        "python -m jobs run text_classification --set data.train=imported/bank/train.parquet"
    )
    assert json.loads((tmp_path / "imported/bank/import.json").read_text()) == said


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "tsv"])
def test_every_kind_of_file_gives_the_same_split(command: Command, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"own.{ending}"
    if ending == "parquet":
        pq.write_table(pa.table({"text": [text for text, _ in ROWS], "label": [label for _, label in ROWS]}), path)
    elif ending == "jsonl":
        path.write_text("\n".join(json.dumps({"text": text, "label": label}) for text, label in ROWS))
    else:
        path.write_text("\n".join("\t".join(row) for row in [("text", "label"), *ROWS]))
    assert command("import", path, "--out", "one")[0] == 0
    command("import", write_csv(tmp_path / "bank.csv", ROWS), "--out", "two")
    assert where("one") == where("two")


def test_more_rows_never_move_a_row_to_another_split(command: Command, tmp_path: Path) -> None:
    command("import", write_csv(tmp_path / "few.csv", ROWS[:45]), "--out", "few")
    command("import", write_csv(tmp_path / "all.csv", ROWS[::-1]), "--out", "all")
    few, many = where("few"), where("all")
    assert {text: many[text] for text in few} == few
    _, other = command("import", tmp_path / "all.csv", "--out", "other", "--seed", 1)
    assert other["rows"] != {} and where("other") != many


texts = st.text(alphabet="abc XY", min_size=1, max_size=6).filter(str.strip)


@settings(deadline=None, max_examples=50)
@given(st.lists(texts, max_size=30), st.lists(texts, max_size=30), st.integers(0, 5))
def test_repeats_share_a_split_whatever_else_is_imported(some: list[str], more: list[str], seed: int) -> None:
    shares = Shares(0.3, 0.3, seed)
    rows = [Seed("f", number, text) for number, text in enumerate(some)]
    others = [Seed("g", number, text) for number, text in enumerate(more)]
    alone, _ = seeds.divide(rows, shares)
    together, _ = seeds.divide(others + rows, shares)
    for split in SPLITS:
        assert [row for row in together[split] if row.file == "f"] == alone[split]
    folded = {" ".join(row.text.lower().split()): split for split, own in together.items() for row in own if row.text}
    assert all(folded[row.key] == split for split, own in together.items() for row in own)


@settings(deadline=None, max_examples=20)
@given(st.floats(0.05, 0.4), st.floats(0.05, 0.4), st.integers(0, 99))
def test_the_shares_are_met_on_many_rows(validation: float, test: float, seed: int) -> None:
    parts, _ = seeds.divide([Seed("f", row, f"text {row}") for row in range(2000)], Shares(validation, test, seed))
    assert len(parts["validation"]) / 2000 == pytest.approx(validation, abs=0.05)
    assert len(parts["test"]) / 2000 == pytest.approx(test, abs=0.05)


def test_bad_rows_are_set_aside_with_file_row_and_reason(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "some_bad.csv"
    lines = [b"text,label", *[f"{text},{label}".encode() for text, label in ROWS]]
    lines[3:3] = [b",card", b"caf\xe9 closed,card", b"one,two,three", b"   ,loan"]
    path.write_bytes(b"\n".join(lines) + b"\n")
    _, said = command("import", path, "--out", "out")
    assert sorted(dead("out"), key=lambda one: one[1]) == [
        ("some_bad.csv", 2, "null_text"), ("some_bad.csv", 3, "undecodable"), ("some_bad.csv", 4, "malformed_row"),
        ("some_bad.csv", 5, "empty_text"),
    ]  # fmt: skip
    assert sum(said["rows"].values()) + sum(said["dead_letters"].values()) == said["read"] == 94


def test_a_label_that_training_lacks_is_set_aside_and_comes_back_with_more_rows(
    command: Command, tmp_path: Path
) -> None:
    shares = Shares(0.1, 0.1, 0)
    rare = next(f"rare {n}" for n in range(99) if seeds.place(Seed("", 0, f"rare {n}"), shares) == "test")
    more = next(f"rare {n}" for n in range(99) if seeds.place(Seed("", 0, f"rare {n}"), shares) == "train")
    command("import", write_csv(tmp_path / "one.csv", [*ROWS, (rare, "rare")]), "--out", "one")
    assert dead("one") == [("one.csv", 90, "label_not_in_train")]
    _, said = command(
        "import", write_csv(tmp_path / "two.csv", [*ROWS, (rare, "rare"), (more, "rare")]), "--out", "two"
    )
    assert said["dead_letters"] == {}
    assert where("two")[rare] == "test"


def test_unlabelled_rows_stay_and_the_summary_says_what_they_need(command: Command, tmp_path: Path) -> None:
    _, said = command("import", write_csv(tmp_path / "some.csv", [(text, "") for text, _ in ROWS]))
    assert (said["unlabelled"], said["next"]) == (90, None)
    assert "--label COLUMN" in said["needs"]
    _, said = command("import", write_csv(tmp_path / "half.csv", [*ROWS, ("what else", "")]))
    assert said["unlabelled"] == 1
    assert said["next"]


def test_a_table_may_name_its_columns_otherwise(command: Command, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "own.csv", ROWS, ("question", "intent"))
    code, said = command("import", path, "--text", "question", "--label", "intent")
    assert (code, len(said["labels"])) == (0, 3)
    code, said = command("import", path, "--text", "questoin")
    assert code == 2
    assert "did you mean 'question'? then --text question" in said["message"]
    code, said = command("import", path, "--text", "question", "--label", "intnt")
    assert "did you mean 'intent'? then --label intent" in said["message"]
    code, said = command("import", path)
    assert (code, "question, intent" in said["message"], "--text " in said["message"]) == (2, True, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.csv"], "no such data file"),
        (["good.cvs"], "did you mean good.csv"),
        (["good.csv", "--pii", "maks"], "did you mean mask"),
        (["good.csv", "--test-share", "0.7", "--validation-share", "0.3"], "no rows would be left"),
        (["tiny.csv"], "no row is left for test"),
        (["good.csv", "pictures"], "one by one"),
        (["pictures"], "holds no picture"),
        (["empty.jsonl"], "is empty"),
    ],
)
def test_what_cannot_be_imported_is_one_readable_error(
    command: Command, tmp_path: Path, arguments: list[str], message: str
) -> None:
    write_csv(tmp_path / "good.csv", ROWS)
    write_csv(tmp_path / "tiny.csv", ROWS[:1])
    (tmp_path / "pictures").mkdir()
    (tmp_path / "empty.jsonl").touch()
    code, said = command("import", *arguments)
    assert code == 2
    assert message in said["message"]
    assert not (tmp_path / "imported").exists() or not any((tmp_path / "imported").rglob("import.json"))


PERSONAL = "write to jo.doe@example.com or 4111 1111 1111 1111"


@pytest.mark.parametrize("policy", ["keep", "drop", "mask"])
def test_personal_data_is_kept_dropped_or_masked(command: Command, tmp_path: Path, policy: str) -> None:
    path = write_csv(tmp_path / "own.csv", [*ROWS, (PERSONAL, "card")])
    with path.open("a") as stream:
        stream.write(f"{PERSONAL},card,one too many\n")
    _, said = command("import", path, "--pii", policy, "--out", "out")
    everything = (tmp_path / "out/train.parquet", tmp_path / "out/dead_letters.parquet", tmp_path / "out/import.json",
                  tmp_path / "out/test.parquet", tmp_path / "out/validation.parquet")  # fmt: skip
    held = "\n".join(
        str(pq.read_table(file).to_pylist()) if file.suffix == ".parquet" else file.read_text() for file in everything
    )
    assert ("jo.doe" in held, "4111" in held) == ((True, True) if policy == "keep" else (False, False))
    assert (pii.mask(PERSONAL) in where("out")) == (policy == "mask")
    assert said["dead_letters"] == {"malformed_row": 1} | ({"personal_data": 1} if policy == "drop" else {})
    assert said["pii"]["found"] == ({} if policy == "keep" else {"card": 1, "email": 1})


def picture(path: Path, shade: int, kind: str = "PNG") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 5, 3), shade, np.uint8)).save(path, kind)


def test_a_folder_of_pictures_is_labelled_by_its_sub_folders(command: Command, tmp_path: Path) -> None:
    folder = tmp_path / "pets"
    for number in range(40):
        picture(folder / ("cat" if number % 2 else "dog") / f"{number}.png", number)
    picture(folder / "dog" / "photo.JPG", 90, "JPEG")
    picture(folder / "cat" / "old.bmp", 91, "BMP")
    picture(folder / "stray.png", 92)
    (folder / "cat" / "cut.png").write_bytes((folder / "cat" / "1.png").read_bytes()[:50])
    (folder / "notes.txt").write_text("hello")
    (folder / ".hidden").write_text("hello")
    code, said = command("import", folder)
    assert code == 0
    assert said["labels"] == {"dog": 21, "cat": 21}
    assert said["unlabelled"] == 1
    assert said["dead_letters"] == {"unreadable_picture": 1, "no_picture": 1}
    rows = [row for part in read(said["out"]).values() for row in part]
    assert {row["image_format"] for row in rows} == {"png", "jpeg"}
    for row in rows:
        with Image.open(io.BytesIO(row["image"])) as image:
            assert image.size == (5, 6)
            assert image.format == row["image_format"].upper()
    assert said["needs"] is None
    assert said["next"].startswith("python -m jobs run image_classification --set data.source=table --set data.train=")
    recipe = load("image_classification", [part for part in shlex.split(said["next"]) if "=" in part])
    task = tasks.of(recipe)
    task.check()
    assert task.classes == ("cat", "dog")
    asked = task.requests("train")
    assert asked.filter(pc.is_null(asked["parent"]))["label"].null_count == 1, "the stray picture"


def test_a_folder_that_is_split_already_keeps_its_splits(command: Command, tmp_path: Path) -> None:
    for split, count in (("train", 6), ("val", 2), ("test", 3)):
        for number in range(count):
            picture(tmp_path / "pets" / split / "cat" / f"{number}.png", number)
    _, said = command("import", tmp_path / "pets")
    assert said["rows"] == {"train": 6, "validation": 2, "test": 3}
    assert said["labels"] == {"cat": 11}


def test_a_flat_folder_is_unlabelled(command: Command, tmp_path: Path) -> None:
    for number in range(30):
        picture(tmp_path / "flat" / f"{number}.png", number)
    _, said = command("import", tmp_path / "flat")
    assert (said["unlabelled"], said["labels"], sum(said["rows"].values())) == (30, {}, 30)
    assert (said["next"], "folders named by their label" in said["needs"]) == (None, True)


def test_banking77_keeps_every_row(tmp_path: Path) -> None:
    if not BANKING.is_file():
        pytest.skip(f"no {BANKING}")
    said = ingest.bring(ingest.Wanted([str(BANKING)], str(tmp_path / "out")))
    assert (sum(said["rows"].values()), said["dead_letters"], len(said["labels"])) == (10_003, {}, 77)
    assert said["needs"] is None
