"""The schedules that other tools run: parsed here by plain readers, in a slow test by the tools themselves."""

import ast
import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.errors import InputError
from cluster.recipe import Recipe, load
from jobs.after import schedules
from jobs.after.schedules import Place

OWN = "RAYDISTILL_TOOLS"  # a folder with virtual environments that are there already
PLACE = Place("digits", ["seed=3"], "runs/")


def recipe(**schedule: str) -> Recipe:
    return load("digits", ["seed=3", *(f"watch.schedule.{kind}={every}" for kind, every in schedule.items())])


def test_an_unknown_form_is_refused_with_those_there_are() -> None:
    with pytest.raises(InputError, match="dvc, airflow, cronjob"):
        schedules.written(recipe(), PLACE, "cron")


def test_dvc_runs_every_step_after_the_one_before_it() -> None:
    stages = yaml.safe_load(schedules.written(recipe(), PLACE, "dvc"))["stages"]
    assert list(stages) == list(schedules.VERBS)
    assert stages["fit"]["deps"] == ["jobs/recipes/digits.yaml"]
    assert stages["curate"]["deps"][0] == "schedule/digits/generate.json"
    assert "python -m jobs curate digits --set seed=3 --store runs/ --json" in stages["curate"]["cmd"]


def test_a_cronjob_for_each_kind_of_round_and_none_for_what_is_never_due() -> None:
    jobs = list(yaml.safe_load_all(schedules.written(recipe(full="never"), PLACE, "cronjob")))
    found = {job["metadata"]["name"]: job["spec"] for job in jobs if job}
    assert list(found) == ["digits-alarm", "digits-evaluate", "digits-incremental"]
    assert found["digits-evaluate"]["schedule"] == schedules.CRON["daily"]
    container = found["digits-alarm"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
    assert container["args"][:4] == ["python", "-m", "jobs", "watch"] and container["args"][-1] == "--once"
    assert container["volumeMounts"][0]["mountPath"] == "/app/runs"


def test_a_store_in_a_bucket_needs_no_volume() -> None:
    text = schedules.written(recipe(), Place("digits", [], "s3://bucket/runs"), "cronjob")
    assert "volumes" not in text


def test_the_dag_is_python_and_names_the_rounds() -> None:
    tree = ast.parse(schedules.written(recipe(), PLACE, "airflow"))
    assert any(isinstance(node, ast.FunctionDef) and node.name == "dag_of" for node in tree.body)


def tool(package: str, tmp_path: Path) -> Path:
    """The Python of an environment with a package; made here, or found below $RAYDISTILL_TOOLS."""
    ready = Path(os.environ.get(OWN, "/nonexistent")) / package.split(maxsplit=1)[0]
    if ready.is_dir():
        return ready / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True, timeout=120)
    python = tmp_path / "venv" / "bin" / "python"
    done = subprocess.run([python, "-m", "pip", "install", "-q", *package.split()], capture_output=True, text=True,
                          timeout=540, check=False)  # fmt: skip
    if done.returncode:
        pytest.skip(f"{package} cannot be installed here: {done.stderr[-300:]}")
    return python


def run(*command: Any, **options: Any) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-1500:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_dvc_itself_reads_its_stages(tmp_path: Path) -> None:
    python = tool("dvc", tmp_path)
    work = tmp_path / "work"
    (work / "jobs" / "recipes").mkdir(parents=True)
    shutil.copy(schedules.RECIPES / "digits.yaml", work / "jobs" / "recipes")
    (work / "dvc.yaml").write_text(schedules.written(recipe(), PLACE, "dvc"))
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(tmp_path / "site")}
    run(python, "-m", "dvc", "init", "--no-scm", cwd=work, env=environment)
    assert "evaluate" in run(python, "-m", "dvc", "stage", "list", cwd=work, env=environment)
    drawn = run(python, "-m", "dvc", "dag", "--dot", cwd=work, env=environment)
    steps = list(schedules.VERBS)
    for before, after in itertools.pairwise(steps):
        assert f'"{before}" -> "{after}"' in drawn
    first = run(python, "-m", "dvc", "repro", "--dry", steps[0], cwd=work, env=environment)
    assert "python -m jobs fit digits --set seed=3 --store runs/ --json" in first


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kubernetes_own_schema_takes_the_cronjobs(tmp_path: Path) -> None:
    python = tool("kubernetes-validate", tmp_path)
    path = tmp_path / "cronjobs.yaml"
    path.write_text(schedules.written(recipe(), PLACE, "cronjob"))
    check = (
        "import sys, yaml, kubernetes_validate as k\n"
        "for one in yaml.safe_load_all(open(sys.argv[1])):\n"
        "    if one: k.validate(one, k.latest_version(), strict=True); print(one['metadata']['name'])"
    )
    assert run(python, "-c", check, path).split() == [f"digits-{kind}" for kind in schedules.rounds_of(recipe())]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_airflow_itself_loads_the_dags(tmp_path: Path) -> None:
    if OWN not in os.environ:
        pytest.skip(f"Airflow takes minutes to install: set {OWN} to a folder with an environment `airflow`")
    python = tool("airflow", tmp_path)
    dags = tmp_path / "dags"
    dags.mkdir()
    (dags / "own.py").write_text(schedules.written(recipe(), PLACE, "airflow"))
    environment = {**os.environ, "AIRFLOW_HOME": str(tmp_path / "home"), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    load_them = (
        "import sys, runpy\n"
        "found = {n: v for n, v in runpy.run_path(sys.argv[1]).items() if n.startswith('dag_') and n != 'dag_of'}\n"
        "for name, dag in found.items(): dag.validate(); print(dag.dag_id, dag.schedule, list(dag.task_dict))"
    )
    told = run(python, "-c", load_them, dags / "own.py", env=environment).splitlines()
    assert [line.split()[0] for line in told] == [f"digits-{kind}" for kind in schedules.rounds_of(recipe())]
