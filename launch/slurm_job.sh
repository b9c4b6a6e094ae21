#!/bin/bash
# A run of a study under SLURM: sbatch --array=NUMBERS launch/slurm_job.sh PYTHON WORKDIR
# Its hosts are the job's, with a task on each; JAX finds them by SLURM's variables.
"$1" -m launch.job --workdir="$2" --number="$SLURM_ARRAY_TASK_ID" --launcher=srun
status=$?
if [ "$status" -eq 75 ]; then # preempted, or a host was lost: the run goes on where it was
  scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
fi
exit "$status"
