"""Train a recipe with a meta-sampler alone or as one of several workers: also the rates of every step, and what was drawn.

python meta_parallel_run.py FILE CONFIG [graph|pynative] (one process, or under msrun)
"""

import sys
from pathlib import Path

import numpy as np
from parallel_run import Recorded

from ms_longtail import recipe as recipes
from ms_longtail import runtime
from ms_longtail.console import Console
from ms_longtail.data import RateSource
from ms_longtail.models.norm import Norm
from ms_longtail.run.dataset import load_data
from ms_longtail.run.folder import RunFolder, environment
from ms_longtail.run.plan import make_plan

DRAWN: dict[int, int] = {}  # draw number -> image


class Followed(Recorded):
    """A run that remembers the losses and rates of every step; batch norm on running statistics in all stages."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.rates = []

    def _enter(self, stage):
        super()._enter(stage)
        for _, cell in self.model.cells_and_names():  # a stage says anew what rests and what does not
            if isinstance(cell, Norm):
                cell.use_batch_statistics = False

    def _on_step(self, loss, lr):
        super()._on_step(loss, lr)
        if self.step.objective.follows is not None:
            self.rates.append(self.step.objective.follows.asnumpy().copy())


class Noted(RateSource):
    """A source that notes what was drawn."""

    def index(self, draws):
        index = super().index(draws)
        DRAWN.update(zip(draws.tolist(), index.tolist(), strict=True))
        return index


def main(file, config, mode="graph"):
    from ms_longtail.run import sources

    sources.RateSource = Noted
    machine = runtime.start("cpu", debug=mode == "pynative")
    recipe = recipes.load(Path(config))
    data = load_data(recipe)
    folder = RunFolder(Path(file).with_suffix(".run"))
    if machine.main:
        folder.create(recipe, data.description, environment("cpu", machine.ranks))
    run = Followed(recipe, data, make_plan(recipe, data, machine.ranks), folder, machine, Console(quiet=True))
    run.train()
    values = {f"weight {p.name}": p.asnumpy() for p in run.model.get_parameters()}
    values |= {f"state {p.name}": p.asnumpy() for p in run.step.objective.get_parameters() if "rates" in p.name}
    drawn = np.array(sorted(DRAWN.items()))
    np.savez(f"{file}-{machine.rank}.npz", losses=run.losses, rates=run.rates, drawn=drawn, **values)


if __name__ == "__main__":
    main(*sys.argv[1:])
