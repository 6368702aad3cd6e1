"""Files that other tools run: KubeRay manifests, Ray's VM launcher, the container image, dashboards; made from a recipe."""
