"""KubeRay (v1.7) manifests: a cluster that stays, one for a single run, or one that serves."""

from __future__ import annotations

from typing import Any

import yaml

from cluster.deploy import needs
from cluster.environment import node_variables, shipped_variables
from cluster.errors import InputError
from cluster.recipe import Recipe
from cluster.session import commit

API = "ray.io/v1"
RAY = "2.60.0"
APPLICATION = "/app"  # the image's working directory: the code and nothing else
AUTH_SECRET = "auth"  # what the operator makes with authOptions, one per cluster
SECRET = "raydistill"  # made by whoever deploys: kubectl create secret generic raydistill --from-literal=NAME=...
IDLE_S = 120  # a worker group's node is given back after this
PREEMPT_S = 120  # what clouds give a spot node to end
UPGRADE_S = 300
HTTP_PORT = 8000
GATEWAY = "serving.deployment.builders:gateway"  # import path of what answers over HTTP in our documents


def raycluster(name: str, recipe: Recipe, options: needs.Options) -> str:
    """Return the YAML of a cluster that stays; jobs are sent to it by `python -m cluster submit`."""
    return _documents(_kind("RayCluster", name, options, _cluster(recipe, options)))


def rayjob(name: str, recipe: Recipe, options: needs.Options, recipe_name: str) -> str:
    """Return the YAML of one run on a cluster of its own, which is taken down afterwards.

    A failed run is started again twice; every one goes on from the finished steps and the last checkpoint.
    """
    spec = {
        "entrypoint": needs.command(recipe_name, recipe, options),
        "submissionMode": "K8sJobMode",
        "runtimeEnvYAML": yaml.safe_dump({"env_vars": shipped_variables() | {"RAYDISTILL_COMMIT": commit()}}),
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 600,
        "backoffLimit": 2,
        "metadata": {"recipe": recipe.name, "commit": commit(), "fingerprint": recipe.fingerprint()},
        "rayClusterSpec": _cluster(recipe, options),
    }
    return _documents(_kind("RayJob", name, options, spec))


def rayservice(name: str, recipe: Recipe, options: needs.Options, document: str) -> str:
    """Return the YAML of a service; the operator brings a new cluster up before it takes the old one away.

    document: what `serve deploy` takes (YAML or JSON), its bundles in the shared store. Raises InputError where it is
    no Serve document, or where its gateway would answer the whole pod network without a key.
    """
    serve = yaml.safe_load(document)
    if not isinstance(serve, dict) or not serve.get("applications"):
        raise InputError("no Serve document", got=document[:80], expected="a mapping with applications")
    for one in serve["applications"]:
        _keyed(one)
    http = {**(serve.get("http_options") or {}), "host": "0.0.0.0", "port": HTTP_PORT}
    serve |= {"proxy_location": "EveryNode", "http_options": http}
    spec = {
        "serveConfigV2": yaml.safe_dump(serve, sort_keys=False),
        "upgradeStrategy": {"type": "NewCluster"},
        "excludeHeadPodFromServeSvc": True,
        "rayClusterDeletionDelaySeconds": UPGRADE_S,
        "rayClusterConfig": _cluster(recipe, options, only=("serve",)),
    }
    return _documents(_kind("RayService", name, options, spec))


def _keyed(application: dict[str, Any]) -> None:
    """Raise InputError for our gateway without keys. As it listens on loopback by itself, `serving config` lets it
    pass; in a pod it cannot stay there."""
    if application.get("import_path") != GATEWAY:
        return
    plan = (application.get("args") or {}).get("plan") or {}
    if not plan.get("keys"):
        raise InputError(
            f"the service would be open: whoever reaches port {HTTP_PORT} of its pods may ask",
            got="a gateway without API keys", expected="a document made with serving.keys_file",
            hint="python -m serving key NAME --file KEYS; "
            "python -m serving config RECIPE --set serving.keys_file=KEYS > FILE (it holds digests, no keys)",
        )  # fmt: skip


def _kind(kind: str, name: str, options: needs.Options, spec: dict[str, Any]) -> dict[str, Any]:
    about = {"name": name, "namespace": options.namespace, "labels": {"app.kubernetes.io/part-of": "raydistill"}}
    return {"apiVersion": API, "kind": kind, "metadata": about, "spec": spec}


