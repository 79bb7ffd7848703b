"""What happens between the steps of `Model.train`: counting, the guard against non-finite losses, checkpoints, signals."""

from __future__ import annotations

import math
import signal
import time
from collections import deque
from collections.abc import Callable

import numpy as np
from mindspore.train import Callback

from ..errors import TrainingError
from .checkpoints import Position
from .step import TrainStep


class Conductor(Callback):
    """Follows the optimizer steps of one stage and calls back at the right ones.

    Args:
        step: the train network.
        position: kept up to date after every step.
        first_draw, steps_per_epoch, epoch_draws, batch: of the stage, to translate steps into draws.
        lr: learning rate of every step of the stage, (epochs * steps_per_epoch,).
        max_bad_steps: non-finite steps in a row after which training stops.
        read_every: how often the loss is fetched from the device.
        on_step: called as on_step(loss or None, lr) after every step.
        put_up: called as put_up(steps of the stage that are done) after every step, for draws that follow what is learnt.
        on_epoch: called at the end of every epoch, after the position was set.
        save: called to write a checkpoint.
        save_every_seconds: how often `save` is called in the middle of an epoch, None for never.
        stop_requested: asked after every step whose loss is read; when true, the state is saved and training ends.
    """

    def __init__(
        self,
        step: TrainStep,
        position: Position,
        *,
        first_draw: int,
        steps_per_epoch: int,
        epoch_draws: int,
        batch: int,
        lr: np.ndarray,
        max_bad_steps: int,
        read_every: int,
        on_step: Callable[[float | None, float], None],
        on_epoch: Callable[[], None],
        save: Callable[[], None],
        save_every_seconds: float | None,
        stop_requested: Callable[[], bool],
        put_up: Callable[[int], None] | None = None,
    ):
        super().__init__()
        self.step, self.position = step, position
        self.first_draw, self.steps_per_epoch = first_draw, steps_per_epoch
        self.epoch_draws, self.batch, self.lr = epoch_draws, batch, lr
        self.max_bad_steps, self.read_every = max_bad_steps, read_every
        self.on_step, self.on_epoch_done, self.save = on_step, on_epoch, save
        self.save_every_seconds, self.stop_requested, self.put_up = save_every_seconds, stop_requested, put_up
        self.last_losses: deque[float] = deque(maxlen=5)
        self.last_save = time.monotonic()
        self.interrupted = False

    def on_train_step_end(self, run_context) -> None:
        parameters = run_context.original_args()
        if self.step.accumulate > 1 and not parameters.train_dataset_element[-1].asnumpy()[0]:
            return
        position = self.position
        position.step += 1
        done = position.epoch * self.steps_per_epoch + position.step
        position.draw = self.first_draw + position.epoch * self.epoch_draws
        position.draw += min(position.step * self.batch, self.epoch_draws)
        if self.put_up is not None:
            self.put_up(done)
        lr = float(self.lr[done - 1])
        loss = None
        if done % self.read_every == 0 or position.step == self.steps_per_epoch:
            loss = float(parameters.net_outputs[0].asnumpy())
            self._guard(loss, done, lr)
        self.on_step(loss, lr)
        if position.step == self.steps_per_epoch:
            position.epoch, position.step = position.epoch + 1, 0
            self.on_epoch_done()
            self.last_save = time.monotonic()
            if position.epoch * self.steps_per_epoch > done:  # the stage has ended before its last epoch
                run_context.request_stop()
        elif self.save_every_seconds is not None and time.monotonic() - self.last_save > self.save_every_seconds:
            self.save()
            self.last_save = time.monotonic()
        # Several workers agree on it, which costs a message: at the steps that wait for the device anyway.
        if loss is not None and self.stop_requested():
            self.interrupted = True
            self.save()
            run_context.request_stop()

    def _guard(self, loss: float, done: int, lr: float) -> None:
        self.last_losses.append(loss)
        if math.isfinite(loss) and int(self.step.skipped_in_row.asnumpy()) == 0:
            return
        in_row = int(self.step.skipped_in_row.asnumpy())
        if in_row >= self.max_bad_steps:
            losses = ", ".join(f"{value:.4g}" for value in self.last_losses)
            raise TrainingError(
                f"{in_row} steps in a row were not finite, up to step {done} of stage {self.position.stage + 1} "
                f"(lr {lr:.4g}; last losses {losses}). The weights are those before the first of them. Try a new "
                f"run with a smaller optimizer.lr, a longer schedule.warmup_epochs or a clip_norm."
            )


class StopSignals:
    """SIGINT and SIGTERM ask for a stop after the present step; a second one ends the process at once.

    One that comes within `REPEAT` seconds is taken for the same: a job manager and a launcher may both pass a signal on.
    """

    REPEAT = 3.0

    def __init__(self):
        self.requested = False
        self._first = 0.0
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame) -> None:
        if self.requested and time.monotonic() > self._first + self.REPEAT:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._first = self._first or time.monotonic()
        self.requested = True
