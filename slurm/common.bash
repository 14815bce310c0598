# Functions shared by pretrain.sbatch and preprocess.sbatch, which source this file.
# shellcheck shell=bash

[[ -n ${SLURM_JOB_ID:-} ]] || { echo "ERROR: not running as a Slurm job; use: sbatch $0 …"; exit 2; }

say() { echo "[$(date '+%F %T')] $SLURM_JOB_NAME: $*"; }
refuse() { say "ERROR: $1"; say "  → $2"; exit 2; }

# find_python HOME: set `python` to the interpreter of the environment that has mmbert installed.
find_python() {
    local environment=${MMBERT_VENV:-$1/.venv}
    [[ -n ${MMBERT_VENV:-} || -e $environment ]] || environment=${VIRTUAL_ENV:-$environment}
    # shellcheck disable=SC2034
    python=$environment/bin/python
    [[ -x $python ]] || refuse "there is no $python" \
        "run 'make setup' in $1, or export MMBERT_VENV=/path/to/the/environment"
    "$python" -P -c 'import mmbert' || refuse "mmbert is not installed in $environment" \
        "install it there, or export MMBERT_VENV=/path/to/the/environment"
}

# job_field NAME: print a field of this job from `scontrol show job`.
job_field() { scontrol show job "$SLURM_JOB_ID" | sed -n "s/.*\<$1=\([^ ]*\).*/\1/p"; }

# require_minutes MINIMUM: refuse to start if less time is left. The signal before the time limit may
# come up to one minute early; a job that lasts hardly longer would restart forever without progress.
require_minutes() {
    local end
    end=$(job_field EndTime)
    [[ $end == *T* ]] || return 0 # "Unknown": no limit
    local minutes=$(( ($(date -d "$end" +%s) - $(date +%s)) / 60 ))
    (( minutes >= $1 )) || refuse "the time limit is in $minutes minutes, too soon to make progress" \
        "give --time=1:00:00 or more (at least $1 minutes)"
}

# keep_running COMMAND…: run COMMAND in the background, so that traps run while bash waits for it.
# Sets `step` to its process id and finally `status` to its exit status. Traps set `interrupted=1`.
# shellcheck disable=SC2034
keep_running() {
    "$@" </dev/null &
    step=$!
    # A signal makes `wait` return early; call it again to get the status of the command.
    while interrupted=; wait "$step"; status=$?; [[ -n $interrupted ]]; do :; done
}

# taken_away: succeed if Slurm no longer counts this job as running: its user cancelled it, or a node
# died (srun may then report 0).
taken_away() {
    for _ in 1 2 3; do # the controller may be busy
        state=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T) && break
        sleep 5
    done
    [[ -n $state && $state != RUNNING ]]
}

# preempted: succeed if Slurm is preempting this job. It does not always signal this script.
preempted() {
    local time
    time=$(job_field PreemptTime)
    [[ $time == *T* && ! $time < $(job_field StartTime) ]]
}

# requeue REASON: requeue this job, unless its user cancelled it or Slurm requeues it already.
requeue() {
    local state
    if taken_away; then
        say "$1; the job is $state, leaving it to Slurm"
    elif scontrol requeue "$SLURM_JOB_ID"; then
        say "$1 and requeued; it continues in about two minutes or when nodes are free"
    else
        say "$1, but Slurm did not requeue the job: submit the same command again to continue"
    fi
}
