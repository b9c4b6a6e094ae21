"""What is asked of Cloud TPU and of GKE, held against their documentation; no cloud is there."""

import dataclasses
import json
import math
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
from typing import Any

import pytest

from bert_jax.data.corpus.corpus import CORPUS_FORMAT
from bert_jax.errors import UserError
from bert_jax.planning.topologies import SLICES
from experiments.drop_nsp import STUDY
from experiments.folder import StudyFolder
from experiments.study import Size, StudyPaths, expand
from launch.backends import Backend, Command, StudyRuns
from launch.backends.gke import Gke
from launch.backends.local import Local
from launch.backends.slurm import Slurm
from launch.backends.tpu import Tpu
from launch.slices import slice_of
from tests.fixtures.drivers import PATIENCE_SECONDS, ROOT

TPU_OPTIONS = {"project": "my-project", "zone": "us-west4-a", "bucket": "my-bucket"}
GKE_OPTIONS = {"image": "us-docker.pkg.dev/my-project/bert/bert:1", "bucket": "my-bucket"}
WORKDIR = pathlib.Path("/gcs/my-bucket/drop_nsp")


def pod_study(size: Size | None = None) -> StudyRuns:
    size = size or STUDY.sizes["pod"]
    runs = expand(STUDY, size, StudyPaths(workdir=str(WORKDIR), data="/gcs/my-bucket/data"))
    return StudyRuns("drop_nsp", size, StudyFolder(WORKDIR), runs, {})


def sized(accelerator: str, hosts: int) -> Size:
    return Size(prepare=(), recipe="r.py", minutes=1, hosts=hosts, accelerator=accelerator)


# Types and hosts as the tables of "TPU v4", "TPU v5e", "TPU v5p" and "TPU v6e" have them.
@pytest.mark.parametrize(
    ("accelerator", "hosts", "chips", "kind", "label"),
    [
        ("v5e:1x1", 1, 1, "v5litepod-1", "tpu-v5-lite-podslice"),
        ("v5e:2x4", 1, 8, "v5litepod-8", "tpu-v5-lite-podslice"),
        ("v5e:4x4", 4, 4, "v5litepod-16", "tpu-v5-lite-podslice"),
        ("v5e:16x16", 64, 4, "v5litepod-256", "tpu-v5-lite-podslice"),
        ("v4:2x2x1", 1, 4, "v4-8", "tpu-v4-podslice"),
        ("v4:4x4x4", 16, 4, "v4-128", "tpu-v4-podslice"),
        ("v5p:2x2x2", 2, 4, "v5p-16", "tpu-v5p-slice"),
        ("v5p:16x16x24", 1536, 4, "v5p-12288", "tpu-v5p-slice"),
        ("v6e:2x4", 1, 8, "v6e-8", "tpu-v6e-slice"),
        ("v6e:4x4", 4, 4, "v6e-16", "tpu-v6e-slice"),
    ],
)
def test_slices_are_called_as_google_calls_them(accelerator, hosts, chips, kind, label):
    found = slice_of(sized(accelerator, hosts))
    assert (found.accelerator_type, found.node_label) == (kind, label)
    assert (found.hosts, found.chips) == (hosts, chips)


