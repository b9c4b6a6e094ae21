"""Backend for Google Kubernetes Engine: a JobSet for each run, with a pod on each host."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from bert_jax.errors import UserError
from bert_jax.stopping import RESTART_STATUS
from experiments.study import Run
from launch.backends import MOUNTS, Backend, Command, StudyRuns, call, in_bucket
from launch.slices import slice_of

_CONTAINER = "bert-jax"
_JOB = "hosts"  # pods are called NAME-hosts-0-I; their host name is NAME-hosts-0-I.NAME
_PORT = 9876
_STUDY_LABEL = "bert-jax/study"
# Spot nodes are preempted often, and each time the run continues.
_RESTARTS = 100
# Between SIGTERM and the end of a pod, for saving; a preempted node may end earlier.
_SAVING_SECONDS = 120
_PREPARING = {"cpu": "8", "memory": "16Gi"}


class Gke(Backend):
    """Starts runs from an image of the code; the study's folder is in a bucket that pods mount."""

    needs = {
        "kubectl": "install it by `gcloud components install kubectl`, and get the cluster's"
        " credentials by `gcloud container clusters get-credentials`"
    }
    options = {
        "image": "an image of the code, made with launch/Dockerfile",
        "bucket": "the bucket's name, without gs://; it is mounted at /gcs/NAME",
        "namespace": "the namespace (default)",
        "service-account": "a Kubernetes service account with access to the bucket (default)",
        "spot": "yes: cheaper nodes, which may be preempted (no)",
        "gpu": "instead of the size's slice, the nodes' cloud.google.com/gke-accelerator",
        "gpus": "the number of GPUs of a node, with gpu (1)",
    }
    required = ("image", "bucket")

    def __init__(self, study: StudyRuns, options: Mapping[str, str]) -> None:
        """Finds the nodes for the study's size."""
        super().__init__(study, options)
        if options.get("spot", "no") not in ("yes", "no"):
            raise UserError(f"--option=spot={options['spot']}: choose yes or no")
        if not options.get("gpus", "1").isdecimal():
            raise UserError(f"--option=gpus={options['gpus']}: give the number of GPUs of a node")
        self._slice = None if "gpu" in options else slice_of(study.size)
        self._folder = in_bucket(study, options["bucket"])
        self._namespace = f"--namespace={options.get('namespace', 'default')}"

    def commands(self, runs: Sequence[Run]) -> list[Command]:
        """Returns `kubectl apply` with a manifest for each run."""
        words = ["kubectl", "apply", self._namespace, "--filename=-"]
        return [Command(words, json.dumps(self.manifest(run), indent=1)) for run in runs]

    def manifest(self, run: Run) -> dict[str, Any]:
        """Returns the JobSet of a run, ready for JSON."""
        name = self.study.new_name(run)
        hosts = 1 if run.is_one_process else self.study.size.hosts
        job = {
            "parallelism": hosts,
            "completions": hosts,
            "completionMode": "Indexed",
            "backoffLimit": 0,
            "podFailurePolicy": {
                "rules": [
                    # The order matters. A pod whose node is preempted counts as failed, so the job
                    # fails for its backoffLimit; and so it does if a pod asks for a restart.
                    {
                        "action": "Count",
                        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                    },
                    # Any other exit status is an error: the job fails for this policy.
                    {
                        "action": "FailJob",
                        "onExitCodes": {
                            "containerName": _CONTAINER,  # not GKE's container for mounting
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
                    # Without this rule it would restart for every reason.
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
        # Without a metadata cache the hosts see each other's files at once.
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
        """Returns the flags by which the pods find each other; on TPUs JAX gets it from GKE."""
        if self._slice:
            return ["--together=--processes=auto"]
        first = f"{name}-{_JOB}-0-0.{name}:{_PORT}"
        flags = [f"--coordinator={first}", f"--processes={hosts}"]
        flags += ["--process=$(JOB_COMPLETION_INDEX)"]
        return [f"--together={flag}" for flag in flags] if hosts > 1 else []

    def _nodes(self, run: Run) -> tuple[dict[str, str], dict[str, Any]]:
        """Returns the labels of the nodes, and the resources of a pod."""
        spot = self.given.get("spot") == "yes"
        selector = {"cloud.google.com/gke-spot": "true"} if spot else {}
        if run.is_one_process:  # on the CPUs of any node
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
        """Returns the runs whose JobSet has not ended, and deletes the other JobSets."""
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
                words = ["kubectl", "delete", "jobset", name, self._namespace]
                call(Command([*words, "--ignore-not-found", "--wait=false"]))
            else:
                found.add(run.name)
        return [run for run in runs if run.name in found]
