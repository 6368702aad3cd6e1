"""Deployment files made from recipes: KubeRay's own schemas, Ray's launcher schema, and what an image must not do."""

import json
import os
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from cluster import commands
from cluster.deploy import manifest, needs, vm
from cluster.edge import Edge
from cluster.environment import node_variables
from cluster.errors import InputError
from cluster.recipe import Recipe, known_recipes, load
from cluster.session import ROOT
from serving.deployment.document import BUILDERS

DATA = Path(os.environ.get("RAYDISTILL_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
KUBERAY = DATA / "kuberay_v1.7.0"
KEY = {"name": "shop", "role": "client", "sha256": "0" * 64, "per_minute": None}
PLAN = {"section": {}, "keys": [KEY]}
SERVE: dict[str, Any] = {
    "applications": [
        {"name": "gateway", "route_prefix": "/", "import_path": f"{BUILDERS}:gateway", "args": {"plan": PLAN}}
    ]
}
ON_PREM = manifest.Place(hosts=("10.0.0.1", "10.0.0.2", "10.0.0.3"))


def schema(plural: str) -> dict[str, Any]:
    path = KUBERAY / f"ray.io_{plural}.yaml"
    if not path.is_file():
        pytest.skip(f"KubeRay's schemas are not here: {path}")
    versions = yaml.load(path.read_text(), yaml.CSafeLoader)["spec"]["versions"]
    return closed(next(one["schema"]["openAPIV3Schema"] for one in versions if one["name"] == "v1"))


def closed(node: Any) -> Any:
    """The schema as the API server takes it: a field that it does not know is dropped there, an error here."""
    if isinstance(node, list):
        return [closed(one) for one in node]
    if not isinstance(node, dict):
        return node
    made = {key: closed(value) for key, value in node.items() if key not in ("description", "x-kubernetes-validations")}
    fields = made.get("properties")
    open_ended = made.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in made
    if isinstance(fields, dict) and fields and not open_ended:
        made["additionalProperties"] = False
    return made


def made(kind: str, recipe: str = "digits", place: manifest.Place = ON_PREM, **options: Any) -> dict[str, str]:
    return manifest.files(recipe, kind, needs.Options(**{"store": "s3://bucket/runs", **options}), place)


def document(kind: str, tmp_path: Path, **options: Any) -> dict[str, Any]:
    (tmp_path / "serve.json").write_text(json.dumps(SERVE))
    text = next(iter(made(kind, place=manifest.Place(serve=str(tmp_path / "serve.json")), **options).values()))
    return dict(yaml.safe_load(text))


@pytest.mark.parametrize(
    "options", [{}, {"gpu": True, "spot": False, "secrets": ("OPENAI_API_KEY",), "store": "/mnt/runs"}]
)
@pytest.mark.parametrize("kind", ["raycluster", "rayjob", "rayservice"])
def test_kuberays_own_schema_takes_the_manifest_without_an_unknown_field(
    kind: str, options: dict[str, Any], tmp_path: Path
) -> None:
    wanted, found = schema(f"{kind}s"), document(kind, tmp_path, **options)
    wanted["properties"]["metadata"] = {"type": "object"}
    jsonschema.Draft202012Validator(wanted).validate(found)
    found["spec"]["noSuchField"] = 1
    with pytest.raises(jsonschema.ValidationError, match="noSuchField"):
        jsonschema.Draft202012Validator(wanted).validate(found)


def groups_of(cluster: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {group["groupName"]: group for group in cluster["workerGroupSpecs"]}


def pod_of(group: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    spec = group["template"]["spec"]
    return spec, spec["containers"][0]


def test_each_step_has_a_group_that_its_recipe_labels_choose(tmp_path: Path) -> None:
    found = groups_of(document("raycluster", tmp_path)["spec"])
    assert set(found) == {"generate", "train", "serve"}
    assert [found[step]["labels"] for step in found] == [{"raydistill/step": step} for step in found]
    asked = needs.labels_of(load("digits"))
    labels = load("digits", asked[1:]).resources.labels
    assert labels == {step: group["labels"] for step, group in found.items()}


def test_trainings_go_on_gpus_where_asked_and_only_generation_may_be_taken_away(tmp_path: Path) -> None:
    found = groups_of(document("raycluster", tmp_path, gpu=True)["spec"])
    limits = {step: pod_of(group)[1]["resources"]["limits"].get("nvidia.com/gpu") for step, group in found.items()}
    assert limits == {"generate": None, "train": "1", "serve": None}
    spot = {step: [one["key"] for one in pod_of(group)[0].get("tolerations", [])] for step, group in found.items()}
    assert "raydistill/spot" in spot["generate"]
    assert (spot["train"], spot["serve"]) == (["nvidia.com/gpu"], [])


def test_the_clusters_head_runs_nothing_survives_a_restart_and_asks_for_a_token(tmp_path: Path) -> None:
    spec = document("raycluster", tmp_path)["spec"]
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert spec["gcsFaultToleranceOptions"]["backend"] == "redis"
    assert spec["authOptions"] == {"mode": "token"}


def test_every_node_starts_ray_with_what_the_embedded_one_has(tmp_path: Path) -> None:
    wanted = node_variables()
    assert {"RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_HAPROXY_RETRY_ON"} <= set(wanted)  # a killed router costs nothing
    cluster = document("rayservice", tmp_path)["spec"]["rayClusterConfig"]
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        found = {one["name"]: one.get("value") for one in pod_of(group)[1]["env"]}
        assert wanted.items() <= found.items()
    started = yaml.safe_load(made("vm")["digits.yaml"])["worker_start_ray_commands"][1]
    words = shlex.split(started.replace(";", " "))
    assert wanted.items() <= dict(word.split("=", 1) for word in words if "=" in word).items()


def test_secrets_are_references_and_no_pod_has_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sup3rs3cret")
    found = document("rayjob", tmp_path, secrets=("OPENAI_API_KEY",))
    assert "sup3rs3cret" not in json.dumps(found)
    cluster = found["spec"]["rayClusterSpec"]
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        _, container = pod_of(group)
        keys = {one["name"]: one.get("valueFrom", {}).get("secretKeyRef", {}).get("key") for one in container["env"]}
        assert keys["OPENAI_API_KEY"] == "OPENAI_API_KEY"
        rights = container["securityContext"]
        assert (rights["runAsNonRoot"], rights["allowPrivilegeEscalation"]) == (True, False)


def test_a_job_runs_the_recipe_against_the_store_and_is_resumed_when_it_fails(tmp_path: Path) -> None:
    spec = document("rayjob", tmp_path)["spec"]
    assert spec["entrypoint"].startswith("python -m jobs run digits --set ")
    assert spec["entrypoint"].endswith("--store s3://bucket/runs")
    assert (spec["backoffLimit"], spec["shutdownAfterJobFinishes"]) == (2, True)
    assert "RAYDISTILL_COMMIT" in yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]


def test_a_service_listens_for_others_and_keeps_its_document(tmp_path: Path) -> None:
    serve = yaml.safe_load(document("rayservice", tmp_path)["spec"]["serveConfigV2"])
    assert serve["http_options"] == {"host": "0.0.0.0", "port": 8000}
    assert serve["applications"] == SERVE["applications"]
    with pytest.raises(InputError, match="what does the service run"):
        made("rayservice", place=manifest.Place())


@pytest.mark.parametrize("args", [None, {}, {"plan": {"section": {}}}, {"plan": PLAN | {"keys": []}}])
def test_a_gateway_without_keys_is_no_service_for_a_pod_network(args: Any, tmp_path: Path) -> None:
    open_to_all = {"applications": [SERVE["applications"][0] | {"args": args}]}
    (tmp_path / "serve.json").write_text(json.dumps(open_to_all))
    with pytest.raises(InputError, match="port 8000 of its pods may ask") as refused:
        made("rayservice", place=manifest.Place(serve=str(tmp_path / "serve.json")))
    assert "python -m serving key NAME --file KEYS" in str(refused.value)


@pytest.mark.parametrize("place", [ON_PREM, *(manifest.Place(cloud=cloud) for cloud in vm.CLOUDS)], ids=str)
def test_rays_launcher_takes_the_vm_file(place: manifest.Place) -> None:
    import ray.autoscaler

    path = Path(ray.autoscaler.__file__).parent / "ray-schema.json"
    config = yaml.safe_load(made("vm", place=place, gpu=True, secrets=("OPENAI_API_KEY",))["digits.yaml"])
    jsonschema.validate(config, json.loads(path.read_text()))
    if place.hosts:  # what `ray up` itself does with it first
        from ray.autoscaler._private.util import prepare_config, validate_config

        validate_config(prepare_config(config))
    assert all("RAY_AUTH_MODE=token" in config[f"{node}_start_ray_commands"][1] for node in ("head", "worker"))
    if place.cloud:
        types = config["available_node_types"]
        assert set(types) == {"head", "generate", "train", "serve"}
        assert types["head"]["resources"] == {"CPU": 0}
        assert types["train"]["node_config"] != types["serve"]["node_config"]


def test_a_launchers_token_is_made_once_beside_it_for_this_user_alone(tmp_path: Path) -> None:
    paths = manifest.write(tmp_path, made("vm"))
    token = tmp_path / "digits.token"
    assert paths == [str(tmp_path / "digits.yaml"), str(token)]
    first = token.read_text()
    assert (len(first), token.stat().st_mode & 0o777) == (64, 0o600)
    manifest.write(tmp_path, made("vm"))
    assert token.read_text() == first


@pytest.mark.parametrize("gpu", [False, True])
def test_the_image_is_built_in_stages_runs_without_root_and_carries_no_build_tools(gpu: bool) -> None:
    written = made("image", gpu=gpu)
    lines = [line for line in written["Containerfile"].splitlines() if line and not line.startswith("#")]
    stages = [line for line in lines if line.startswith("FROM ")]
    assert [line.split()[-1] for line in stages] == ["build", "run"]
    assert all(":" in line.split()[1] and not line.split()[1].endswith(":latest") for line in stages)
    last = "\n".join(lines[lines.index(stages[1]) :])
    assert "pip install" not in last
    assert [line for line in lines if line.startswith("USER")] == ["USER 1000:1000"]
    assert "@" not in "\n".join(lines)
    known = ("FROM", "ARG", "ENV", "RUN", "COPY", "WORKDIR", "USER", "EXPOSE", "CMD", "LABEL", " ")
    assert [line for line in lines if not line.startswith(known)] == []
    copied = [line.split()[-2] for line in last.splitlines() if line.startswith("COPY") and "--from" not in line]
    assert all((ROOT / name).exists() for name in copied)
    assert not {f"!{name}" for name in copied} - set(written[".dockerignore"].splitlines())


@pytest.mark.parametrize("gpu", [False, True])
def test_serve_runs_haproxy_by_the_wrapper_in_the_image_which_manifests_leave_as_it_is(
    gpu: bool, tmp_path: Path
) -> None:
    last = made("image", gpu=gpu)["Containerfile"].rpartition("\nFROM ")[2]
    named = re.search(r"^ *RAY_SERVE_HAPROXY_BINARY_PATH=(\S+)", last, re.MULTILINE)
    assert named is not None
    wrapper = Path(named[1]).relative_to("/app")
    assert f"COPY --chown=root:root {wrapper.parts[0]} /app/{wrapper.parts[0]}\n" in last
    assert os.access(ROOT / wrapper, os.X_OK)  # COPY keeps the bits
    cluster = document("rayservice", tmp_path)["spec"]["rayClusterConfig"]
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        _, container = pod_of(group)
        assert container["workingDir"] == "/app"
        assert "RAY_SERVE_HAPROXY_BINARY_PATH" not in [one["name"] for one in container["env"]]


@pytest.mark.parametrize("gpu", [False, True])
def test_the_image_has_what_every_command_needs(gpu: bool) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = set(extras) - {"all", "dev"} - (set() if gpu else {"gpu"})
    installed = re.search(r"pip install .*'\.\[(.*)\]'", made("image", gpu=gpu)["Containerfile"])
    assert installed is not None and set(installed[1].split(",")) == wanted


@pytest.mark.parametrize("name", known_recipes())
def test_every_recipe_has_groups_of_at_least_one_node(name: str) -> None:
    found = needs.groups(load(name), needs.Options(store="/mnt/runs"))
    assert all(group.most >= max(1, group.fewest) and group.cpus >= 1 for group in found)


def test_wrong_choices_are_said(tmp_path: Path) -> None:
    for options in ({"store": None}, {"store": "runs"}):
        with pytest.raises(InputError, match="where do the artifacts go"):
            made("raycluster", **options)
    with pytest.raises(InputError, match="unknown kind"):
        made("helm")
    with pytest.raises(InputError, match="on which machines"):
        made("vm", place=manifest.Place())
    with pytest.raises(InputError, match="unknown cloud"):
        made("vm", place=manifest.Place(cloud="mars"))
    out = (tmp_path / "out").open("w")
    with out, pytest.raises(InputError, match="NAME=VALUE"):
        commands.manifest(Edge(out, False), commands.Wanted("digits", "vm", "/mnt", ("hosts=a",)), None)


def test_labels_place_every_step_and_an_elastic_training_is_left_to_its_resource(recipe_values: dict[str, Any]) -> None:
    assert "train: {raydistill/step: train}" in needs.labels_of(Recipe.parse(recipe_values))[1]
    recipe_values["distill"]["engine"] = {"workers": 2, "min_workers": 1}
    assert "train" not in needs.labels_of(Recipe.parse(recipe_values))[1]
