# shellcheck shell=bash
# Sourced by the batch scripts beside it: `step COMMAND ...` runs COMMAND on every task and ends the script with its exit
# code. A command that was stopped with its state saved (75) first puts the job back into the queue.

job=$SLURM_JOB_ID
# The plain id of one task of an array can name the whole array.
if [[ -n ${SLURM_ARRAY_JOB_ID:-} ]]; then job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID; fi
asked=0

forward() {
  asked=1
  # Not by way of srun, which answers SIGTERM by killing its tasks. Without --batch the signal spares this shell.
  scancel --signal=TERM "$job" || true
}

step() {
  local pid code=0
  # srun takes the number of cores from here only, since Slurm 22.05.
  export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}
  trap forward TERM
  # In the background, as bash runs no trap while it waits for a foreground command. Sites may kill all tasks once one
  # has ended with 75; here the others get as long to save as the time limit's warning gives.
  srun --kill-on-bad-exit=0 --wait=300 "$@" &
  pid=$!
  while kill -0 "$pid" 2> /dev/null; do
    wait "$pid" || true # a signal ends it early
  done
  wait "$pid" || code=$? # bash remembers what its children ended with

  # SIGTERM between two stages, where nothing is unsaved, simply ends python (128 + 15).
  if [[ $code == 75 || ($asked == 1 && $code == 143) ]]; then
    # scancel sends SIGTERM too, and must not bring the job back: it is COMPLETING by then.
    if [[ $(squeue --noheader --jobs="$job" --format=%T) == RUNNING ]]; then scontrol requeue "$job" || true; fi
  fi
  exit "$code"
}