def test_no_two_slices_have_one_type():
    for generation, shapes in SLICES.items():
        types = set()
        for shape in shapes:
            chips = math.prod(map(int, shape.split("x")))
            one_host = 8 if generation in ("v5e", "v6e") else 4
            size = sized(f"{generation}:{shape}", max(chips // 4, 1) if chips > one_host else 1)
            types.add(slice_of(size).accelerator_type)
        assert len(types) == len(shapes)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (sized("", 1), "accelerator='' of the size: name a slice of v4, v5e, v5p, v6e, such as"),
        (
            sized("v9:2x2", 1),
            "accelerator='v9:2x2' of the size does not exist: choose one of the slices of v4",
        ),
        (
            sized("v5e:3x3", 1),
            "does not exist: choose one of the slices of v5e: 1x1, 2x2, 2x4, 4x4",
        ),
        (sized("cpu:8", 1), "accelerator='cpu:8' of the size does not exist"),
        (sized("v5e:4x4", 2), "hosts=2 of the size, but v5e:4x4 has 4: set hosts=4"),
        (sized("v5e:4x4", 0), "hosts=0 of the size: a run needs a host"),
    ],
)
@pytest.mark.parametrize(("backend", "options"), [(Tpu, TPU_OPTIONS), (Gke, GKE_OPTIONS)])
def test_a_size_that_no_slice_has(size, message, backend, options):
    with pytest.raises(UserError) as raised:
        backend(StudyRuns("s", size, StudyFolder(WORKDIR), [], {}), options)
    assert message in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("flag", "path"), [("--corpus", "/data/wiki"), ("--data", "data"), ("--checkpoint", "/gcs/b")]
)
@pytest.mark.parametrize(("backend", "options"), [(Tpu, TPU_OPTIONS), (Gke, GKE_OPTIONS)])
def test_an_input_that_hosts_cannot_read(flag, path, backend, options):
    size = STUDY.sizes["pod"]
    kept = {"--data": "/gcs/my-bucket/data", "--corpus": "gs://other/corpus"}
    study = StudyRuns("s", size, StudyFolder(WORKDIR), [], kept)
    assert backend(study, options).commands([]) == []
    with pytest.raises(UserError) as raised:
        backend(study._replace(inputs=kept | {flag: path}), options)
    name = pathlib.Path(path).name
    assert str(raised.value) == (
        f"{flag}={path} is not in the bucket, so that the hosts cannot read it: copy it there and"
        f" give its absolute path, such as /gcs/my-bucket/{name}"
    )


@pytest.mark.parametrize("backend", [Local, Slurm])
def test_a_size_without_hosts(backend: type[Backend]):
    with pytest.raises(UserError, match="hosts=0 of the size: a run needs a host: set hosts=1"):
        backend(StudyRuns("s", sized("", 0), StudyFolder(WORKDIR), [], {}), {})


@pytest.mark.parametrize(
    ("backend", "options", "message"),
    [
        (
            Tpu,
            {"project": "p", "zone": "z"},
            "--option=bucket=... is missing: give the bucket's name",
        ),
        (Gke, {"bucket": "b"}, "--option=image=... is missing: give an image of the code"),
        (
            Tpu,
            {"zones": "z"},
            "--option=zones is unknown: choose among project, zo",
        ),
        (Slurm, {"image": "i"}, "--option=image is unknown: choose among account"),
        (Local, {"image": "i"}, "--option=image is unknown: choose among none"),
    ],
)
def test_options_are_checked_by_name(backend, options, message):
    with pytest.raises(UserError) as raised:
        backend.check(options)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("backend", "options", "message"),
    [
        (Tpu, TPU_OPTIONS | {"spot": "true"}, "--option=spot=true: choose yes or no"),
        (Gke, GKE_OPTIONS | {"spot": "1"}, "--option=spot=1: choose yes or no"),
        (Gke, GKE_OPTIONS | {"gpu": "g", "gpus": "all"}, "--option=gpus=all: give the number"),
        (Tpu, TPU_OPTIONS | {"bucket": "other"}, "mount it at /gcs/other, as the hosts do"),
        (Gke, GKE_OPTIONS | {"bucket": "other"}, "mount it at /gcs/other, as the hosts do"),
    ],
)
def test_values_of_options_are_checked(backend, options, message):
    with pytest.raises(UserError) as raised:
        backend(pod_study(), options)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        (Slurm, "sbatch is not installed: install SLURM's client programs"),
        (Tpu, "gcloud is not installed: install the Google Cloud CLI"),
        (Gke, "kubectl is not installed: install it by `gcloud components install kubectl`"),
    ],
)
def test_what_is_not_installed_is_told(backend, message, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError) as raised:
        backend.check_installed()
    assert str(raised.value).startswith(message)


# The synopses of https://cloud.google.com/sdk/gcloud/reference/compute/tpus/queued-resources/VERB,
# and of the flags of all commands those that are used.
_EVERYWHERE = {"--project", "--quiet", "--format"}
_FLAGS = {
    "create": {
        "--zone", "--runtime-version", "--accelerator-type", "--topology", "--type", "--node-id",
        "--node-count", "--node-prefix", "--async", "--boot-disk", "--data-disk", "--description",
        "--guaranteed", "--internal-ips", "--labels", "--metadata", "--metadata-from-file",
        "--network", "--range", "--reserved", "--scopes", "--service-account",
        "--shielded-secure-boot", "--spot", "--subnetwork", "--tags", "--valid-after-duration",
        "--valid-after-time", "--valid-until-duration", "--valid-until-time",
        "--reservation-host-folder", "--reservation-host-organization",
        "--reservation-host-project",
    },
    "delete": {"--zone", "--async", "--force"},
    "describe": {"--zone"},
    "list": {"--zone", "--filter", "--limit", "--page-size", "--sort-by", "--uri"},
}  # fmt: skip
_REQUIRED = {
    "create": {"--zone", "--runtime-version", "--accelerator-type", "--node-id", "--project"},
    "delete": {"--zone", "--project", "--quiet"},
    "list": {"--zone", "--project", "--format"},
}
_PREFIX = ["gcloud", "compute", "tpus", "queued-resources"]


