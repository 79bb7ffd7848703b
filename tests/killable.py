"""Train with a kill at a chosen moment: python killable.py MOMENT COUNT -- arguments of train.py.

Moments: step (after COUNT optimizer steps), and within the COUNT-th write of a last checkpoint: before (its temporary
file is not there yet), during (half of it is), after (whole, not renamed), renamed (the older ones moved, the name is
free); best (best.ckpt is written, last.ckpt not yet). "none" lets the run go through.
"""

import os
import signal
import sys

from ms_longtail.cli import main
from ms_longtail.run import train as run_train
from ms_longtail.training import callbacks, checkpoints

moment, count = sys.argv[1], int(sys.argv[2])
left = {"n": count}


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def counted(function, before=False):
    def wrapper(*args, **kwargs):
        left["n"] -= 1
        if before and left["n"] == 0:
            die()
        result = function(*args, **kwargs)
        if left["n"] == 0:
            die()
        return result

    return wrapper


if moment == "step":
    original = callbacks.Conductor.on_train_step_end

    def at_step(self, context):
        original(self, context)
        left["n"] -= 1
        if left["n"] == 0:
            die()

    callbacks.Conductor.on_train_step_end = at_step
elif moment == "before":
    run_train.write_last = counted(run_train.write_last, before=True)
elif moment in ("during", "after", "renamed"):
    write_temporary, publish = checkpoints.write_temporary, checkpoints.publish

    def write(temporary, cell, position):
        write_temporary(temporary, cell, position)
        if ".last." not in temporary.name:
            return
        left["n"] -= 1
        if left["n"] == 0 and moment == "during":
            os.truncate(temporary, temporary.stat().st_size // 2)
            die()
        if left["n"] == 0 and moment == "after":
            die()

    def name(temporary, path):
        if left["n"] == 0 and path.name == "last.ckpt":
            die()
        publish(temporary, path)

    checkpoints.write_temporary, checkpoints.publish = write, name
elif moment == "best":
    keep = run_train.keep_best

    def at_best(line, position, *rest, **settings):
        best = position.best
        ends = keep(line, position, *rest, **settings)
        if position.best is not best:
            left["n"] -= 1
            if left["n"] == 0:
                die()
        return ends

    run_train.keep_best = at_best

sys.exit(main(sys.argv[4:], verb="train"))
