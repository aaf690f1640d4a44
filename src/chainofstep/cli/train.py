"""`cos train`: SFT, the process reward model, DPO and GRPO from files; `cos convert` and `cos push`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from chainofstep.cli.common import Examples, Model, OutFolder, Rollouts, Scores, Settings, command, left_out

train_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Train a model from files: sft, prm, dpo, grpo. Several GPUs: accelerate launch -m chainofstep train ...",
)


@command(train_app, "sft", "cos train sft models/base data/examples.jsonl --out models/sft --set learning_rate=1e-5")
def train_sft_command(model: Model, examples: Examples, out: OutFolder, settings: Settings = []) -> None:  # noqa: B006  # typer reads it, nothing changes it
    """Fine-tune a model on the gold chains of examples."""
    from chainofstep import verbs

    _trained(verbs.train_sft(model, examples, out, settings))


@command(train_app, "prm", "cos train prm models/base examples.jsonl rollouts.jsonl scores.jsonl --out models/prm")
def train_prm_command(
    backbone: Model,
    examples: Examples,
    rollouts: Rollouts,
    scores: Scores,
    out: OutFolder,
    settings: Settings = [],  # noqa: B006
) -> None:
    """Train a process reward model on scored rollouts."""
    from chainofstep import verbs

    _trained(verbs.train_prm(backbone, examples, rollouts, scores, out, settings))


@command(
    train_app, "dpo", "cos train dpo models/sft examples.jsonl pairs.jsonl --reference models/sft --out models/dpo-1"
)
def train_dpo_command(
    model: Model,
    examples: Examples,
    pairs: Annotated[Path, typer.Argument(metavar="PAIRS.jsonl", help="From `cos pairs`.", show_default=False)],
    out: OutFolder,
    reference: Annotated[
        str, typer.Option(help="The SFT model, in every round. With adapters: MODEL itself if left out.")
    ] = "",
    settings: Settings = [],  # noqa: B006
) -> None:
    """Improve a model on preference pairs by DPO, against a frozen reference."""
    from chainofstep import verbs

    _trained(verbs.train_dpo(model, examples, pairs, reference, out, settings))


@command(train_app, "grpo", "cos train grpo models/sft examples.jsonl --prm models/prm --out models/grpo")
def train_grpo_command(
    model: Model,
    examples: Examples,
    out: OutFolder,
    prm: Annotated[
        str, typer.Option(help="A PRM's folder or endpoint, whose path scores are the rewards; else right answers.")
    ] = "",
    settings: Settings = [],  # noqa: B006
) -> None:
    """Improve a model by GRPO: several rollouts of each question, rewarded by a PRM or by right answers."""
    from chainofstep import verbs

    _trained(verbs.train_grpo(model, examples, prm, out, settings))


def _trained(trained: Any) -> None:
    if trained is None:  # a further process of a launch
        return
    typer.echo(f"trained on {trained.rows} rows; wrote {trained.folder}")
    left_out("left out", trained.left_out)


def convert_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="InternVL's own format.", show_default=False)],
    out: OutFolder,
    tokenizer: Annotated[
        str, typer.Option(help="Folder or hub id of its tokenizer in transformers' format, where its own is code.")
    ] = "",
) -> None:
    """Convert InternVL 2.5 weights in their own format, the authors' checkpoints too, for the stock classes."""
    from chainofstep import verbs

    typer.echo(f"wrote {verbs.convert(folder, out, tokenizer)}")


def push_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What a training wrote.", show_default=False)],
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="On the hub.", show_default=False)],
    public: Annotated[bool, typer.Option("--public", help="For everyone to see; private without it.")] = False,
) -> None:
    """Upload a trained model with its processor, step tokens and model card to the hub (`hf auth login` before)."""
    from chainofstep import verbs

    typer.echo(f"pushed {folder} to {verbs.push(folder, repo, public)}")
