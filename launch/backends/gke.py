"""Runs as JobSets on Google Kubernetes Engine: one each, with a pod on each host."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from bert_jax.errors import UserError
from bert_jax.stopping import RESTART_STATUS
from experiments.study import Run
from launch.backends import MOUNTS, Backend, Command, Study, call, in_bucket
from launch.slices import slice_of

_CONTAINER = "bert-jax"
_JOB = "hosts"  # a pod is NAME-hosts-0-I, and another finds it as NAME-hosts-0-I.NAME
_PORT = 9876
_STUDY_LABEL = "bert-jax/study"
# Spot nodes are taken away often, and each time the run goes on where it was.
_RESTARTS = 100
# The pod is asked to end and has so long to save, unless its node goes before.
_SAVING_SECONDS = 120
_PREPARING = {"cpu": "8", "memory": "16Gi"}


class Gke(Backend):
    """The code is in an image; the study's folder is in a bucket, which all pods mount."""

    needs = {
        "kubectl": "install it by `gcloud components install kubectl`, and get the cluster's"
        " credentials by `gcloud container clusters get-credentials`"
    }
    options = {
        "image": "of the code, as launch/Dockerfile makes it",
        "bucket": "its name, without gs://; mounted at /gcs/NAME",
        "namespace": "of the cluster (default)",
        "service-account": "of Kubernetes, that may use the bucket (default)",
        "spot": "yes: nodes that may be taken away (no)",
        "gpu": "in place of the size's slice: the nodes' cloud.google.com/gke-accelerator",
        "gpus": "of each node, with gpu (1)",
    }
    required = ("image", "bucket")

    def __init__(self, study: Study, options: Mapping[str, str]) -> None:
        """Finds the nodes that the study's size wants."""
        super().__init__(study, options)
        if options.get("spot", "no") not in ("yes", "no"):
            raise UserError(f"--option=spot={options['spot']}: choose yes or no")
        if not options.get("gpus", "1").isdecimal():
            raise UserError(f"--option=gpus={options['gpus']}: give the number of GPUs of a node")
        self._slice = None if "gpu" in options else slice_of(study.size)
        self._folder = in_bucket(study, options["bucket"])
        self._namespace = f"--namespace={options.get('namespace', 'default')}"

    def commands(self, runs: Sequence[Run]) -> list[Command]:
        """Returns a manifest for each run."""
        words = ["kubectl", "apply", self._namespace, "--filename=-"]
        return [Command(words, json.dumps(self.manifest(run), indent=1)) for run in runs]

    def manifest(self, run: Run) -> dict[str, Any]:
        """Returns the JobSet of a run, as JSON has it."""
        name = self.study.new_name(run)
        hosts = 1 if run.driver == "prepare" else self.study.size.hosts
        job = {
            "parallelism": hosts,
            "completions": hosts,
            "completionMode": "Indexed",
            "backoffLimit": 0,
            "podFailurePolicy": {
                "rules": [
                    # In this order. A pod whose node is taken away counts as failed: the job fails
                    # for its backoffLimit, and so it does where a pod asks to be started again.
                    {
                        "action": "Count",
                        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                    },
                    # Any other end is an error: the job fails for this policy.
                    {
                        "action": "FailJob",
                        "onExitCodes": {
                            "containerName": _CONTAINER,  # the pod has GKE's mounting one, too
                            "operator": "NotIn",
                            "values": [RESTART_STATUS],
                        },
                    },
                ]
            },
            "template": {
                "metadata": {"annotations": {"gke-gcsfuse/volumes": "true"}},
                "spec": self._pod(run, name, hosts),
            },
        }
        return {
            "apiVersion": "jobset.x-k8s.io/v1alpha2",
            "kind": "JobSet",
            "metadata": {"name": name, "labels": {_STUDY_LABEL: self.study.key}},
            "spec": {
                "failurePolicy": {
                    "maxRestarts": _RESTARTS,
                    # Without this rule it would restart whatever the reason is.
                    "rules": [
                        {
                            "name": "error",
                            "action": "FailJobSet",
                            "onJobFailureReasons": ["PodFailurePolicy"],
                        }
                    ],
                },
                "network": {"enableDNSHostnames": True},
                "replicatedJobs": [{"name": _JOB, "replicas": 1, "template": {"spec": job}}],
            },
        }

    def _pod(self, run: Run, name: str, hosts: int) -> dict[str, Any]:
        given = self.given
        bucket = given["bucket"]
        words = ["python", "-m", "launch.job", f"--workdir={self._folder}"]
        words += [f"--number={self.study.number(run)}", "--host=$(JOB_COMPLETION_INDEX)"]
        words += ["--restarts=$(RESTARTS)", *self._together(name, hosts)]
        restarts = "metadata.labels['jobset.sigs.k8s.io/restart-attempt']"
        selector, resources = self._nodes(run)
        container = {
            "name": _CONTAINER,
            "image": given["image"],
            "command": words,
            "env": [{"name": "RESTARTS", "valueFrom": {"fieldRef": {"fieldPath": restarts}}}],
            "resources": resources,
            "volumeMounts": [{"name": "bucket", "mountPath": f"{MOUNTS}/{bucket}"}],
        }
        # Without a cache of what is where, the hosts see each other's files at once.
        mount = {"bucketName": bucket, "mountOptions": "implicit-dirs,metadata-cache:ttl-secs:0"}
        volume = {"driver": "gcsfuse.csi.storage.gke.io", "volumeAttributes": mount}
        return {
            "restartPolicy": "Never",
            "serviceAccountName": given.get("service-account", "default"),
            "terminationGracePeriodSeconds": _SAVING_SECONDS,
            "nodeSelector": selector,
            "containers": [container],
            "volumes": [{"name": "bucket", "csi": volume}],
        }

    def _together(self, name: str, hosts: int) -> list[str]:
        """Returns how the pods find each other: on TPUs GKE tells JAX."""
        if self._slice:
            return ["--together=--processes=auto"]
        first = f"{name}-{_JOB}-0-0.{name}:{_PORT}"
        flags = [f"--coordinator={first}", f"--processes={hosts}"]
        flags += ["--process=$(JOB_COMPLETION_INDEX)"]
        return [f"--together={flag}" for flag in flags] if hosts > 1 else []

    def _nodes(self, run: Run) -> tuple[dict[str, str], dict[str, Any]]:
        """Returns the labels of the nodes, and what a pod has of one."""
        spot = self.given.get("spot") == "yes"
        selector = {"cloud.google.com/gke-spot": "true"} if spot else {}
        if run.driver == "prepare":  # by the CPUs of a usual node
            return selector, {"requests": _PREPARING}
        if self._slice:
            selector["cloud.google.com/gke-tpu-accelerator"] = self._slice.node_label
            selector["cloud.google.com/gke-tpu-topology"] = self._slice.topology
            resource, count = "google.com/tpu", str(self._slice.chips)
        else:
            selector["cloud.google.com/gke-accelerator"] = self.given["gpu"]
            resource, count = "nvidia.com/gpu", self.given.get("gpus", "1")
        return selector, {"requests": {resource: count}, "limits": {resource: count}}

    def alive(self, runs: Sequence[Run]) -> list[Run]:
        """Returns those whose JobSet has not ended, and removes the others."""
        words = ["kubectl", "get", "jobsets", self._namespace]
        words += [f"--selector={_STUDY_LABEL}={self.study.key}", "--output=json"]
        found = set()
        for item in json.loads(call(Command(words)))["items"]:
            name, status = item["metadata"]["name"], item.get("status", {})
            run = self.study.run_of(name)
            if run is None or "deletionTimestamp" in item["metadata"]:
                continue
            ends = [
                each["type"] for each in status.get("conditions", ()) if each["status"] == "True"
            ]
            if "Completed" in ends or "Failed" in ends:
                call(
                    Command(["kubectl", "delete", "jobset", name, self._namespace, "--wait=false"])
                )
            else:
                found.add(run.name)
        return [run for run in runs if run.name in found]
