"""Files that other tools run, made from a recipe: KubeRay manifests, Ray's VM launcher, container image, dashboards."""
