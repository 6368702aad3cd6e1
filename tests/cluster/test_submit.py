"""What a submission ships, stamps and refuses before anything is sent; secrets; pinned versions; which cluster."""

import json
import os
import sys
import zipfile
from pathlib import Path

import pytest

from cluster import credentials, local, pins, sealed
from cluster.errors import InputError, MismatchError, RecipeError
from cluster.session import ROOT
from cluster.submit import client, package, stamp, submission

RUN = ("python", "-m", "jobs", "run", "digits")


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAYDISTILL_LOCAL", str(tmp_path / "local"))


def tree(root: Path, **sizes: int) -> Path:
    for name, size in sizes.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
    return root


def test_code_and_recipes_are_shipped_but_no_data_environment_store_or_history() -> None:
    names = set(package.shipped(ROOT))
    assert {"cluster/session.py", "jobs/recipes/digits.yaml", "pyproject.toml"} <= names
    assert not {name for name in names if name.split("/")[0] in (".git", ".venv", "runs", "data", "tests", "docs")}
    assert not {name for name in names if "__pycache__" in name}
    assert any(name.startswith("jobs/data/") for name in names)


def test_an_ignored_name_counts_at_any_depth_and_a_path_from_the_root_only_there(tmp_path: Path) -> None:
    (tmp_path / ".rayignore").write_text("# why\n*.ckpt\n/data/\njobs/old/\n")
    tree(tmp_path, data__a=1, jobs__data__b=1, jobs__old__c=1, old__d=1, e_dot_ckpt=1, jobs__f_dot_ckpt=1)
    assert set(package.shipped(tmp_path)) == {".rayignore", "jobs/data/b", "old/d"}


def test_links_are_not_followed_out_of_the_package(tmp_path: Path) -> None:
    outside = tree(tmp_path / "outside", weights=10)
    root = tree(tmp_path / "root", code=1)
    (root / "linked").symlink_to(outside)
    (root / "file").symlink_to(outside / "weights")
    assert set(package.shipped(root)) == {"code"}


def test_a_package_over_the_limit_is_refused_with_its_biggest_parts_named(tmp_path: Path) -> None:
    root = tree(tmp_path / "root", models__big=3_000_000, models__small=1000, notes=500_000)
    with pytest.raises(InputError, match=r"3\.5 MB: models 3\.0 MB \(most of it models/big, 3\.0 MB\); notes 0\.5 MB"):
        package.pack(root, tmp_path / "code.zip", limit_bytes=1_000_000)
    assert not (tmp_path / "code.zip").exists()


def test_the_same_content_is_the_same_package(tmp_path: Path) -> None:
    root = tree(tmp_path / "root", a=10, b__c=20)
    first = package.pack(root, tmp_path / "1.zip")
    os.utime(root / "a", (1, 1))
    package.pack(root, tmp_path / "2.zip")
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()
    assert first.total_bytes == 30
    assert zipfile.ZipFile(first.path).namelist() == ["a", "b/c"]


def test_a_job_says_its_recipe_run_and_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stamp, "commit", lambda: "c0ffee")
    asked = stamp.with_store(stamp.Asked(RUN), True, ROOT)
    facts = stamp.about(asked, ROOT)
    assert (facts["recipe"], facts["commit"], facts["store"]) == ("digits", "c0ffee", str(ROOT / "runs"))
    assert facts["run"] == f"digits-{facts['fingerprint'][:8]}"
    assert stamp.name(facts).startswith(f"{facts['run']}-")
    assert all(isinstance(value, str) for value in facts.values())
    assert stamp.asked_again(facts) == asked


def test_a_changed_knob_is_another_run_and_a_wrong_one_is_said_before_anything_is_sent() -> None:
    plain, changed = (stamp.about(stamp.Asked(command), ROOT)["run"] for command in (RUN, (*RUN, "--set", "seed=3")))
    assert plain != changed
    with pytest.raises(RecipeError, match="unknown key"):
        stamp.about(stamp.Asked((*RUN, "--set", "sed=3")), ROOT)


def test_a_recipe_outside_of_the_working_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not shipped"):
        stamp.about(stamp.Asked(("python", "-m", "jobs", "run", str(tmp_path / "mine.yaml"))), ROOT)


def test_artifacts_go_where_the_submitter_meant_and_never_into_the_shipped_folder() -> None:
    here = stamp.with_store(stamp.Asked((*RUN, "--store", "mine", "--json")), True, ROOT)
    assert here.command == (*RUN, "--json", "--store", str(ROOT / "mine"))
    bucket = stamp.Asked((*RUN, "--store=s3://bucket/runs"))
    assert stamp.with_store(bucket, False, ROOT).command == (*RUN, "--store", "s3://bucket/runs")
    with pytest.raises(InputError, match="where do the artifacts"):
        stamp.with_store(stamp.Asked(RUN), False, ROOT)
    with pytest.raises(InputError, match="needs a whole path"):
        stamp.with_store(stamp.Asked((*RUN, "--store", "runs")), False, ROOT)
    other = stamp.Asked(("python", "train.py"))
    assert stamp.with_store(other, False, ROOT) == other


