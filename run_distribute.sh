#!/usr/bin/env bash
# Data-parallel training on one machine or several: one worker per device, or several CPU workers.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: bash run_distribute.sh CONFIG [WORKERS] [options of train.py ...]

  CONFIG    a recipe, e.g. configs/cifar10_lt/ce.yaml
  WORKERS   number of workers over all machines; the recipe's `batch` is shared among them.
            Default: every device of the machine (on a CPU, 2)

Several machines: the same command on each, with the variables
  NODES             number of machines
  NODE_RANK         this machine's number, from 0; the one with 0 starts the scheduler and writes the run folder
  MASTER_ADDR       host name or address of machine 0
  MASTER_PORT       a free port there (default 8118; on one machine, a free one is chosen)
  WORKERS_PER_NODE  workers on each machine (default: WORKERS / NODES, or every device)

PYTHON, if set, is the interpreter (default: that of the active environment, or of .venv beside this script).
MSLT_GRACE: seconds that workers get to save after a signal (default 8).
Logs: RUN/logs/start-N/rank_R.log. Exit status: 0 done, 2 a mistake in recipe or arguments, 130 stopped by a
signal (everything is saved; --resume goes on), else that of the worker that failed. See docs/distributed.md.
TEXT
}

case "${1:-}" in
    -h | --help) usage; exit 0 ;;
    "" | -*) echo "error: CONFIG is missing" >&2; usage >&2; exit 2 ;;
esac

here=$(cd "$(dirname "$0")" && pwd)
if [ -z "${PYTHON:-}" ]; then
    PYTHON=$(command -v python || command -v python3 || true)
    if [ -z "${VIRTUAL_ENV:-}" ] && [ -x "$here/.venv/bin/python" ]; then
        PYTHON=$here/.venv/bin/python
    fi
fi
if ! "$PYTHON" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("mindspore") is None)' 2>/dev/null; then
    echo "error: ${PYTHON:-python} has no mindspore; run pip install -e . in its environment, or set PYTHON" >&2; exit 2
fi
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"
# The shell becomes the launcher, so a signal to the script reaches it.
exec "$PYTHON" -m ms_longtail.run.launch "$here/train.py" "$@"
