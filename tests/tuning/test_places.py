"""Where trials run: on the nodes that training wants, with the share of a GPU that is asked, packed by both."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster import session
from cluster.errors import RecipeError
from tuning import places, search
from tuning.places import Place

ROOT = Path(__file__).resolve().parents[2]


def node(cpus: float, gpus: float = 0, alive: bool = True, **labels: str) -> dict[str, Any]:
    """One of `ray.nodes()`; Ray leaves a resource out that a node has none of."""
    resources = {"memory": 1.0} | ({"CPU": cpus} if cpus else {}) | ({"GPU": gpus} if gpus else {})
    return {"Alive": alive, "Resources": resources, "Labels": labels}


def test_a_trial_takes_a_gpu_where_training_would_and_the_share_that_the_recipe_asks_for(searched_recipe: Any) -> None:
    laptop, server = [node(8)], [node(8), node(16, 2)]
    assert places.of(searched_recipe(), laptop) == Place(1, 0.0)
    assert places.of(searched_recipe(), server) == Place(1, 1.0)
    assert places.of(searched_recipe("search.gpus=0.25", "distill.engine.threads=2"), server) == Place(2, 0.25)
    assert places.of(searched_recipe("search.gpus=0"), server) == Place(1, 0.0)
    with pytest.raises(RecipeError, match="gpus"):
        searched_recipe("search.gpus=2")


def test_trials_are_packed_by_what_runs_out_first() -> None:
    head, two = node(0), node(16, 2)
    assert places.at_once(Place(1, 0.0), [head, node(8), two]) == 24
    assert places.at_once(Place(1, 1.0), [head, node(8), two]) == 2
    assert places.at_once(Place(1, 0.1), [two]) == 16 and places.at_once(Place(4, 0.25), [two]) == 4
    # Three tenths of two GPUs are three trials on each: no trial takes a bit of both.
    assert places.at_once(Place(1, 0.3), [two]) == 6
    assert places.at_once(Place(1, 1.0), [head]) == 1


def test_gpus_that_training_may_not_use_are_no_place_for_trials(
    searched_recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fitting(role: str) -> Any:
        monkeypatch.setattr(session, "_labels", {"train": {"role": role}})
        return session.nodes("train")

    nodes = [node(8, role="cpu"), node(8, 4, role="gpu"), node(8, 4, alive=False, role="cpu")]
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    assert places.of(searched_recipe(), fitting("cpu")).gpus == 0
    assert places.of(searched_recipe(), fitting("gpu")).gpus == 1
    assert len(fitting("!gpu")) == 2


def test_a_share_of_a_gpu_is_reserved_in_the_bundle_of_the_trial(prepared: Any) -> None:
    import ray

    def bundle(place: Place) -> Any:
        return search.placed_trial(prepared.space, prepared.store, place)._resources

    assert bundle(Place(2, 0.25)) == ray.tune.PlacementGroupFactory([{"CPU": 2.0, "GPU": 0.25}])
    assert bundle(Place(2, 0.25)).required_resources == {"CPU": 2.0, "GPU": 0.25}
    assert bundle(Place(1, 0.0)) == ray.tune.PlacementGroupFactory([{"CPU": 1.0}])


def test_a_trial_without_a_gpu_sees_none_and_one_with_a_share_keeps_what_ray_gave_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import os

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    places.hide_gpus(Place(1, 0.5))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
    places.hide_gpus(Place(1, 0.0))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.usefixtures("ray_cluster")
def test_trials_go_where_the_recipe_wants_training_and_are_packed_by_those_nodes(
    prepared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    def asked(labels: dict[str, str]) -> Any:
        monkeypatch.setattr(session, "_labels", {"train": labels})  # as on a cluster: an embedded Ray places nothing
        return search.placed_trial(prepared.space, prepared.store, Place(1, 0.0))._resources

    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    wanted: tuple[tuple[dict[str, str], bool, int], ...]
    wanted = (({}, True, 2), (here, True, 2), ({"role": "gpu"}, False, 1), ({"role": "!gpu"}, True, 2))
    for labels, there, fit in wanted:
        request = asked(labels)
        group = request.to_placement_group()  # as Tune makes it for a trial
        try:
            assert group.wait(20 if there else 1) is there, labels
            assert places.at_once(Place(1, 0.0), session.nodes("train")) == fit
        finally:
            ray.util.remove_placement_group(group)
    assert asked({"role": "gpu"}) != asked({}) == ray.tune.PlacementGroupFactory([{"CPU": 1.0}])


# A Ray that believes in one GPU: nothing computes on it, but Ray reserves it and names it to who holds a share.
SHARED = """
import json, os, sys, time
from pathlib import Path
from cluster import session
session.prepare_environment("embedded")
import ray
from ray import tune
from tuning import places
from tuning.search import TUNE
from cluster.recipe import load
os.environ.update(TUNE)
ray.init(address="local", num_cpus=4, num_gpus=1, include_dashboard=False, _node_ip_address="127.0.0.1",
         log_to_driver=False)
nodes = session.nodes("train")
place = places.of(load("image_classification", ["search.gpus=0.5"]), nodes)

def trial(config, folder, place):
    places.hide_gpus(place)
    mark = Path(folder) / f"{os.getpid()}"
    mark.write_text(os.environ["CUDA_VISIBLE_DEVICES"])
    until = time.monotonic() + 60
    while len(list(Path(folder).iterdir())) < 2 and time.monotonic() < until:
        time.sleep(0.1)
    time.sleep(2)
    tune.report({"together": len(list(Path(folder).iterdir()))})

running = tune.with_resources(tune.with_parameters(trial, folder=sys.argv[1], place=place), places.group(place))
found = tune.Tuner(running, tune_config=tune.TuneConfig(num_samples=3, reuse_actors=True),
                   run_config=tune.RunConfig(storage_path=sys.argv[2], verbose=0)).fit()
print(json.dumps({"at_once": places.at_once(place, nodes), "together": [one.metrics["together"] for one in found],
                  "seen": [one.read_text() for one in Path(sys.argv[1]).iterdir()]}))
"""


@pytest.mark.slow
def test_two_trials_share_the_one_gpu_and_a_third_waits(tmp_path: Path) -> None:
    import json

    (tmp_path / "marks").mkdir()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SHARED, str(tmp_path / "marks"), str(tmp_path / "tune")],
        cwd=ROOT, text=True, capture_output=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    # The third came when one of the two had ended, in its actor: never three processes.
    assert told == {"at_once": 2, "together": [2, 2, 2], "seen": ["0", "0"]}
