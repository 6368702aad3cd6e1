"""Teachers are opened from sections and folders, and what cannot work is refused with its place."""

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import DataError, MismatchError, RecipeError
from cluster.recipe.models import ModelSection, TeacherSection
from serving import teachers
from serving.teachers import Failure, TeacherFailed, Usage
from serving.teachers.causal import CausalTeacher
from serving.teachers.openai import OpenAITeacher


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "without task.json"), ("{", "not JSON"), ("[]", "no description"), ('{"task": "chess"}', "unknown task")],
)
def test_a_folder_that_is_no_teacher_is_refused(tmp_path: Path, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / "task.json").write_text(content)
    with pytest.raises(DataError, match=said):
        teachers.open_folder(tmp_path)


@pytest.mark.parametrize(
    ("values", "said"),
    [({"architecture": "encoder"}, "teacher.weights is needed"),
     ({"architecture": "gpt5"}, "unknown teacher"),
     ({"architecture": "causal_lm"}, "teacher.weights is needed"),
     ({"architecture": "causal_lm", "weights": "x", "params": {"dtype": "int4"}}, "teacher.params.dtype"),
     ({"architecture": "vllm", "params": {"top_logprob": 3}}, "did you mean teacher.params.top_logprobs"),
     ({"architecture": "openai", "asking": {"atempts": 3}}, "did you mean asking.attempts")],
)  # fmt: skip
def test_a_section_that_cannot_work_is_refused_with_its_place(values: Any, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        teachers.open_teacher(ModelSection.parse(values))


def test_a_language_model_is_opened_from_a_folder_that_names_it(gpt2_folder: Path, tmp_path: Path) -> None:
    section = TeacherSection.parse(
        {"architecture": "causal_lm", "weights": str(gpt2_folder), "params": {"max_new_tokens": 2, "device": "cpu"}}
    )
    teachers.write_folder(section, tmp_path / "hf")
    assert json.loads((tmp_path / "hf" / "task.json").read_text())["task"] == "teacher"
    teacher = teachers.open_folder(tmp_path / "hf")
    assert isinstance(teacher, CausalTeacher) and teacher.params.max_new_tokens == 2


def test_a_folder_is_opened_with_the_recipes_present_rates_and_budget_and_no_other_teacher(tmp_path: Path) -> None:
    def section(model: str, **asking: Any) -> TeacherSection:
        params = {"base_url": "http://127.0.0.1:9/v1"}
        return TeacherSection.parse({"architecture": "openai", "weights": model, "params": params, "asking": asking})

    teachers.write_folder(section("m", budget_tokens=10.0), tmp_path)
    for now, tokens in ((None, 10.0), (section("m", budget_tokens=90.0), 90.0)):
        teacher = teachers.open_folder(tmp_path, section=now)
        assert isinstance(teacher, OpenAITeacher) and teacher.budget.tokens == tokens
    with pytest.raises(MismatchError, match="another teacher"):
        teachers.open_folder(tmp_path, section=section("n"))


def test_a_failure_crosses_processes_and_says_why() -> None:
    error = pickle.loads(pickle.dumps(TeacherFailed(Failure("timeout", "no whole reply within 2 s", 6))))
    assert error.failure.attempts == 6 and "timeout after 6 attempts" in str(error)


def test_usage_adds_up_and_is_measured_only_when_all_of_it_is() -> None:
    total = Usage(1, 2, 0.5) + Usage(3, 4, 0.25, measured=False)
    assert total == Usage(4, 6, 0.75, measured=False)


def test_reading_the_interface_loads_no_heavy_library() -> None:
    code = "import sys, serving.teachers; print(sorted({'torch', 'transformers', 'ray', 'httpx'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_only_an_engine_of_ray_data_or_an_ensemble_with_one_works_in_the_driver(tmp_path: Path) -> None:
    vllm = {"architecture": "vllm", "weights": "some/model"}
    other = {"architecture": "openai", "weights": "m", "params": {"base_url": "http://127.0.0.1:9/v1"}}
    both = {"by": "confidence", "members": [vllm | {"name": "a"}, other | {"name": "b"}]}
    sections = {"one": vllm, "far": other, "both": {"architecture": "ensemble", "ensemble": both}}
    for name, section in sections.items():
        teachers.write_folder(TeacherSection.parse(section), tmp_path / name)
    assert [teachers.drives_ray(tmp_path / name) for name in sections] == [True, False, True]
