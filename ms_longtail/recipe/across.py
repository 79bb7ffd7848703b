"""Faults between settings that are each right by themselves; a fault is (path, 'value: what is wrong')."""

from __future__ import annotations

import re
from typing import Any

from ..registry import AUGMENT, CONTRASTS, LOSSES, OBJECTIVES
from .schema import Component, RunSettings, Stage
from .settings import nearest, shorten

STARTS = ("last", "best", "fresh")
Fault = tuple[tuple[str, ...], str]


def between(run: RunSettings | None, data: Any) -> list[Fault]:
    """Faults between settings of the run as a whole."""
    faults: list[Fault] = []
    if run is not None and run.batch % run.accumulate:
        faults.append((("accumulate",), f"{run.accumulate}: must divide batch {run.batch}"))
    if run is not None and run.sam is not None and run.accumulate > 1:
        faults.append((("sam",), f"{run.sam}: needs the whole batch before its second pass; set accumulate: 1"))
    if run is not None and run.sink and run.accumulate > 1:
        faults.append((("sink",), f"{run.sink}: the device is fed whole steps; set accumulate: 1"))
    if data is not None and data["resize"] is not None and data["resize"] < data["size"]:
        faults.append((("data", "resize"), f"{data['resize']}: must be at least data.size {data['size']}"))
    if data is not None and data["validation"].group is not None:
        try:
            re.compile(data["validation"].group)
        except re.error as error:
            message = f"{shorten(data['validation'].group)}: not a regular expression ({error})"
            faults.append((("data", "validation", "group"), message))
    return faults


def unused(run: RunSettings | None, stages: list[Stage | None]) -> list[Fault]:
    """Pretrained weights that no stage would begin with."""
    if run is None or run.pretrained is None or not stages or stages[0] is None:
        return []
    later = [stage for stage in stages[1:] if stage is None or stage.start == "fresh"]
    if not stages[0].start.endswith(".ckpt") or later:
        return []
    message = f"{shorten(run.pretrained.path)}: the first stage starts from {stages[0].start}; leave one of them out"
    return [(("pretrained", "path"), message)]


def between_stages(model: Component | None, stages: list[Stage | None]) -> list[Fault]:
    """Faults of the stages that are whole, with those before them that are."""
    faults = _model(model)
    for number, stage in enumerate(stages):
        if stage is not None:
            found = _schedule(number, stage, stages) + _loss(number, stage, stages, model) + _start(number, stage)
            found += _objective(stage, model) + _views(stage) + _rest(number, stage, stages)
            faults += [(("stages", str(number), *where), message) for where, message in found]
    return faults


def _model(model: Component | None) -> list[Fault]:
    """Between the settings of a network."""
    settings = {} if model is None else model.settings
    head, experts = settings.get("head", "linear"), settings.get("experts", 1)
    faults: list[Fault] = []
    if experts > 1 and settings.get("branches", 1) > 1:
        faults.append((("model", "experts"), f"{experts}: a network has experts or branches; leave one of them out"))
    if experts > 1 and head not in ("linear", "cosine"):
        message = f"{head!r}: corrects one classifier; with experts take linear or cosine"
        faults.append((("model", "head"), message))
    if settings.get("scale", 1.0) != 1.0 and head != "cosine":
        message = f"{settings['scale']}: multiplies cosines; set model.head: cosine, or leave it at 1"
        faults.append((("model", "scale"), message))
    return faults


def _schedule(number: int, stage: Stage, stages: list[Stage | None]) -> list[Fault]:
    faults: list[Fault] = []
    schedule = stage.schedule.settings
    if schedule["warmup"] == "constant" and schedule["warmup_epochs"] > 0 and schedule["warmup_start"] == 0:
        message = "0.0: must be above 0 with warmup: constant, or nothing is learnt until it ends"
        faults.append((("schedule", "warmup_start"), message))
    if stage.optimizer.settings.get("nesterov") and stage.optimizer.settings["momentum"] == 0:
        faults.append((("optimizer", "momentum"), "0.0: nesterov needs a momentum above 0"))
    before = stages[number - 1] if number else None
    if schedule.get("span") == "run" and before is not None and before.optimizer.name != stage.optimizer.name:
        message = f"'run': the optimizer changes from {before.optimizer.name} to {stage.optimizer.name}"
        faults.append((("schedule", "span"), f"{message}, so its state cannot go on; use span: stage"))
    return faults


