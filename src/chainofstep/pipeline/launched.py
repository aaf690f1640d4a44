"""A training stage in several processes: `accelerate launch -m chainofstep.pipeline.launched RUN STAGE`.

Each process reads the run's folder and takes its part; the run itself waits, and does the stages between.
"""

import os
import shlex
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

from chainofstep.pipeline.recipe import Launch, Recipe
from chainofstep.pipeline.run import Run
from chainofstep.records import from_row
from chainofstep.store import read_json

CONFIGS = Path(str(files("chainofstep") / "accelerate_configs"))


def launch(settings: Launch, run: Path, stage: str) -> None:
    """Start the processes of a stage and wait for them. ValueError with the last lines if they fail."""
    started = [*launcher(settings, stage), "-m", "chainofstep.pipeline.launched", str(run), stage]
    finished = subprocess.run(started, check=False)
    if finished.returncode:
        raise ValueError(
            f"stage {stage}: {settings.processes} processes ended with code {finished.returncode}, the reason stands "
            "above; give the same command again, it goes on from the last checkpoint"
        )


def launcher(settings: Launch, stage: str) -> list[str]:
    """The command that starts a stage's processes, up to what each of them runs.

    GRPO's are never sharded: its engine samples from whole weights, which each process has to hold.
    """
    sharding = "ddp" if stage == "grpo" else settings.sharding
    return shlex.split(settings.command) or [
        *(sys.executable, "-m", "accelerate.commands.launch"),
        *("--config_file", str(CONFIGS / f"{sharding}.yaml"), "--num_processes", str(settings.processes)),
        *("--main_process_port", "0"),  # any free one, or two runs on one machine would meet
    ]


def take_part(folder: Path, stage: str) -> None:
    """This process's part in a stage of the run in this folder."""
    from chainofstep.pipeline.trainings import training

    recipe = from_row(Recipe, read_json(folder / "recipe.json"))
    training(Run(recipe, folder, leads=os.environ.get("RANK", "0") == "0"), stage)()


if __name__ == "__main__":
    take_part(Path(sys.argv[1]), sys.argv[2])
