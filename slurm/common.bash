# What slurm/pretrain.sbatch and slurm/preprocess.sbatch share; sourced by them, not run.
# shellcheck shell=bash

[[ -n ${SLURM_JOB_ID:-} ]] || { echo "ERROR: this runs as a Slurm job: sbatch $0 …"; exit 2; }

say() { echo "[$(date '+%F %T')] $SLURM_JOB_NAME: $*"; }
refuse() { say "ERROR: $1"; say "  → $2"; exit 2; }

# find_python HOME SCRIPT: set `python` to the environment's interpreter; SCRIPT must exist in HOME.
find_python() {
    local environment=${MMBERT_VENV:-$1/.venv}
    [[ -f $1/$2 ]] || refuse "there is no $2 in $1" \
        "call sbatch in the repository, or export MMBERT_HOME=/path/to/it"
    python=$environment/bin/python
    [[ -x $python ]] || refuse "there is no $python" \
        "run 'make setup' in $1, or export MMBERT_VENV=/path/to/the/environment"
}

# job_field NAME: what `scontrol show job` says of this job.
job_field() { scontrol show job "$SLURM_JOB_ID" | sed -n "s/.*\<$1=\([^ ]*\).*/\1/p"; }

# The signal comes some time before the time limit, up to one minute early. A job that is hardly
# longer would start over for ever without getting anywhere.
# require_minutes LEAST: refuse when the time limit is nearer.
require_minutes() {
    local end
    end=$(job_field EndTime)
    [[ $end == *T* ]] || return 0 # "Unknown": no limit
    local minutes=$(( ($(date -d "$end" +%s) - $(date +%s)) / 60 ))
    (( minutes >= $1 )) || refuse "the time limit is in $minutes minutes, too soon to get anywhere" \
        "give --time=1:00:00 or more (at least $1 minutes)"
}

# keep_running COMMAND…: run it in the background, where a trap runs while bash waits; `step` is its
# process, `status` its exit status in the end. Traps set `interrupted=1`.
# shellcheck disable=SC2034
keep_running() {
    "$@" </dev/null &
    step=$!
    # A signal makes `wait` return early: then it has to be called again for the command's status.
    while interrupted=; wait "$step"; status=$?; [[ -n $interrupted ]]; do :; done
}

# taken_away: whether the job is no longer running although this script is: cancelled by its user, or
# its nodes died (srun may then report 0).
taken_away() {
    for _ in 1 2 3; do # the controller may be busy
        state=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T) && break
        sleep 5
    done
    [[ -n $state && $state != RUNNING ]]
}

# preempted: whether Slurm takes this job's nodes away (which it need not tell this script).
preempted() {
    local time
    time=$(job_field PreemptTime)
    [[ $time == *T* && ! $time < $(job_field StartTime) ]]
}

# requeue WORD: start this job again, unless its user cancelled it or Slurm does so already.
requeue() {
    local state
    if taken_away; then
        say "$1; the job is $state and is left to Slurm"
    elif scontrol requeue "$SLURM_JOB_ID"; then
        say "$1 and requeued; it continues in about two minutes or when there is room"
    else
        say "$1, but Slurm did not requeue the job: submit the same command again to continue"
    fi
}
