"""Runs as queued resources of Cloud TPU: each has a slice of its own, given back when it is over.

All workers of a slice run `launch/tpu_startup.sh`; what differs between runs is in their metadata.
"""

import datetime
import json
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from bert_jax.errors import UserError
from bert_jax.stopping import RESTART_STATUS
from experiments.study import Run
from launch.backends import Backend, Command, Study, call, in_bucket, note_loss
from launch.slices import slice_of

_SCRIPT = pathlib.Path(__file__).parents[1] / "tpu_startup.sh"
_GCLOUD = ["gcloud", "compute", "tpus", "queued-resources"]
_PASSED_ON = ("network", "subnetwork", "service-account")

# Cloud TPU API, QueuedResourceState.State, and the page "Manage queued resources".
_COMING = ("CREATING", "ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING")
_TAKEN_AWAY = ("SUSPENDING", "SUSPENDED")
# A slice costs money from when it is active: its workers have so long to install and begin.
_SETUP_SECONDS = 30 * 60.0


class Tpu(Backend):
    """The code is an archive in a bucket, which all workers mount; the study's folder is in it."""

    needs = {"gcloud": "install the Google Cloud CLI, https://cloud.google.com/sdk/docs/install"}
    options = {
        "project": "the Google Cloud project that pays",
        "zone": "one that has such slices",
        "bucket": "its name, without gs://; mounted at /gcs/NAME",
        "code": "the archive in the bucket (code.tar.gz)",
        "spot": "yes: cheaper slices, which may be taken away (no)",
        "runtime": "another runtime version than the generation's",
        **{name: f"gcloud's --{name}" for name in _PASSED_ON},
    }
    required = ("project", "zone", "bucket")
    poll_seconds = 60.0

    def __init__(self, study: Study, options: Mapping[str, str]) -> None:
        """Finds the slice that the study's size wants."""
        super().__init__(study, options)
        self._slice = slice_of(study.size)
        self._folder = in_bucket(study, options["bucket"])
        if options.get("spot", "no") not in ("yes", "no"):
            raise UserError(f"--option=spot={options['spot']}: choose yes or no")
        self._where = [f"--project={options['project']}", f"--zone={options['zone']}"]
        self._active_since: dict[str, float] = {}

    def commands(self, runs: Sequence[Run]) -> list[Command]:
        """Returns a request for each run."""
        return [self._create(run) for run in runs]

    def _create(self, run: Run) -> Command:
        name, given = self.study.new_name(run), self.given
        metadata = {
            "bert-jax-bucket": given["bucket"],
            "bert-jax-code": given.get("code", "code.tar.gz"),
            "bert-jax-workdir": self._folder,
            "bert-jax-number": str(self.study.number(run)),
        }
        values = "|".join(f"{key}={value}" for key, value in metadata.items())
        words = [*_GCLOUD, "create", name, f"--node-id={name}", *self._where]
        words += [f"--accelerator-type={self._slice.accelerator_type}"]
        words += [f"--runtime-version={given.get('runtime', self._slice.runtime_version)}"]
        words += ["--spot"] if given.get("spot") == "yes" else []
        words += [f"--{name}={given[name]}" for name in _PASSED_ON if name in given]
        words += [f"--metadata-from-file=startup-script={_SCRIPT}"]
        return Command([*words, f"--metadata=^|^{values}"])  # a comma may be in a path

    def alive(self, runs: Sequence[Run]) -> list[Run]:
        """Returns those whose slice is at work or on its way, and gives back the other slices."""
        told = call(Command([*_GCLOUD, "list", *self._where, "--format=json"]))
        found = set()
        for resource in json.loads(told):
            name, state = resource["name"].rpartition("/")[2], resource["state"]["state"]
            run = self.study.run_of(name)
            if run is None or state == "DELETING":
                continue
            if state in _COMING or (state == "ACTIVE" and self._is_at_work(name, run, resource)):
                found.add(run.name)
                continue
            if state in _TAKEN_AWAY:
                note_loss(self.study.folder, run)
            # --force: with the slice. It takes minutes, for which nobody has to wait.
            call(Command([*_GCLOUD, "delete", name, *self._where, "--force", "--quiet", "--async"]))
        return [run for run in runs if run.name in found]

    def _is_at_work(self, name: str, run: Run, resource: Mapping[str, Any]) -> bool:
        """Whether the run goes on, on a slice that is active."""
        since = self._active_since.setdefault(name, time.time())
        created = datetime.datetime.fromisoformat(resource["createTime"]).timestamp()
        attempts = self.study.folder.attempts(run)
        if not attempts or attempts[-1].began < created:
            return time.time() - since < _SETUP_SECONDS
        # The workers start one that asks for it again by themselves.
        return attempts[-1].status in (None, RESTART_STATUS)