def assert_documented(words: list[str]) -> str:
    """Returns the verb of a command that has the flags that it must have, and no unknown ones."""
    assert words[:4] == _PREFIX
    verb, *rest = words[4:]
    flags = [word.partition("=")[0] for word in rest if word.startswith("-")]
    assert len(rest) - len(flags) == (0 if verb == "list" else 1)  # the resource's name
    assert set(flags) <= _FLAGS[verb] | _EVERYWHERE and len(set(flags)) == len(flags)
    assert _REQUIRED[verb] <= set(flags)
    return verb


def test_tpu_requests_are_as_documented_and_carry_the_run_in_metadata():
    study = pod_study()
    extra = {
        "spot": "yes",
        "network": "n",
        "subnetwork": "s",
        "service-account": "a@b",
        "code": "c",
    }
    commands = Tpu(study, TPU_OPTIONS | extra).commands(study.runs)
    assert [assert_documented(command.words) for command in commands] == ["create"] * len(commands)
    for number, command in enumerate(commands):
        words = dict(word.partition("=")[::2] for word in command.words)
        assert words["--accelerator-type"] == "v5litepod-16" and "--spot" in words
        key, script = words["--metadata-from-file"].split("=")
        assert key == "startup-script" and pathlib.Path(script).is_file()
        # `gcloud topic escaping`: ^|^ sets the separator of a list.
        assert words["--metadata"].startswith("^|^")
        metadata = dict(item.split("=") for item in words["--metadata"][3:].split("|"))
        assert metadata["bert-jax-number"] == str(number)
        assert metadata["bert-jax-workdir"] == str(WORKDIR)
        read = re.findall(r"\$\(metadata ([a-z-]+)\)", pathlib.Path(script).read_text())
        assert set(read) == {*metadata, "agent-worker-number"}


@pytest.mark.skipif(not shutil.which("gcloud"), reason="the Google Cloud CLI is not installed")
def test_gcloud_itself_parses_the_commands(monkeypatch):
    study, asked = pod_study(), []
    backend = Tpu(study, TPU_OPTIONS | {"spot": "yes", "network": "n", "service-account": "a@b"})
    (create,) = backend.commands(study.runs[:1])
    resource = {"name": f"x/{create.words[5]}", "state": {"state": "FAILED"}}

    def answer(command: Command) -> str:
        asked.append(command)
        return json.dumps([resource])

    monkeypatch.setattr("launch.backends.tpu.call", answer)
    backend.alive(study.runs)
    for command in (create, *asked):
        lint = ["gcloud", "meta", "lint-gcloud-commands", f"--command-string={command}"]
        (told,) = json.loads(subprocess.run(lint, capture_output=True, check=True).stdout)
        assert told["success"], told["error_message"]
    assert [assert_documented(command.words) for command in asked] == ["list", "delete"]


def manifests(options: dict[str, str], size: Size | None = None) -> list[dict[str, Any]]:
    study = pod_study(size)
    commands = Gke(study, options).commands(study.runs)
    assert {tuple(command.words[:2]) for command in commands} == {("kubectl", "apply")}
    return [json.loads(command.stdin) for command in commands]


