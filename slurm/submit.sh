#!/bin/bash
# Submit everything from text to an evaluated model as a chain of jobs; without arguments, a demo.
#
#   slurm/submit.sh RECIPE INPUT OUT [--dry-run] [--site FILE] [key=value …]
#
# Calls `mmbert submit`, whose --help lists the options, with the Python of MMBERT_VENV (default: the
# clone's .venv, else the active environment).

set -uo pipefail

folder=${BASH_SOURCE[0]%/*}
[[ $folder != "${BASH_SOURCE[0]}" ]] || folder=.
environment=${MMBERT_VENV:-$folder/../.venv}
[[ -n ${MMBERT_VENV:-} || -e $environment ]] || environment=${VIRTUAL_ENV:-$environment}
[[ -x $environment/bin/python ]] || {
    echo "ERROR: there is no $environment/bin/python" >&2
    echo "  → run 'make setup', or export MMBERT_VENV=/path/to/the/environment" >&2
    exit 2
}
MMBERT_SCRIPTS=$folder exec "$environment/bin/python" -P -m mmbert.cli submit "$@"
