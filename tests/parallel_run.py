"""Train a recipe alone or as one of several workers, batch norm on running statistics: losses and weights to a file.

python parallel_run.py FILE CONFIG [graph|pynative] (one process, or under msrun)
"""

import sys
from pathlib import Path

import numpy as np

from ms_longtail import recipe as recipes
from ms_longtail import runtime
from ms_longtail.console import Console
from ms_longtail.models.norm import Norm
from ms_longtail.parameters import assign
from ms_longtail.run.dataset import load_data
from ms_longtail.run.folder import RunFolder, environment
from ms_longtail.run.plan import make_plan
from ms_longtail.run.train import Run


class Recorded(Run):
    """A run that remembers the loss of every step. A batch's own statistics would depend on how it is divided."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.losses = []
        for name, cell in self.model.cells_and_names():
            if isinstance(cell, Norm) and name.endswith("bn2"):
                # small residuals: without the batch's statistics activations would grow block by block
                assign(cell.gamma, np.full(cell.gamma.shape, 0.1, np.float32))

    def _enter(self, stage):
        super()._enter(stage)  # which says anew what rests
        for _, cell in self.model.cells_and_names():
            if isinstance(cell, Norm):
                cell.use_batch_statistics = False

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
    values = {p.name: p.asnumpy() for p in run.model.get_parameters()}
    np.savez(f"{file}-{machine.rank}.npz", losses=run.losses, **{f"weight {name}": v for name, v in values.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