def _loss(number: int, stage: Stage, stages: list[Stage | None], model: Component | None) -> list[Fault]:
    """Between a loss and what it needs from model, teacher and the stages before."""
    faults: list[Fault] = []
    loss = LOSSES.get(stage.loss.name)
    head = None if model is None else model.settings.get("head")
    if loss.head is not None and head is not None and head != loss.head:
        message = f"{stage.loss.name!r}: is defined for the {loss.head} head; set model.head: {loss.head}"
        faults.append((("loss", "name"), message))
    elif loss.head == "cosine" and model is not None and model.settings.get("scale", 1.0) != 1.0:
        message = f"{stage.loss.name!r}: multiplies the cosines by a scale of its own; leave model.scale at 1"
        faults.append((("loss", "name"), message))
    earlier = [other.name for other in stages[:number] if other is not None]
    unknown = [stage.teacher] if None in stages[:number] else []  # an earlier stage with a fault may be meant
    if "teacher_logits" in loss.needs and stage.teacher is None:
        names = f"; stages before it: {', '.join(earlier)}" if earlier else "; put a stage that trains it before"
        message = f"None: {stage.loss.name} needs a teacher: the name of an earlier stage, or a run folder{names}"
        faults.append((("teacher",), message))
    elif stage.teacher is not None and not ("teacher_logits" in loss.needs or _learns_from_teacher(stage)):
        faults.append((("teacher",), f"{stage.teacher!r}: {stage.loss.name} takes no teacher; leave it out"))
    elif stage.teacher is not None and not is_path(stage.teacher) and stage.teacher not in [*earlier, *unknown]:
        message = f"{shorten(stage.teacher)}: must be the name of an earlier stage{nearest(stage.teacher, earlier)}"
        known = ", ".join(earlier) or "none"
        message = f"{message}; there are: {known}; or a run folder or checkpoint, as a path with a /"
        faults.append((("teacher",), message))
    return faults


def _start(number: int, stage: Stage) -> list[Fault]:
    """In the weights that a stage starts with, and in what its images are mixed with."""
    faults: list[Fault] = []
    start = stage.start
    if start not in STARTS and not start.endswith(".ckpt"):
        message = f"{shorten(start)}: must be one of {', '.join(STARTS)}, or the path of a checkpoint, FILE.ckpt"
        faults.append((("start",), f"{message}{nearest(start, list(STARTS))}"))
    elif start == "best" and not number:
        faults.append((("start",), "'best': there is no stage before this one"))
    elif start != "last" and number and stage.schedule.settings.get("span") == "run":
        message = f"{shorten(start)}: other weights cannot go on with the optimizer's state; use schedule.span: stage"
        faults.append((("start",), message))
    maps = [(where, op.name) for where, op in stage.operations if getattr(AUGMENT.get(op.name), "needs_maps", False)]
    if maps and (start == "fresh" or (start == "last" and not number)):
        view = [op.name for where, op in stage.operations if where == maps[0][0]]
        message = f"{view}: {maps[0][1]} needs a trained network to find the object in an image; "
        message += "put a stage that trains it before, or name a checkpoint: start: FILE.ckpt"
        faults.append((tuple(maps[0][0].split(".")), message))
    if maps and stage.reset:
        message = (
            f"{list(stage.reset)}: {maps[0][1]} looks at maps by the weights that the stage starts with; leave it out"
        )
        faults.append((("reset",), message))
    return faults


def is_path(teacher: str) -> bool:
    """Whether a stage's teacher is a run folder or a checkpoint, and not an earlier stage."""
    return "/" in teacher or teacher.endswith(".ckpt")


def _learns_from_teacher(stage: Stage) -> bool:
    return getattr(OBJECTIVES.get(stage.objective.name), "takes_teacher", False)