# Of the API's types in jobset.x-k8s.io/v1alpha2 (jobset_types.go), the fields that may be set.
_JOB_SET = {"apiVersion": str, "kind": str, "metadata": dict, "spec": dict}
_SPEC = {
    "replicatedJobs": list, "network": dict, "successPolicy": dict, "failurePolicy": dict,
    "startupPolicy": dict, "suspend": bool, "coordinator": dict, "managedBy": str,
    "ttlSecondsAfterFinished": int, "volumeClaimPolicies": list,
}  # fmt: skip
_REPLICATED = {"name": str, "groupName": str, "template": dict, "replicas": int, "dependsOn": list}
_NETWORK = {"enableDNSHostnames": bool, "subdomain": str, "publishNotReadyAddresses": bool}
_FAILURE = {"maxRestarts": int, "restartStrategy": str, "rules": list}
_RULE = {
    "name": str, "action": str, "onJobFailureReasons": list, "onJobFailureMessagePatterns": list,
    "targetReplicatedJobs": list,
}  # fmt: skip
_ACTIONS = {"FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"}
# Kubernetes, batch/v1: why a job failed.
_REASONS = {"PodFailurePolicy", "BackoffLimitExceeded", "DeadlineExceeded"}
_LABEL = re.compile("[a-z]([a-z0-9-]{0,61}[a-z0-9])?")  # RFC 1035


def assert_fields(value: dict[str, Any], fields: dict[str, type]) -> None:
    for name, each in value.items():
        assert type(each) is fields[name], name


@pytest.mark.parametrize(
    "extra",
    [{}, {"spot": "yes", "namespace": "n", "service-account": "a"}, {"gpu": "nvidia-l4"}],
    ids=["as it is", "spot", "GPUs"],
)
def test_manifests_are_valid_where_kubernetes_and_jobset_look(extra: dict[str, str]):
    import kubernetes_validate

    for manifest in manifests(GKE_OPTIONS | extra):
        assert_fields(manifest, _JOB_SET)
        assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
        spec = manifest["spec"]
        assert_fields(spec, _SPEC)
        assert_fields(spec["network"], _NETWORK)
        assert_fields(spec["failurePolicy"], _FAILURE)
        for rule in spec["failurePolicy"]["rules"]:
            assert_fields(rule, _RULE)
            assert rule["action"] in _ACTIONS and set(rule["onJobFailureReasons"]) <= _REASONS
        (replicated,) = spec["replicatedJobs"]
        assert_fields(replicated, _REPLICATED)
        job = {"apiVersion": "batch/v1", "kind": "Job", **replicated["template"]}
        kubernetes_validate.validate(job | {"metadata": manifest["metadata"]}, "1.32", strict=True)


def test_names_are_labels_of_dns_and_of_one_run_each():
    found = manifests(GKE_OPTIONS)
    study = pod_study()
    names = [manifest["metadata"]["name"] for manifest in found]
    assert [study.run_of(name) for name in names] == list(study.runs)
    assert study.run_of("s-other-00000000-3-6b07d519") is None
    for manifest, name in zip(found, names, strict=True):
        (job,) = manifest["spec"]["replicatedJobs"]
        pod = f"{name}-{job['name']}-0-{job['template']['spec']['completions'] - 1}"
        for label in (pod, *manifest["metadata"]["labels"].values()):
            assert _LABEL.fullmatch(label), label


def test_pods_and_chips_are_those_of_the_slice():
    corpus, *others = manifests(GKE_OPTIONS)
    for manifest in others:
        job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
        pod = job["template"]["spec"]
        assert job["parallelism"] == job["completions"] == 4 and job["backoffLimit"] == 0
        assert pod["nodeSelector"] == {
            "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
            "cloud.google.com/gke-tpu-topology": "4x4",
        }
        (container,) = pod["containers"]
        assert container["resources"]["limits"] == {"google.com/tpu": "4"}
        assert container["command"][-1] == "--together=--processes=auto"
    job = corpus["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["completions"] == 1  # prepared by CPUs, on one
    assert not job["template"]["spec"]["nodeSelector"]


def test_pods_with_gpus_are_told_where_the_first_one_is():
    options = GKE_OPTIONS | {"gpu": "nvidia-h100-80gb", "gpus": "8"}
    manifest = manifests(options, dataclasses.replace(STUDY.sizes["gpu"], hosts=2))[1]
    name = manifest["metadata"]["name"]
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "8"}
    assert container["command"][-3:] == [
        f"--together=--coordinator={name}-hosts-0-0.{name}:9876",
        "--together=--processes=2",
        "--together=--process=$(JOB_COMPLETION_INDEX)",
    ]


