"""Train a recipe alone or as one of several workers, batch norm on running statistics: losses and weights to a file.

python parallel_run.py FILE CONFIG [graph|pynative] (one process, or under msrun)
"""

import sys
from pathlib import Path

import numpy as np
from mindspore import Tensor

from ms_longtail import recipe as recipes
from ms_longtail import runtime
from ms_longtail.console import Console
from ms_longtail.losses import CrossEntropy
from ms_longtail.models.norm import Norm
from ms_longtail.objectives import Classification
from ms_longtail.run.dataset import load_data
from ms_longtail.run.folder import RunFolder, environment
from ms_longtail.run.plan import make_plan
from ms_longtail.run.train import Run
from ms_longtail.training.optimizers import sgd
from ms_longtail.training.step import TrainStep


class Recorded(Run):
    """A run that remembers the loss of every step. A batch's own statistics would depend on how it is divided."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.losses = []
        self._begin(80)
        for _, cell in self.model.cells_and_names():
            if isinstance(cell, Norm):
                cell.use_batch_statistics = False

    def _begin(self, steps):
        """Some steps on one worker with the batch's statistics, so that the running ones are those of the data."""
        images, rng = self.data.splits.train, np.random.default_rng(0)
        objective = Classification(self.model, CrossEntropy())
        step = TrainStep(objective, sgd(objective.trainable_params(), [0.02] * steps)).set_train()
        for _ in range(steps):
            chosen = rng.integers(0, len(images), 64)
            pixels = np.ascontiguousarray(images.images[chosen].transpose(0, 3, 1, 2))
            step(Tensor(pixels), Tensor(images.labels[chosen].astype(np.int32)))

    def _on_step(self, loss, lr):
        self.losses.append(loss)


def main(file, config, mode="graph"):
    machine = runtime.start("cpu", debug=mode == "pynative")
    recipe = recipes.load(Path(config))
    data = load_data(recipe)
    folder = RunFolder(Path(file).with_suffix(".run"))
    if machine.main:
        folder.create(recipe, data.description, environment("cpu", machine.ranks))
    run = Recorded(recipe, data, make_plan(recipe, data, machine.ranks), folder, machine, Console(quiet=True))
    run.train()
    values = {p.name: p.asnumpy() for p in run.step.get_parameters()}
    np.savez(f"{file}-{machine.rank}.npz", losses=run.losses, **{f"weight {name}": v for name, v in values.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
