"""Texts that a language model at an endpoint labels: a real HTTP server asked by the real recipe."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from cluster.errors import RecipeError
from cluster.recipe import Recipe, load
from cluster.store import Store
from jobs import generate, tasks
from jobs.data.answers import Answerer, Opening, labels_of
from jobs.tasks.soft_labels import soft_columns
from serving import teachers

ROOT = Path(__file__).resolve().parents[2]
WORDS = {
    "late_parcel": ("parcel", "courier", "tracking"), "lost_card": ("card", "wallet", "stolen"),
    "exchange_rate": ("rate", "euro", "currency"), "reset_password": ("password", "login", "code"),
}  # fmt: skip
FILLERS = ["please", "tell", "me", "what", "can", "do", "about", "my", "new", "old", "again", "today", "since", "for"]


class Model(BaseHTTPRequestHandler):
    """Knows the words of each label; every seventeenth text it has no answer to that is a label. Its other languages
    are texts read backwards, and from there "please" comes back as "kindly"."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        asked = body["messages"][-1]["content"]
        said = self.translated(asked) if asked.startswith("Translate") else self.label(asked)
        first = {"token": said[:3], "logprob": -0.1, "top_logprobs": [{"token": said[:3], "logprob": -0.1}]}
        answer = {"message": {"content": said}, "finish_reason": "stop", "logprobs": {"content": [first]}}
        usage = {"prompt_tokens": 30, "completion_tokens": 3}
        out = json.dumps({"choices": [answer], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(out)))
        self.end_headers()
        self.wfile.write(out)

    def translated(self, asked: str) -> str:
        words = asked.split("\n\n")[1].split()[::-1]
        home = asked.startswith("Translate this text into English")
        return " ".join("kindly" if home and word == "please" else word for word in words)

    def label(self, asked: str) -> str:
        text = asked.split("Text: ")[1].split("\n", maxsplit=1)[0].split()
        scores = {label: sum(word in text for word in words) for label, words in WORDS.items()}
        return "no idea" if sum(map(len, text)) % 17 == 0 else max(scores, key=lambda name: scores[name])

    def log_message(self, *_: object) -> None:
        """Say nothing on stderr."""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """Address of a running model."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Model)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()
    thread.join()


def write(path: Path, count: int, seed: int, unlabelled: float = 0.0) -> Path:
    """`count` texts, two words of the label among fillers; a share of them without their label."""
    rng, labels = np.random.default_rng(seed), list(WORDS)
    rows = []
    for _ in range(count):
        label = labels[rng.integers(len(labels))]
        words = [*rng.choice(FILLERS, 6), *rng.choice(WORDS[label], 2)]
        rows.append({"text": " ".join(rng.permutation(words)), "label": None if rng.random() < unlabelled else label})
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def overrides(folder: Path, endpoint: str, rows: int) -> list[str]:
    train, test = write(folder / "train.parquet", rows, 1, 0.5), write(folder / "test.parquet", 60, 2)
    return [
        f"data.train={train}", f"data.test={test}", f"teacher.params.base_url={endpoint}", "teacher.weights=wise",
        "curate.filters=[{name: duplicate}]", "generate.views={dropped: 1}", "student.params.layers=1",
        "distill.stages.0.epochs=4", "distill.stages.0.min_steps=0", "serving.demo_requests=2", "generate.blocks=2",
        "evaluate.gates.retention_min=0.8",
    ]  # fmt: skip


@pytest.fixture
def recipe(tmp_path: Path, endpoint: str) -> Recipe:
    return load("text_from_endpoint", overrides(tmp_path, endpoint, 80))


def test_what_the_endpoint_says_becomes_soft_labels_and_dead_letters(recipe: Recipe, tmp_path: Path) -> None:
    task = tasks.of(recipe)
    task.check()
    teachers.write_folder(recipe.teacher, tmp_path / "hf", **task.framing())
    answers = Answerer(str(tmp_path / "hf"), recipe.generate, str(tmp_path / "tally"), Opening(recipe.teacher))(
        task.requests("train")
    )
    states = answers["status"].to_pylist()
    assert 0 < states.count("rejected") < 0.2 * len(states)
    assert set(answers["reason"].to_pylist()) == {None, "no_label"}
    answered = answers.filter(pc.equal(answers["status"], "ok"))
    labels = labels_of(answered)
    logits = soft_columns(labels, 1)["teacher_logits"][:, 0]
    assert logits.shape == (states.count("ok"), len(WORDS))
    known = answered.filter(answered["label_name"].is_valid())
    assert 0 < len(known) < 0.5 * len(answered)
    assert pc.mean(pc.equal(known["response"], known["label_name"]).cast(pa.float32())).as_py() > 0.9


def test_texts_come_back_from_another_language_for_the_teacher_to_label(tmp_path: Path, endpoint: str) -> None:
    sets = [*overrides(tmp_path, endpoint, 80), "generate.views={}", "generate.back_translate=[French]"]
    recipe = load("text_from_endpoint", sets)
    generate.check(recipe)
    pool = generate.candidates(recipe)
    plain, said = (pool.filter(pick(pool["parent"])).to_pylist() for pick in (pc.is_null, pc.is_valid))
    texts = {row["sample_id"]: row["prompt"] for row in plain}
    changed = {name: text for name, text in texts.items() if "please" in text.split()}
    assert {row["parent"] for row in said} == set(changed) and len(said) > 10
    assert all(row["prompt"] == texts[row["parent"]].replace("please", "kindly") for row in said)
    assert {(row["template"], row["view"], row["label_name"]) for row in said} == {("back_translated", 1, None)}
    assert generate.candidates(recipe).equals(pool)


def test_a_teacher_that_does_not_write_translates_nothing(tiny_digits: Callable[..., Recipe]) -> None:
    with pytest.raises(RecipeError, match="teacher that writes"):
        generate.check(tiny_digits("generate.back_translate=[French]"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_endpoint_teaches_a_student_that_is_served(tmp_path: Path, endpoint: str) -> None:
    command = [sys.executable, "-m", "jobs", "run", "text_from_endpoint", "--store", str(tmp_path / "store"), "--json"]
    changes = [*overrides(tmp_path, endpoint, 400), "distill.control=false"]
    command += [word for change in changes for word in ("--set", change)]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=880, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    document = json.loads(done.stdout)
    report = Store.open(tmp_path / "store").get("report", document["artifacts"]["report"]).path() / "report.json"
    values = json.loads(report.read_text())
    assert values["models"]["teacher"]["params"] is None and values["speedup"] is None
    assert values["models"]["student_int8"]["metrics"]["accuracy"] > 0.8
    assert values["dead_letters"]["generate: no_label"] > 0
    assert document["demo"]["fallback"]["reason"] == "timeout"
