"""The RayJob is one that KubeRay takes, in versions that agree with the lock and the image."""

from __future__ import annotations

import copy
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = ROOT / "infra/rayjob.yaml"


@pytest.fixture
def job() -> dict[str, Any]:
    """The manifest."""
    loaded: dict[str, Any] = yaml.safe_load(MANIFEST.read_text(encoding="utf-8"))
    return loaded


def schema_errors(job: dict[str, Any]) -> list[str]:
    """Return what is wrong with the RayJob's own fields."""
    schema = json.loads((Path(__file__).parent / "rayjob.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    found = jsonschema.Draft202012Validator(schema).iter_errors(job)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in found]


def pod_specs(job: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each group's name and pod."""
    cluster = job["spec"]["rayClusterSpec"]
    yield "head", cluster["headGroupSpec"]["template"]["spec"]
    for group in cluster["workerGroupSpecs"]:
        yield group["groupName"], group["template"]["spec"]


def check_pod(name: str, spec: dict[str, Any]) -> None:
    """Raise unless the Kubernetes API knows every field of this pod."""
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
    kubernetes_validate.validate(pod, "1.31", strict=True)


def locked(name: str) -> str:
    """Return the version uv.lock has of a package."""
    packages = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    return str(next(package["version"] for package in packages if package["name"] == name))


def test_the_manifest_has_only_fields_that_kuberay_knows(job: dict[str, Any]) -> None:
    assert schema_errors(job) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "entrypint"), "python x.py"),
        (("spec", "submissionMode"), "K8sJob"),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "replicas"), "two"),
        (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
    ],
)
def test_a_field_that_kuberay_would_refuse_is_found(
    job: dict[str, Any], path: tuple[str | int, ...], value: object
) -> None:
    where: Any = job
    for step in path[:-1]:
        where = where[step]
    where[path[-1]] = value
    assert schema_errors(job) != []


def test_every_pod_is_one_that_kubernetes_takes(job: dict[str, Any]) -> None:
    pods = dict(pod_specs(job))
    assert {"head", "cpu"} <= pods.keys()
    for name, spec in pods.items():
        check_pod(name, spec)
        wrong = copy.deepcopy(spec)
        wrong["containers"][0]["imagee"] = "x"
        with pytest.raises(kubernetes_validate.ValidationError):
            check_pod(name, wrong)


def test_every_pod_runs_the_same_image_without_privileges(job: dict[str, Any]) -> None:
    images = set()
    for _, spec in pod_specs(job):
        assert spec["securityContext"]["runAsNonRoot"] is True
        mounted = {volume["name"] for volume in spec["volumes"]}
        for container in spec["containers"]:
            images.add(container["image"])
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["resources"]["limits"]["memory"]
            assert {mount["name"] for mount in container["volumeMounts"]} <= mounted
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert images == {f"s2v-cpu:{version}"}


def test_the_cluster_runs_the_locked_ray(job: dict[str, Any]) -> None:
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == locked("ray")


def test_the_fixed_number_of_workers_lies_within_its_bounds(job: dict[str, Any]) -> None:
    for group in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_the_entrypoint_is_a_job_that_takes_these_options(job: dict[str, Any]) -> None:
    python, script, *words = shlex.split(job["spec"]["entrypoint"])
    assert python == "python"
    said = subprocess.run(
        [sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stderr
    for word in words:
        if word.startswith("--"):
            assert re.search(rf"(?<!\S){re.escape(word)}\b", said.stdout), f"{script} has no {word}"
        elif word.endswith(".toml"):
            containers = [c for _, spec in pod_specs(job) for c in spec["containers"]]
            named = {m["mountPath"] for c in containers for m in c["volumeMounts"]}
            on_volume = any(word.startswith(f"{path}/") for path in named)
            assert on_volume or (ROOT / word).is_file(), f"{word} is not in the image"