# What the sweep asks is answered from a script: for each request to create, the states that it is
# in, one a look; none if it is refused. At ACTIVE host 0 begins the run, and at OVER it has ended.
_FAKE = """
import json, pathlib, sys, time
folder = pathlib.Path({folder!r})
words = sys.argv[1:]
with (folder / "calls.jsonl").open("a") as calls:
    calls.write(json.dumps(words) + "\\n")
made = folder / "made.json"
resources = json.loads(made.read_text()) if made.exists() else []
attempt = dict(began=time.time(), host="w", process=1, cores=[], ended=None, status=None)

def now_is(resource, what):
    seed = resource["name"].split("-")[-2]  # the run's number, as there is one variant
    state = folder / "runs" / "states" / "pretrain" / "only" / f"seed-{{seed}}.json"
    attempts = json.loads(state.read_text()) if state.exists() else []
    began = resource.setdefault("began", False)
    if what in ("ACTIVE", "OVER") and not began:
        attempts.append(attempt)
        resource["began"] = True
    if what == "OVER":
        attempts[-1].update(ended=time.time(), status=0)
    state.parent.mkdir(parents=True, exist_ok=True)
    state.write_text(json.dumps(attempts))

def must_be_new(name):
    if any(each["name"] == name for each in resources):
        sys.exit(name + " exists already")

{body}
made.write_text(json.dumps(resources))
"""
_GCLOUD = """
verb = words[3]
if verb == "create":
    must_be_new(words[4])
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() - 1)) + ".000000000Z"
    states = SCRIPTS[len(resources)]
    resources.append(dict(name=words[4], at=stamp, states=states, gone=not states))
    if not states:
        made.write_text(json.dumps(resources))
        sys.exit("Quota limit exceeded")
elif verb == "delete":
    next(each for each in resources if each["name"] == words[4])["gone"] = True
else:
    told = []
    for each in resources:
        if each["gone"]:
            continue
        what = each["states"].pop(0)
        now_is(each, what)
        what = "ACTIVE" if what == "OVER" else what
        name = "projects/p/locations/z/queuedResources/" + each["name"]
        told.append(dict(name=name, createTime=each["at"], state=dict(state=what)))
    print(json.dumps(told))
"""
_KUBECTL = """
if words[0] == "apply":
    name = json.load(sys.stdin)["metadata"]["name"]
    must_be_new(name)
    resources.append(dict(name=name, states=SCRIPTS[len(resources)], gone=False))
elif words[0] == "delete":
    next(each for each in resources if each["name"] == words[2])["gone"] = True
else:
    items = []
    for each in resources:
        if each["gone"]:
            continue
        what = each["states"].pop(0)
        if what == "LOST":
            made.write_text(json.dumps(resources))
            sys.exit("Unable to connect to the server: timeout")
        now_is(each, what)
        ends = dict(OVER="Completed", FAILED="Failed")
        conditions = [dict(type=ends[what], status="True")] if what in ends else []
        item = dict(metadata=dict(name=each["name"]), status=dict(conditions=conditions))
        items.append(item)
    print(json.dumps(dict(items=items)))
"""
_SWEEP = """
import pathlib, runpy
from launch import backends
backends.MOUNTS = MOUNTS
from launch.backends.gke import Gke
from launch.backends.tpu import Tpu
Gke.poll_seconds = Tpu.poll_seconds = 0.05
runpy.run_module("launch.sweep", run_name="__main__", alter_sys=True)
"""
_STUDY = """
from experiments.study import Size, Study, Variant

SIZE = Size(prepare=(), recipe="configs/pretrain_tiny.py", seeds=1, minutes=5, hosts=4,
            accelerator="v5e:4x4")
STUDY = Study(base="only", variants=(Variant("only", pretrain=("seed=0",)),), sizes={"pod": SIZE})
"""