def _views(stage: Stage) -> list[Fault]:
    """Between an objective and the views and contrastive loss that it is made for."""
    name, contrast = stage.objective.name, stage.contrast.name
    objective = OBJECTIVES.get(name)
    faults: list[Fault] = []
    if not getattr(objective, "takes_views", False):
        if stage.views:
            count = f"{len(stage.views)} further view{'s' * (len(stage.views) > 1)}"
            message = f"{count}: {name} reads the first alone; set objective: contrastive, or views: []"
            faults.append((("views",), message))
        if contrast != "none":
            message = f"{contrast!r}: {name} compares no views; set objective: contrastive, or contrast: none"
            faults.append((("contrast",), message))
        if name == "experts" and stage.mixing.name != "none":
            message = f"{stage.mixing.name!r}: experts learn from images that have one label; set mixing: none"
            faults.append((("mixing",), message))
        return faults
    if contrast == "none":
        queued = getattr(objective, "queued", False)
        known = ", ".join(n for n in CONTRASTS.names() if getattr(CONTRASTS.get(n), "queued", None) == queued)
        faults.append((("contrast",), f"'none': {name} needs a contrastive loss; known: {known}"))
    if stage.mixing.name != "none":
        message = f"{stage.mixing.name!r}: {name} compares images that have one label; set mixing: none"
        faults.append((("mixing",), message))
    return faults


def second_part(objective: Component) -> str | None:
    """The part of the data that an objective's second order is of; None where it reads one order."""
    part = getattr(OBJECTIVES.get(objective.name), "second_part", None)
    return part and objective.settings.get("meta", part)


def _objective(stage: Stage, model: Component | None) -> list[Fault]:
    """Between an objective and the orders, mixing and head that it is made for."""
    faults: list[Fault] = []
    name, part = stage.objective.name, second_part(stage.objective)
    if part is None:
        reads_second = getattr(OBJECTIVES.get(name), "takes_second", False)
        if stage.second_sampler is not None and stage.mixing.name == "none" and not reads_second:
            message = (
                f"{stage.second_sampler.name!r}: nothing is mixed with its images; set mixing, or second_sampler: none"
            )
            faults.append((("second_sampler",), message))
        return faults
    if stage.mixing.name != "none":
        faults.append((("mixing",), f"{stage.mixing.name!r}: {name} reads two orders side by side; set mixing: none"))
    if stage.second_sampler is None:
        usual = "reversed, as BBN does" if name == "bilateral" else "class_balanced"
        faults.append((("second_sampler",), f"'none': {name} reads a second order; name one, usually {usual}"))
    if part != "train" and any(getattr(AUGMENT.get(op.name), "needs_maps", False) for _, op in stage.operations):
        message = f"{part!r}: activation maps are made for the training images alone; set meta: train, or leave cam out"
        faults.append((("objective", "meta"), message))
    if getattr(OBJECTIVES.get(name), "draws_follow", False) and stage.sampler.name != "instance":
        message = f"{stage.sampler.name!r}: {name} draws by rates of its own; set sampler: instance"
        faults.append((("sampler",), f"{message} (its num_samples is the epoch's length)"))
    return faults


def _rest(number: int, stage: Stage, stages: list[Stage | None]) -> list[Fault]:
    """In what rests, and what begins anew."""
    faults: list[Fault] = []
    if stage.frozen_norm == "batch" and not stage.freeze:
        faults.append((("frozen_norm",), "'batch': nothing rests in this stage; set freeze, or frozen_norm: running"))
    before = stages[number - 1] if number else None
    if before is not None and stage.schedule.settings.get("span") == "run":
        if stage.reset:
            message = (
                f"{list(stage.reset)}: the optimizer's state speaks of the weights before; use schedule.span: stage"
            )
            faults.append((("reset",), message))
        if stage.freeze and stage.freeze != before.freeze:
            message = (
                f"{list(stage.freeze)}: the optimizer's state speaks of other parameters; use schedule.span: stage"
            )
            faults.append((("freeze",), message))
        if before.freeze and not stage.freeze:
            message = f"[]: the optimizer knows nothing yet of {list(before.freeze)}; use schedule.span: stage"
            faults.append((("freeze",), message))
    return faults
