"""The container image: built in one stage, run in another as a user without rights, for CPU or for GPU nodes."""

from __future__ import annotations

from typing import Literal

PYTHON = "3.11"
CPU_TORCH = "https://download.pytorch.org/whl/cpu"
CUDA_TORCH = "https://download.pytorch.org/whl/cu130"
USER_ID = 1000
# Every command runs on the image: a search needs optuna, some recipes OpenVINO, sacrebleu or fairlearn.
EXTRAS = "train,serve,tune,text,openvino,eval"

# "@" marks what differs between the two.
TEMPLATE = """\
# syntax=docker/dockerfile:1
# Written by `python -m cluster manifest RECIPE --kind image`. Build from the repository's root:
#   docker build -f Containerfile -t raydistill:latest --build-arg COMMIT=$(git rev-parse HEAD) .
# The same image is head, worker, driver and replica: what was tested is what runs.

FROM @BUILD_BASE AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python@PYTHON -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /build
# Only what names the dependencies: the layer is made again when they change, not when the code does.
COPY pyproject.toml README.md LICENSE ./
RUN pip install --extra-index-url @TORCH_INDEX '.[@EXTRAS]'

FROM @RUN_BASE AS run
ARG COMMIT=unknown
LABEL org.opencontainers.image.title="raydistill" \\
      org.opencontainers.image.licenses="Apache-2.0" \\
      org.opencontainers.image.revision="$COMMIT"
@RUN_SETUP
# wget: KubeRay's probes ask the raylet by it. No compiler, no pip cache, no shell tools beyond the base's.
RUN apt-get update \\
 && apt-get install --yes --no-install-recommends @PACKAGES \\
 && rm -rf /var/lib/apt/lists/* \\
 && groupadd --gid @USER ray \\
 && useradd --uid @USER --gid @USER --create-home ray \\
 && mkdir -p /app /cache \\
 && chown ray:ray /app /cache
COPY --from=build --chown=root:root /opt/venv /opt/venv
COPY --chown=root:root cluster /app/cluster
COPY --chown=root:root jobs /app/jobs
COPY --chown=root:root serving /app/serving
COPY --chown=root:root tuning /app/tuning
COPY --chown=root:root pyproject.toml /app/
WORKDIR /app
USER @USER:@USER
ENV PATH=/opt/venv/bin:$PATH \\
    PYTHONPATH=/app \\
    PYTHONUNBUFFERED=1 \\
    RAYDISTILL_COMMIT=$COMMIT \\
    RAYDISTILL_CACHE=/cache \\
    RAY_AUTH_MODE=token \\
    RAY_USAGE_STATS_ENABLED=0 \\
    RAY_worker_niceness=0 \\
    RAY_SERVE_HAPROXY_BINARY_PATH=/app/serving/deployment/haproxy.sh \\
    OMP_NUM_THREADS=1
# 6379 GCS, 8265 dashboard and Jobs API, 8000 HTTP of the service.
EXPOSE 6379 8265 8000
CMD ["python", "-m", "jobs", "--help"]
"""

IGNORE = """\
*
!pyproject.toml
!README.md
!LICENSE
!cluster
!jobs
!serving
!tuning
**/__pycache__
"""


def containerfile(kind: Literal["cpu", "gpu"]) -> str:
    """Return the Containerfile (Docker and Podman read it).

    gpu: CUDA's runtime below, torch's CUDA build, TensorRT; the host brings the driver.
    """
    slim = f"docker.io/library/python:{PYTHON}-slim-bookworm"
    cpu = {
        "BUILD_BASE": slim, "RUN_BASE": slim, "TORCH_INDEX": CPU_TORCH, "EXTRAS": EXTRAS,
        "PACKAGES": "wget", "RUN_SETUP": "",
    }  # fmt: skip
    # Ubuntu 22.04 has Python 3.11 as a package of its own; the venv's interpreter must be there in both stages.
    setup = "ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility"
    base = "docker.io/nvidia/cuda:13.0.1-cudnn-{}-ubuntu22.04"
    gpu = {
        "BUILD_BASE": base.format("devel"), "RUN_BASE": base.format("runtime"), "TORCH_INDEX": CUDA_TORCH,
        "EXTRAS": f"{EXTRAS},gpu", "PACKAGES": f"wget python{PYTHON}", "RUN_SETUP": setup,
    }  # fmt: skip
    values = (cpu if kind == "cpu" else gpu) | {"PYTHON": PYTHON, "USER": str(USER_ID)}
    text = TEMPLATE
    if kind == "gpu":
        packages = f"python{PYTHON}-venv python{PYTHON}-dev"
        install = f"RUN apt-get update && apt-get install --yes --no-install-recommends {packages}"
        text = text.replace("RUN python@PYTHON -m venv", f"{install}\nRUN python@PYTHON -m venv")
    for name in sorted(values, key=len, reverse=True):
        text = text.replace(f"@{name}", values[name])
    return text.replace("\n\n# wget", "\n# wget") if kind == "cpu" else text