class Cloud:
    """A bucket's folder, and a program that stands in for the cloud's."""

    def __init__(self, root: pathlib.Path, program: str, body: str, scripts: list[list[str]]):
        self.folder = root / "my-bucket"
        programs = root / "bin"
        for each in (self.folder, self.folder / "corpus", programs):
            each.mkdir()
        manifest = self.folder / "corpus" / "manifest.json"
        manifest.write_text(json.dumps({"format": CORPUS_FORMAT}))  # all that a sweep reads of it
        body = f"SCRIPTS = {scripts}\n{body}"
        fake = programs / f"{program}.py"
        fake.write_text(_FAKE.format(folder=str(self.folder), body=body))
        # A first line that names an interpreter cannot have a space in its path.
        command = shlex.join([sys.executable, str(fake)])
        (programs / program).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (programs / program).chmod(0o755)
        (root / "one.py").write_text(_STUDY)
        self._root, self._path = root, f"{programs}{os.pathsep}{os.environ['PATH']}"

    def sweep(
        self, on: str, options: dict[str, str], *more: str
    ) -> subprocess.CompletedProcess[str]:
        flags = [*more, f"--on={on}", "--size=pod", f"--workdir={self.folder / 'runs'}"]
        flags += [f"--corpus={self.folder / 'corpus'}", f"--data={self._root}"]
        flags += [f"--option={name}={value}" for name, value in options.items()]
        code = _SWEEP.replace("MOUNTS = MOUNTS", f"MOUNTS = {str(self._root)!r}")
        return subprocess.run(
            [sys.executable, "-c", code, str(self._root / "one.py"), *flags],
            cwd=ROOT,
            env=os.environ | {"PATH": self._path},
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )

    def calls(self) -> list[list[str]]:
        return list(map(json.loads, (self.folder / "calls.jsonl").read_text().splitlines()))

    def statuses(self) -> list[int | None]:
        state = self.folder / "runs" / "states" / "pretrain" / "only" / "seed-0.json"
        return [attempt["status"] for attempt in json.loads(state.read_text())]


def test_a_slice_that_is_taken_away_is_asked_for_again_and_given_back_at_the_end(tmp_path):
    taken = ["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE", "SUSPENDED"]
    cloud = Cloud(tmp_path, "gcloud", _GCLOUD, [taken, ["ACTIVE", "ACTIVE", "OVER"]])
    done = cloud.sweep("tpu", TPU_OPTIONS)
    assert done.returncode == 0 and "1 runs are done" in done.stdout, done
    assert cloud.statuses() == [75, 0]
    verbs = [assert_documented(["gcloud", *words]) for words in cloud.calls()]
    changes = [words for words in cloud.calls() if words[3] != "list"]
    assert [words[3] for words in changes] == ["create", "delete", "create", "delete"]
    first, first_gone, second, second_gone = (words[4] for words in changes)
    assert first == first_gone != second == second_gone
    assert verbs.count("list") == 1 + 4 + 3  # nothing was there; then one for each state


def test_a_slice_that_cannot_be_had_fails_the_run_after_some_tries(tmp_path):
    cloud = Cloud(tmp_path, "gcloud", _GCLOUD, [["FAILED"]] * 3)
    done = cloud.sweep("tpu", TPU_OPTIONS)
    assert done.returncode == 1 and "error: failed: pretrain/only/seed-0" in done.stderr, done
    assert [words[3] for words in cloud.calls()].count("create") == 3  # --retries=2


def test_a_sweep_goes_on_where_some_of_its_first_runs_have_no_room(tmp_path):
    over = ["ACTIVE", "OVER"]
    cloud = Cloud(tmp_path, "gcloud", _GCLOUD, [["ACTIVE", *over], [], [], over])
    done = cloud.sweep("tpu", TPU_OPTIONS, "--seeds=2")
    assert done.returncode == 0 and "2 runs are done" in done.stdout, done
    assert done.stderr.count("warning: gcloud failed with status 1: Quota limit exceeded") == 1


def test_a_sweep_ends_where_none_of_its_first_runs_can_start(tmp_path):
    cloud = Cloud(tmp_path, "gcloud", _GCLOUD, [[]])
    done = cloud.sweep("tpu", TPU_OPTIONS, "--seeds=2")
    assert done.returncode == 1, done
    assert done.stderr.endswith("error: gcloud failed with status 1: Quota limit exceeded\n")


def test_a_sweep_outlives_a_poll_that_fails(tmp_path):
    states = [["WAITING", "LOST", "LOST", "ACTIVE", "OVER"]]
    cloud = Cloud(tmp_path, "kubectl", _KUBECTL, states)
    done = cloud.sweep("gke", GKE_OPTIONS)
    assert done.returncode == 0 and "1 runs are done" in done.stdout, done
    warning = "warning: kubectl failed with status 1: Unable to connect to the server: timeout"
    assert done.stderr.count(f"{warning}; trying again") == 1


