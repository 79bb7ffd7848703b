#!/usr/bin/env bash
# Data-parallel training on one machine: one worker per device (or several CPU workers).
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: bash run_distribute.sh CONFIG WORKERS [options of train.py ...]

  CONFIG    a recipe, e.g. configs/cifar10_lt/ce.yaml
  WORKERS   number of workers, at least 1; the recipe's `batch` is shared among them

  The free port and the run folder are chosen here; each worker's output is in the run's logs.
  PYTHON, if set, is the interpreter (default: the one that `python` names).
TEXT
}

case "${1:-}" in
    -h | --help) usage; exit 0 ;;
    "") usage >&2; exit 2 ;;
esac
if [ $# -lt 2 ]; then
    echo "error: WORKERS is missing" >&2; usage >&2; exit 2
fi
config=$1; workers=$2; shift 2
if [ ! -f "$config" ]; then
    echo "error: CONFIG $config: no such file" >&2; exit 2
fi
if ! [[ "$workers" =~ ^[1-9][0-9]*$ ]]; then
    echo "error: WORKERS $workers: must be a number from 1 up" >&2; exit 2
fi

here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-$(command -v python || command -v python3)}
# msrun starts whatever `python` the PATH holds: put the chosen one's folder first.
bin=$(cd "$(dirname "$python")" && pwd)
export PATH="$bin:$PATH"
export GLOG_v=${GLOG_v:-3}
if ! command -v msrun >/dev/null; then
    echo "error: msrun is not beside $python; install with pip install -e . into this environment" >&2; exit 2
fi

# One look at the recipe before any worker starts: a fault is said once, with status 2.
"$python" "$here/train.py" --config "$config" "$@" --dry-run --quiet

port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
MSLT_RUN_FOLDER=$("$python" -m ms_longtail.run.choose_folder --config "$config" "$@")
export MSLT_RUN_FOLDER
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

status=0
msrun --worker_num="$workers" --local_worker_num="$workers" --master_port="$port" --log_dir="$logs" --join=True \
    --cluster_time_out=120 --tail_worker_log=0 "$here/train.py" --config "$config" "$@" || status=$?

if [ -d "$MSLT_RUN_FOLDER" ]; then
    mkdir -p "$MSLT_RUN_FOLDER/logs"
    for log in "$logs"/worker_*.log; do
        [ -e "$log" ] && cp "$log" "$MSLT_RUN_FOLDER/logs/rank-$(basename "${log#*worker_}")"
    done
fi
if [ "$status" -ne 0 ]; then
    echo "error: a worker failed (status $status); the last lines of each log:" >&2
    tail -n 8 "$logs"/worker_*.log >&2 || true
fi
exit "$status"
