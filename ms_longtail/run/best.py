"""The best epochs by the validation part: which checkpoints are kept for them, and when a stage has waited long enough."""

from __future__ import annotations

from ..training.checkpoints import Position, write
from .folder import RunFolder
from .handover import start_file
from .plan import StagePlan


def keep_best(
    line: dict,
    position: Position,
    step,
    plan: list[StagePlan],
    folder: RunFolder,
    *,
    by: str,
    evaluations: int | None,
    main: bool,
) -> bool:
    """Take note of an epoch's validation result; the last epoch with the highest one is the best.

    A validation part that is held out class by class has the tail of the training part, where top-1 prefers the epoch that
    knows the large classes best. The mean over classes is what a balanced test part asks for, so it is the default. Of equals the
    last has learnt longest: a part with few images of a class has few different scores.

    Args:
        line: of the epoch, with `validation`. position: its `best`, `stage_best` and `waited` are kept up to date.
        by: "balanced" or "top1", which of the scores is meant.
        step: what is written where the epoch is the best so far: best.ckpt, and what a next stage with `start: best` begins from.
        evaluations: so many without a better one end the stage; None for never.
        main: whether this worker writes.

    Returns:
        whether the stage is to end.
    """
    value, best = line["validation"][by], position.best
    if best is None or best.get("by", "top1") != by or value >= best["value"]:
        position.best = {"by": by, "value": value, "stage": line["stage"], "epoch": line["epoch"]}
        if main:
            write(folder.checkpoints / "best.ckpt", step, position)
    before, following = position.stage_best, position.stage + 1
    better = before is None or value > before
    position.waited = 0 if better else position.waited + 1
    if better or value == before:
        position.stage_best = value
        if main and following < len(plan) and plan[following].stage.start == "best":
            write(start_file(plan, following, folder.checkpoints), step, position)
    return evaluations is not None and position.waited >= evaluations
