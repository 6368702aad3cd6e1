"""Ray's own launcher (`ray up FILE`) for virtual machines: on-prem hosts by address, or AWS, GCP and Azure."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

import yaml

from cluster.deploy import needs
from cluster.environment import node_variables
from cluster.errors import InputError
from cluster.recipe import Recipe

CLOUDS = ("aws", "gcp", "azure")
TOKEN = "/home/ray/.ray-token"  # in the container; the launcher copies it there, Ray reads it by this path
# Machines by cloud: a CPU node and a GPU node (one GPU).
MACHINES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "aws": ({"InstanceType": "m7i.2xlarge"}, {"InstanceType": "g6.2xlarge"}),
    "gcp": ({"machineType": "n2-standard-8"}, {"machineType": "g2-standard-8"}),
    "azure": (
        {"azure_arm_parameters": {"vmSize": "Standard_D8s_v5"}},
        {"azure_arm_parameters": {"vmSize": "Standard_NC8as_T4_v3"}},
    ),
}
REGIONS: dict[str, dict[str, Any]] = {
    "aws": {"region": "eu-central-1"},
    "gcp": {"region": "europe-west4", "availability_zone": "europe-west4-a", "project_id": "CHANGE-ME"},
    "azure": {"location": "westeurope", "resource_group": "raydistill"},
}
SPOT: dict[str, dict[str, Any]] = {
    "aws": {"InstanceMarketOptions": {"MarketType": "spot"}},
    "gcp": {"scheduling": [{"provisioningModel": "SPOT"}]},
    "azure": {"azure_arm_parameters": {"priority": "Spot", "billingProfile": {"maxPrice": -1}}},
}


def on_prem(name: str, options: needs.Options, hosts: Sequence[str], user: str) -> str:
    """Return the launcher's YAML for machines that are there; the first host is the head. Raises InputError."""
    if len(hosts) < 2:
        raise InputError(
            "a head and at least one worker are needed", got=", ".join(hosts), expected="--host A --host B"
        )
    provider = {"type": "local", "head_ip": hosts[0], "worker_ips": list(hosts[1:])}
    return _text(_common(name, options, user) | {
        "provider": provider, "max_workers": len(hosts) - 1, "upscaling_speed": 1.0,
    })  # fmt: skip


def in_cloud(name: str, recipe: Recipe, options: needs.Options, cloud: str, user: str) -> str:
    """Return the launcher's YAML for a cloud: a head that runs nothing, and one node type per step.

    Raises InputError for a cloud that is not known.
    """
    if cloud not in CLOUDS:
        raise InputError("unknown cloud", got=cloud, expected=", ".join(CLOUDS))
    types: dict[str, Any] = {"head": {"resources": {"CPU": 0}, "node_config": _machine(cloud, 0, False)}}
    groups = needs.groups(recipe, options)
    for group in groups:
        types[group.step] = {
            "node_config": _machine(cloud, group.gpus, group.may_be_taken), "labels": group.labels,
            "min_workers": group.fewest, "max_workers": group.most, "resources": {},
        }  # fmt: skip
    return _text(_common(name, options, user) | {
        "provider": {"type": cloud, **REGIONS[cloud]}, "available_node_types": types, "head_node_type": "head",
        "max_workers": sum(group.most for group in groups), "idle_timeout_minutes": 5,
    })  # fmt: skip


def _common(name: str, options: needs.Options, user: str) -> dict[str, Any]:
    """What both have: the image, the token, and how Ray is started.

    The launcher runs `ray` inside the container; the token is made beside this file by `python -m cluster manifest`.
    """
    variables = " ".join(f"{variable}={shlex.quote(value)}" for variable, value in node_variables().items())
    environment = f"export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={TOKEN} {variables}; ulimit -n 65536;"
    head = (
        "ray start --head --port=6379 --num-cpus=0 --dashboard-host=127.0.0.1 "
        "--autoscaling-config=~/ray_bootstrap_config.yaml"
    )
    run_options = ["--ulimit nofile=65536:65536", "--shm-size=8g"]
    run_options += [f"--env {name}" for name in options.secrets]
    store = options.checked_store()
    if "://" not in store:
        run_options.append(f"-v {store}:{store}")
    return {
        "cluster_name": name,
        "docker": {"image": options.image, "container_name": "raydistill", "pull_before_run": True,
                   "run_options": run_options},
        "auth": {"ssh_user": user},
        "file_mounts": {TOKEN: f"./{name}.token"},
        "head_start_ray_commands": ["ray stop", f"{environment} {head}"],
        "worker_start_ray_commands": ["ray stop", f"{environment} ray start --address=$RAY_HEAD_IP:6379"],
    }  # fmt: skip


def _machine(cloud: str, gpus: int, spot: bool) -> dict[str, Any]:
    chosen: dict[str, Any] = {
        key: dict(value) if isinstance(value, dict) else value
        for key, value in MACHINES[cloud][1 if gpus else 0].items()
    }
    for key, value in (SPOT[cloud] if spot else {}).items():
        chosen[key] = {**chosen[key], **value} if key in chosen else value
    return chosen


def _text(values: dict[str, Any]) -> str:
    return yaml.safe_dump(values, sort_keys=False, width=110)
