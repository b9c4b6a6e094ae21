#!/bin/bash
# A run of a study under SLURM: sbatch --array=INDEXES launch/slurm_job.sh PYTHON WORKDIR FIRST
# Its hosts are the job's, with a task on each; JAX finds them by SLURM's variables.

# The tasks get SIGTERM from SLURM itself, save and end; bash waits for them and tells how it went.
# It gets one where SLURM ends the job, and then SLURM knows whether it is to begin again: it is not
# where `scancel` ended it.
trap 'ended=yes' TERM
# srun does not take it from the job any more (since 22.05).
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"

"$1" -m launch.job --workdir="$2" --number="$(($3 + SLURM_ARRAY_TASK_ID))" --launcher=srun \
  --restarts="${SLURM_RESTART_COUNT:-0}"
status=$?
if [ "$status" -eq 75 ] && [ -z "${ended:-}" ]; then # the run asks for it: it goes on where it was
  # Not SLURM_JOB_ID: that of one element is also the name of the whole array.
  scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
fi
exit "$status"
