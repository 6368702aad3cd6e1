"""Teachers behind one interface: `prompt` reads a request, `complete` answers many, `answer` a few, as serving does.

`open_teacher` makes one from a recipe's section, or `open_folder` from the folder that `jobs fit` wrote; `check`
refuses a section that cannot work before anything is started. A new kind is one file and one line in `KINDS`.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cluster.errors import DataError, MismatchError, RecipeError
from cluster.recipe.base import Section
from cluster.recipe.models import ModelSection, TeacherSection
from serving.bundle.answer import Answer
from serving.teachers.budget import ALONE, Sharing
from serving.teachers.replies import DenseReply, Failure, Reply, TeacherFailed, TopLogprobs, Usage

__all__ = [
    "KINDS", "DenseReply", "Failure", "Reply", "Sharing", "Teacher", "TeacherFailed", "TopLogprobs", "Usage",
    "answer_of", "answers", "check", "drives_ray", "elsewhere", "open_folder", "open_teacher", "params_of",
    "show_layers", "write_folder",
]  # fmt: skip

TASK_FILE = "task.json"
REMOTE = "teacher"  # the task of a folder that holds no weights, only which teacher to ask


class Teacher(Protocol):
    """Whatever answers: a network in this process, an engine on GPUs, an endpoint, or several of them as one."""

    @property
    def vocabulary(self) -> Sequence[str] | None:
        """What the columns of `Reply.logits` stand for (labels or tokens, V of them); None: replies carry no logits."""

    def prompt(self, item: Mapping[str, Any]) -> Any:
        """A request as `complete` takes it, from `{"text": str, "images": [bytes], "slice": str}` (text is required).

        Raises BundleError (a ValueError) for a request that cannot be read.
        """

    def complete(
        self, prompts: Sequence[Any], temperature: float = 0.0, seeds: Sequence[int] | None = None
    ) -> Sequence[Reply | Failure]:
        """One reply or failure per prompt, in order: greedy at `temperature` 0, else drawn with one stream per row.

        No single row's trouble is ever raised. Raises what no row could survive (the teacher itself is gone).
        """

    def answer(self, items: Sequence[Mapping[str, Any]]) -> list[Answer]:
        """Greedy answers in order. Raises BundleError for an unreadable request, TeacherFailed where there is none."""


@dataclass(frozen=True)
class Kind:
    """A kind of teacher: the module that holds it, there the names of its parameter section and its opener, and whether
    it starts Ray pipelines of its own."""

    module: str
    params: str
    opener: str = "open_section"
    drives_ray: bool = False


KINDS: Mapping[str, Kind] = {
    "causal_lm": Kind("serving.teachers.causal", "CausalParams"),
    "openai": Kind("serving.teachers.openai", "OpenAIParams"),
    "vllm": Kind("serving.teachers.vllm", "VllmParams", drives_ray=True),
    "ensemble": Kind("serving.teachers.fused", "EnsembleParams"),
}
# Folders with task.json that `jobs fit` or `jobs distill` wrote.
FITTED = ("decoder", "encoder", "omni_moe", "pretrained", "resnet", "separable")


def params_of(section: ModelSection, at: str = "teacher") -> Section:
    """The checked parameters of a teacher kind. Raises RecipeError naming the dotted path below `at`."""
    kind = _kind(section, at)
    params: type[Section] = getattr(importlib.import_module(kind.module), kind.params)
    return params.parse(section.params, at=f"{at}.params")


def check(section: ModelSection, at: str = "teacher") -> None:
    """Refuse a teacher that cannot work, before Ray starts and a request is paid for.

    Raises InputError: unknown kind, wrong parameters, no such weights, no key in the environment, an engine that is not
    installed, members whose labels differ.
    """
    if section.architecture in FITTED:
        return
    params_of(section, at)
    module = importlib.import_module(KINDS[section.architecture].module)
    module.check_section(section, at)


def open_teacher(section: ModelSection, *, sharing: Sharing = ALONE, at: str = "teacher") -> Teacher:
    """The teacher that a recipe's section names; `encoder` and `omni_moe` are opened from the folder in `weights`.

    `sharing` says how many of these will work at the same time, and where they keep what they spent.
    Raises InputError as `check`.
    """
    if section.architecture in FITTED:
        if section.weights is None:
            raise RecipeError(f"{at}.weights is needed", got="null", expected="a folder written by fit or distill")
        return open_folder(section.weights, sharing=sharing)
    check(section, at)
    kind = _kind(section, at)
    teacher: Teacher = getattr(importlib.import_module(kind.module), kind.opener)(section, sharing, at)
    return teacher


def open_folder(folder: str | Path, *, sharing: Sharing = ALONE, section: ModelSection | None = None) -> Teacher:
    """The teacher of a folder: a network that was fitted or distilled, or what `write_folder` left.

    `section` is the recipe's as it is now: a folder is written once, and rates, retries and budgets (`asking`) may have
    changed since; null: as they were. Raises DataError when `task.json` is missing, unreadable or names an unknown
    task, MismatchError when `section` is another teacher.
    """
    spec = _spec(Path(folder))
    if spec.get("task") == REMOTE:
        written = TeacherSection.parse(spec["section"], at=f"{folder}/{TASK_FILE}")
        if section is not None and section.identity() != written.identity():
            raise MismatchError("the folder is of another teacher", got=written.identity(), expected=section.identity())
        teacher = open_teacher(section or written, sharing=sharing)
        if "writing" in spec:
            from serving.teachers.writing import WritingTeacher

            return WritingTeacher.around(teacher, spec["writing"])
        if not spec["labels"]:
            return teacher
        from serving.teachers.labelling import LabellingTeacher

        return LabellingTeacher(teacher, spec["labels"], spec["question"])
    from serving.teachers import transformers

    return transformers.load(folder)


def show_layers(teacher: Teacher, numbers: Sequence[int]) -> None:
    """Let a network's replies carry the states of these layers, 1 is the first, as `hidden` [A, L, H].

    Raises RecipeError for a teacher whose layers are not here, or a number that no layer of it has.
    """
    from serving.models import layers

    model = getattr(teacher, "model", None)
    if not hasattr(teacher, "layers") or model is None:
        got = type(teacher).__name__
        raise RecipeError("generate.hidden_layers: this teacher shows no layers", got=got, expected="a fitted network")
    count = len(layers.blocks(model))
    if wrong := [number for number in numbers if not 1 <= abs(number) <= count]:
        raise RecipeError("generate.hidden_layers: no such layer", got=wrong, expected=f"1 to {count}")
    teacher.layers = tuple(numbers)


def write_folder(section: ModelSection, folder: Path, labels: Sequence[str] = (), question: str | None = None,
                 writing: Mapping[str, Any] | None = None) -> None:  # fmt: skip
    """Write what `open_folder` needs for a teacher whose weights lie elsewhere; of a key its variable's name only.

    With `labels` it is asked `question` (a template, see `labelling`) and answers one of them; by the rules of
    `writing` (`task.json` of task text_generation) it scores texts instead.
    """
    folder.mkdir(parents=True, exist_ok=True)
    asked = {"labels": list(labels), "question": question} | ({} if writing is None else {"writing": dict(writing)})
    content = {"task": REMOTE, "section": section.model_dump(mode="json"), **asked}
    (folder / TASK_FILE).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def elsewhere(folder: Path) -> bool:
    """Whether a teacher's folder holds no network, only which teacher to ask. Raises DataError as `open_folder`."""
    return bool(_spec(folder).get("task") == REMOTE)