def _cluster(
    recipe: Recipe, options: needs.Options, only: tuple[str, ...] = ("generate", "train", "serve")
) -> dict[str, Any]:
    workers = [_group(group, options) for group in needs.groups(recipe, options) if group.step in only]
    return {
        "rayVersion": RAY,
        "authOptions": {"mode": "token"},
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {"version": "v2", "upscalingMode": "Default", "idleTimeoutSeconds": IDLE_S},
        # The head may be restarted: jobs, actors and Serve's state are kept there (Redis is yours to run).
        "gcsFaultToleranceOptions": {
            "backend": "redis",
            "redisAddress": "redis.raydistill.svc.cluster.local:6379",
            "redisPassword": {"valueFrom": {"secretKeyRef": {"name": SECRET, "key": "REDIS_PASSWORD"}}},
        },
        "headGroupSpec": {
            # No task and no replica runs on the head: what falls there would fall with it.
            "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},
            "template": _pod(options, cpus=2, memory_gib=8),
        },
        "workerGroupSpecs": workers,
    }


def _group(group: needs.Group, options: needs.Options) -> dict[str, Any]:
    pod = _pod(options, group.cpus, group.memory_gib, group.gpus)
    if group.may_be_taken:
        pod["spec"]["tolerations"] = [
            {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"},
            {
                "key": "kubernetes.azure.com/scalesetpriority",
                "operator": "Equal",
                "value": "spot",
                "effect": "NoSchedule",
            },
            {"key": "raydistill/spot", "operator": "Exists", "effect": "NoSchedule"},
        ]
        pod["spec"]["terminationGracePeriodSeconds"] = PREEMPT_S
    if group.gpus:
        tolerations = pod["spec"].get("tolerations") or []
        pod["spec"]["tolerations"] = [
            *tolerations,
            {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
        ]
    return {
        "groupName": group.step, "replicas": group.fewest, "minReplicas": group.fewest, "maxReplicas": group.most,
        "labels": group.labels, "rayStartParams": {}, "template": pod,
    }  # fmt: skip


def _pod(options: needs.Options, cpus: int, memory_gib: int, gpus: int = 0) -> dict[str, Any]:
    resources: dict[str, Any] = {"cpu": str(cpus), "memory": f"{memory_gib}Gi"}
    if gpus:
        resources["nvidia.com/gpu"] = str(gpus)
    secrets = [{"name": name, "valueFrom": {"secretKeyRef": {"name": SECRET, "key": name}}} for name in options.secrets]
    container: dict[str, Any] = {
        "name": "ray", "image": options.image, "workingDir": APPLICATION,
        "env": [*({"name": name, "value": value} for name, value in node_variables().items()),
                {"name": "PYTHONPATH", "value": APPLICATION}, *secrets],
        "resources": {"requests": dict(resources), "limits": dict(resources)},
        "securityContext": {"runAsNonRoot": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]},
                            "seccompProfile": {"type": "RuntimeDefault"}},
        # Ray's object store; without it /dev/shm has 64 MB and objects go to disk.
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
    }  # fmt: skip
    volumes: list[dict[str, Any]] = [
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{memory_gib // 3 + 1}Gi"}}
    ]
    # Steps pass files to each other's nodes through the store, or through its cache in front of a bucket.
    store = options.checked_store()
    volumes.append({"name": "store", "persistentVolumeClaim": {"claimName": "raydistill-store"}})
    container["volumeMounts"].append({"name": "store", "mountPath": "/cache" if "://" in store else store})
    if "://" in store:
        container["env"].append({"name": "RAYDISTILL_CACHE", "value": "/cache"})
    return {"spec": {"containers": [container], "volumes": volumes}}


def _documents(*documents: dict[str, Any]) -> str:
    return yaml.dump_all(documents, Dumper=_Plain, sort_keys=False, width=110)


class _Plain(yaml.SafeDumper):
    """Writes no anchors: what is the same twice is written twice, as people expect in a manifest."""

    def ignore_aliases(self, data: Any) -> bool:
        """Never."""
        return True
