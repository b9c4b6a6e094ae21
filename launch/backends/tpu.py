"""Backend for Cloud TPU: each run has a queued resource, whose slice is released at its end.

All workers of a slice run `launch/tpu_startup.sh`; what differs between runs is in the metadata of
the slice.
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
from launch.backends import Backend, Command, StudyRuns, call, in_bucket, note_loss
from launch.slices import slice_of

_SCRIPT = pathlib.Path(__file__).parents[1] / "tpu_startup.sh"
_GCLOUD = ["gcloud", "compute", "tpus", "queued-resources"]
_PASSED_ON = ("network", "subnetwork", "service-account")

# Cloud TPU API, QueuedResourceState.State, and the page "Manage queued resources".
_REQUESTED = ("CREATING", "ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING")
_PREEMPTED = ("SUSPENDING", "SUSPENDED")
# A slice costs money once it is active: its workers must start the run within this time.
_SETUP_SECONDS = 30 * 60.0


class Tpu(Backend):
    """Requests slices; the code and the study's folder are in a bucket that all workers mount."""

    needs = {"gcloud": "install the Google Cloud CLI, https://cloud.google.com/sdk/docs/install"}
    options = {
        "project": "the Google Cloud project that pays",
        "zone": "a zone with such slices",
        "bucket": "the bucket's name, without gs://; it is mounted at /gcs/NAME",
        "code": "the archive of the code in the bucket (code.tar.gz)",
        "spot": "yes: cheaper slices, which may be preempted (no)",
        "runtime": "another runtime version than the generation's default",
        **{name: f"gcloud's --{name}" for name in _PASSED_ON},
    }
    required = ("project", "zone", "bucket")
    poll_seconds = 60.0

    def __init__(self, study: StudyRuns, options: Mapping[str, str]) -> None:
        """Finds the slice for the study's size."""
        super().__init__(study, options)
        self._slice = slice_of(study.size)
        self._folder = in_bucket(study, options["bucket"])
        if options.get("spot", "no") not in ("yes", "no"):
            raise UserError(f"--option=spot={options['spot']}: choose yes or no")
        self._where = [f"--project={options['project']}", f"--zone={options['zone']}"]
        self._active_since: dict[str, float] = {}

    def commands(self, runs: Sequence[Run]) -> list[Command]:
        """Returns a request for a queued resource for each run."""
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
        """Returns the runs whose slice is requested or in use, and deletes the other slices."""
        listed = call(Command([*_GCLOUD, "list", *self._where, "--format=json"]))
        found = set()
        for resource in json.loads(listed):
            name, state = resource["name"].rpartition("/")[2], resource["state"]["state"]
            run = self.study.run_of(name)
            if run is None or state == "DELETING":
                continue
            if state in _REQUESTED or (state == "ACTIVE" and self._is_in_use(name, run, resource)):
                found.add(run.name)
                continue
            if state in _PREEMPTED:
                note_loss(self.study.folder, run)
            # --force deletes the slice too; --async does not wait the minutes that it takes.
            call(Command([*_GCLOUD, "delete", name, *self._where, "--force", "--quiet", "--async"]))
        return [run for run in runs if run.name in found]

    def _is_in_use(self, name: str, run: Run, resource: Mapping[str, Any]) -> bool:
        """Returns True if a run on an active slice is being set up, runs or restarts."""
        since = self._active_since.setdefault(name, time.time())
        created = datetime.datetime.fromisoformat(resource["createTime"]).timestamp()
        attempts = self.study.folder.attempts(run)
        if not attempts or attempts[-1].began < created:
            return time.time() - since < _SETUP_SECONDS
        # The workers themselves restart a run that asks for it.
        return attempts[-1].status in (None, RESTART_STATUS)