def drives_ray(folder: Path) -> bool:
    """Whether a folder's teacher, or a member of it, starts Ray pipelines of its own: it works in the driver, and in no
    actor. Raises DataError as `open_folder`."""
    spec = _spec(folder)
    if spec.get("task") != REMOTE:
        return False
    section = TeacherSection.parse(spec["section"], at=f"{folder}/{TASK_FILE}")
    several = section.ensemble.members if section.ensemble is not None else [section]
    return any(one.architecture in KINDS and KINDS[one.architecture].drives_ray for one in several)


def answers(teacher: Teacher, items: Sequence[Mapping[str, Any]]) -> list[Answer]:
    """Greedy answers of any teacher.

    Raises BundleError for an unreadable request, TeacherFailed for the first that got no reply.
    """
    found = []
    for reply in teacher.complete([teacher.prompt(item) for item in items]):
        if isinstance(reply, Failure):
            raise TeacherFailed(reply)
        found.append(answer_of(reply))
    return found


def answer_of(reply: Reply) -> Answer:
    """The answer of a reply; without probabilities it counts as unsure: confidence 0."""
    return Answer(reply.text, 0.0 if reply.confidence is None else reply.confidence)


def _kind(section: ModelSection, at: str) -> Kind:
    if section.architecture not in KINDS:
        known = ", ".join([*FITTED, *KINDS])
        raise RecipeError(f"{at}.architecture: unknown teacher", got=section.architecture, expected=known)
    return KINDS[section.architecture]


def _spec(folder: Path) -> dict[str, Any]:
    path = folder / TASK_FILE
    if not path.is_file():
        raise DataError(
            "model folder without task.json", got=str(folder), expected="a folder written by fit or distill"
        )
    try:
        spec = json.loads(path.read_text())
    except ValueError as error:
        raise DataError(f"{path} is not JSON", got=str(error)) from None
    if not isinstance(spec, dict):
        raise DataError(f"{path} is no description of a task", got=type(spec).__name__, expected="an object")
    return spec
