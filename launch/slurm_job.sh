#!/bin/bash
# A run of a study under SLURM: sbatch --array=INDEXES launch/slurm_job.sh PYTHON WORKDIR FIRST
# Each host of the job has one task; JAX finds the hosts by SLURM's variables.

# SLURM sends SIGTERM to the tasks, which save and end; bash waits for them. bash gets SIGTERM only if
# SLURM ends the whole job, and then SLURM decides about a restart: after `scancel` there is none.
trap 'ended=yes' TERM
# Since 22.05 srun does not inherit this from the job.
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"

"$1" -m launch.job --workdir="$2" --number="$(($3 + SLURM_ARRAY_TASK_ID))" --launcher=srun \
  --restarts="${SLURM_RESTART_COUNT:-0}"
status=$?
if [ "$status" -eq 75 ] && [ -z "${ended:-}" ]; then # the run asks for a restart
  # Not SLURM_JOB_ID: for one element it is also the id of the whole array.
  scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
fi
exit "$status"