def test_a_sweep_ends_where_polls_fail_again_and_again(tmp_path):
    cloud = Cloud(tmp_path, "kubectl", _KUBECTL, [["WAITING", *["LOST"] * 11]])
    done = cloud.sweep("gke", GKE_OPTIONS)
    assert done.returncode == 1 and done.stderr.endswith(
        "error: kubectl failed with status 1: Unable to connect to the server: timeout\n"
    )


def test_a_linear_model_is_one_process_without_an_accelerator():
    study = pod_study()
    linear = dataclasses.replace(study.runs[-1], driver="linear")
    study = study._replace(runs=[*study.runs[:-1], linear])
    manifest = Gke(study, GKE_OPTIONS).manifest(linear)
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    assert job["parallelism"] == 1 and pod["nodeSelector"] == {}
    assert pod["containers"][0]["resources"] == {"requests": {"cpu": "8", "memory": "16Gi"}}


def test_a_folder_of_hosts_is_absolute(tmp_path, monkeypatch):
    (tmp_path / "my-bucket").mkdir()
    monkeypatch.setattr("launch.backends.MOUNTS", str(tmp_path))
    monkeypatch.chdir(tmp_path / "my-bucket")
    study = pod_study()._replace(folder=StudyFolder(pathlib.Path("drop_nsp")))
    with pytest.raises(
        UserError, match=rf"--workdir=drop_nsp is relative.* {tmp_path}/my-bucket/d"
    ):
        Tpu(study, TPU_OPTIONS)


def test_a_jobset_that_failed_is_made_again_and_removed_at_the_end(tmp_path):
    cloud = Cloud(tmp_path, "kubectl", _KUBECTL, [["WAITING", "FAILED"], ["ACTIVE", "OVER"]])
    done = cloud.sweep("gke", GKE_OPTIONS)
    assert done.returncode == 0 and "1 runs are done" in done.stdout, done
    changes = [words for words in cloud.calls() if words[0] != "get"]
    assert [words[0] for words in changes] == ["apply", "delete", "apply", "delete"]
    (get, *_) = (words for words in cloud.calls() if words[0] == "get")
    assert get[1] == "jobsets" and "--output=json" in get


def test_a_worker_installs_the_code_and_starts_the_run_again_while_it_asks_for_it(tmp_path):
    # The script as it is, but for its folders, which are the test's; the cloud's programs are fake.
    programs, bucket = tmp_path / "bin", tmp_path / "gcs" / "my-bucket"
    code, calls = tmp_path / "code", tmp_path / "calls"
    for each in (programs, bucket, code / "launch"):
        each.mkdir(parents=True)
    # In place of launch.job: it says how it was called, and asks to be started again, twice.
    (code / "launch" / "job.py").write_text(
        f"import pathlib, sys\ncalls = pathlib.Path({str(calls)!r})\n"
        "before = calls.read_text() if calls.exists() else ''\n"
        "calls.write_text(before + ' '.join(sys.argv[1:]) + '\\n')\n"
        "sys.exit(75 if before.count('\\n') < 2 else 0)\n"
    )
    subprocess.run(["tar", "-czf", bucket / "c.tgz", "-C", code, "launch"], check=True)
    metadata = {"bucket": "my-bucket", "code": "c.tgz", "workdir": "/w", "number": "5"}
    cases = "".join(f"*/bert-jax-{key}) echo {value};;" for key, value in metadata.items())
    fakes = {
        "curl": f'case "${{@: -1}}" in {cases} */agent-worker-number) echo 3;; *) exit 22;; esac',
        "gcsfuse": "exit 0",
        "mountpoint": "exit 1",
        # python3 -m uv venv --clear --python 3.12 VENV
        "python3": f'[ "$3" != venv ] || (mkdir -p "$7/bin"; cp {programs}/run "$7/bin/python")',
        "run": f'exec {shlex.quote(sys.executable)} "$@"',
    }
    for name, body in fakes.items():
        (programs / name).write_text(f"#!/bin/bash\n{body}\n")
        (programs / name).chmod(0o755)
    script = (ROOT / "launch" / "tpu_startup.sh").read_text()
    script = script.replace("/var/lib", str(tmp_path)).replace("/gcs/", f"{tmp_path}/gcs/")
    environment = os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done
    same = "--workdir=/w --number=5 --host=3 --together=--processes=auto"
    assert calls.read_text().splitlines() == [f"{same} --restarts={n}" for n in range(3)]