def test_the_driver_goes_where_it_is_asked_to() -> None:
    asked = stamp.Asked(RUN, driver=("cpus=1", "role=worker"))
    assert stamp.placement(asked) == {"entrypoint_num_cpus": 1.0, "entrypoint_label_selector": {"role": "worker"}}
    assert stamp.placement(stamp.Asked(RUN)) == {}
    for bad in ("cpus", "cpus=many", "=worker"):
        with pytest.raises(InputError, match="--driver"):
            stamp.placement(stamp.Asked(RUN, driver=(bad,)))


def test_every_process_of_a_job_gets_commit_pins_and_thread_limits(tmp_path: Path) -> None:
    facts = {"commit": "c0ffee", "pins": json.dumps(pins.here()), "run": "digits-1"}
    environment = stamp.runtime_env(tmp_path / "code.zip", stamp.Asked(RUN), facts, None)
    assert environment["working_dir"] == str(tmp_path / "code.zip")
    wanted = {"RAYDISTILL_COMMIT": "c0ffee", "RAYDISTILL_PINS": facts["pins"], "OMP_NUM_THREADS": "1"}
    assert wanted.items() <= environment["env_vars"].items()
    assert "worker_process_setup_hook" not in environment


def test_secrets_travel_sealed_and_open_with_the_clusters_token_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sup3rs3cret")
    asked = stamp.Asked(RUN, secrets=("MY_KEY",))
    environment = stamp.runtime_env(tmp_path / "code.zip", asked, {"commit": "c", "pins": "{}"}, "token")
    assert "sup3rs3cret" not in json.dumps(environment) + stamp.entrypoint(asked)
    text = environment["env_vars"][sealed.VARIABLE]
    assert sealed.unseal(text, "token") == {"MY_KEY": "sup3rs3cret"}
    with pytest.raises(MismatchError, match="do not open"):
        sealed.unseal(text, "another")
    monkeypatch.delenv("MY_KEY")
    monkeypatch.setenv(sealed.VARIABLE, text)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "token")
    sealed.open_here()
    assert os.environ["MY_KEY"] == "sup3rs3cret"


def test_secrets_that_are_not_set_or_cannot_be_sealed_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, facts = stamp.Asked(RUN, secrets=("NOT_SET_ANYWHERE",)), {"commit": "c", "pins": "{}"}
    with pytest.raises(InputError, match="NOT_SET_ANYWHERE"):
        stamp.runtime_env(tmp_path / "code.zip", asked, facts, "token")
    monkeypatch.setenv("NOT_SET_ANYWHERE", "x")
    with pytest.raises(InputError, match="sealed with the cluster's token"):
        stamp.runtime_env(tmp_path / "code.zip", asked, facts, None)


def test_a_node_with_other_packages_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    pins.check()
    here = pins.here()
    monkeypatch.setenv(pins.VARIABLE, json.dumps(here | {"torch": here["torch"].partition("+")[0] + "+cu130"}))
    pins.check()
    monkeypatch.setenv(pins.VARIABLE, json.dumps(here | {"torch": "1.0", "absent": "2.0"}))
    with pytest.raises(MismatchError, match=r"torch has .*, wanted 1\.0, absent has none, wanted 2\.0"):
        pins.check()


def test_a_cluster_is_named_by_address_else_variable_else_it_is_the_local_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no cluster is named"):
        client.target(None)
    running = local.Running(1, "127.0.0.1:1", "http://127.0.0.1:2", 2, None)
    monkeypatch.setattr(local, "read", lambda: running)
    assert client.target(None) == client.Target("http://127.0.0.1:2", None, True)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:3/")
    assert client.target(None).url == "http://127.0.0.1:3"
    assert client.target("https://[::1]:4").loopback
    with pytest.raises(InputError, match="no Jobs API"):
        client.target("ray://10.0.0.1:10001")


def test_beyond_this_machine_a_token_is_needed_unless_it_is_said_that_none_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no token"):
        client.target("http://10.0.0.1:8265")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert client.target("http://10.0.0.1:8265").token is None
    monkeypatch.delenv("RAY_AUTH_MODE")
    made = credentials.make_token(tmp_path / "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    assert client.target("http://10.0.0.1:8265").token == made
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "gone"))
    with pytest.raises(InputError, match="cannot be read"):
        client.target("http://10.0.0.1:8265")


def test_nothing_at_an_address_is_said_as_such() -> None:
    with pytest.raises(InputError, match="no Jobs API answers at"):
        submission.listed(client.target("http://127.0.0.1:9"))


def test_a_local_cluster_that_is_gone_is_not_found_and_ending_none_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "address.json").write_text("{}")
    assert local.read() is None
    with pytest.raises(InputError, match="no local cluster runs"):
        local.down()


def test_only_one_keeper_holds_the_address_file(tmp_path: Path) -> None:
    (tmp_path / "local").mkdir()
    running = local.Running(os.getpid(), "127.0.0.1:1", "http://127.0.0.1:2", 2, None)
    with local.claimed() as publish:
        publish(running.__dict__)
        assert local.read() == running
        assert (tmp_path / "local" / "address.json").stat().st_mode & 0o777 == 0o600
        with pytest.raises(InputError, match="runs already"), local.claimed():
            pass
    assert local.read() is None


def test_the_keeper_starts_from_a_clean_ray_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of another cluster")
    environment = local._environment(True)
    assert environment["RAY_AUTH_MODE"] == "token"
    assert not {"RAY_ADDRESS", "RAY_AUTH_TOKEN"} & set(environment)
    assert environment["PATH"].startswith(str(Path(sys.executable).parent))
