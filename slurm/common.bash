# Functions shared by the batch scripts, which source this file.
# shellcheck shell=bash

[[ -n ${SLURM_JOB_ID:-} ]] || { echo "ERROR: not running as a Slurm job; use: sbatch $0 …"; exit 2; }

say() { echo "[$(date '+%F %T')] $SLURM_JOB_NAME: $*"; }
refuse() { say "ERROR: $1"; say "  → $2"; exit 2; }

# A task of an array is named by both numbers: its own is the whole array's in the last task.
this_job=$SLURM_JOB_ID
[[ -z ${SLURM_ARRAY_JOB_ID:-} ]] || this_job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID

# Of `mmbert submit`: modules, variables and container of the site. The words of the container stand
# after srun (site_srun) and before Python (site_inside, site_python).
site_srun=() site_inside=() site_python=''
if [[ -n ${MMBERT_SITE_SCRIPT:-} ]]; then
    # shellcheck disable=SC1090
    source "$MMBERT_SITE_SCRIPT" || refuse "$MMBERT_SITE_SCRIPT failed" \
        "correct the site file and submit again"
fi

# find_python HOME: set `python` to the interpreter of the environment that has mmbert installed, and
# `task_python` to the words that start it in a task, within the container if the site has one.
find_python() {
    local environment=${MMBERT_VENV:-$1/.venv}
    [[ -n ${MMBERT_VENV:-} || -e $environment ]] || environment=${VIRTUAL_ENV:-$environment}
    # shellcheck disable=SC2034
    python=$environment/bin/python
    [[ -x $python ]] || refuse "there is no $python" \
        "run 'make setup' in $1, or export MMBERT_VENV=/path/to/the/environment"
    "$python" -P -c 'import mmbert' || refuse "mmbert is not installed in $environment" \
        "install it there, or export MMBERT_VENV=/path/to/the/environment"
    # shellcheck disable=SC2034
    task_python=("${site_inside[@]}" "${site_python:-$python}")
}

# job_field NAME: print a field of this job from `scontrol show job`.
job_field() { scontrol show job "$this_job" | sed -n "s/.*\<$1=\([^ ]*\).*/\1/p"; }

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
        state=$(squeue --noheader --jobs="$this_job" --format=%T) && break
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
    trap '' USR1 TERM # Slurm ends this script at once; what happens is said first
    if taken_away; then
        say "$1; the job is $state, leaving it to Slurm"
    elif scontrol requeue "$this_job"; then
        say "$1 and requeued; it continues in about two minutes or when nodes are free"
    else
        say "$1, but Slurm did not requeue the job: submit the same command again to continue"
    fi
}

# one_task MODULE ARGUMENT…: run a Python module as one task with the whole node.
one_task() {
    local command=(
        srun --nodes=1 --ntasks=1 --cpus-per-task="$SLURM_CPUS_ON_NODE" --mpi=none
    )
    local gpus=${SLURM_GPUS_PER_NODE:-}
    [[ -z $gpus ]] || command+=(--gpus-per-node="${gpus##*:}")
    command+=("${site_srun[@]}" "${task_python[@]}" -P -m "$@")
    say "running: $(printf '%q ' "${command[@]}")"
    "${command[@]}" </dev/null
}

# begin_attempt STEP [FOLDER]: in a chain, record a start of this job, with the units of work that are
# finished in FOLDER; exit if it has failed three times at the same place.
begin_attempt() {
    [[ -n ${MMBERT_JOURNALS:-} ]] || return 0
    "$python" -P -m mmbert.cluster.attempts begin "$@" || exit 1
}

# check_attempts RUN [ARGUMENT…]: in a chain, exit if the journal of a run says that this job has
# failed three times at the same checkpoint. ARGUMENTs may name a --variant.
check_attempts() {
    [[ -n ${MMBERT_JOURNALS:-} ]] || return 0
    "$python" -P -m mmbert.cluster.attempts check "$@" || exit 1
}

# record_stop STEP: in a chain, record that this start was stopped from outside, which is no failure.
record_stop() {
    [[ -z ${MMBERT_JOURNALS:-} ]] || "$python" -P -m mmbert.cluster.attempts end "$1" 75 || true
}

# end_attempt STEP STATUS: say how the job ends and exit with STATUS. In a chain, record it, and
# requeue the job after a failure that may pass.
end_attempt() {
    local again=1
    if [[ -n ${MMBERT_JOURNALS:-} ]]; then
        "$python" -P -m mmbert.cluster.attempts end "$@" && again=0
    fi
    if (( $2 == 0 )); then
        say "done"
    elif (( again == 0 )); then
        requeue "FAILED with status $2"
    else
        say "FAILED with status $2: see the error above; submit the same command again"
    fi
    exit "$2"
}
