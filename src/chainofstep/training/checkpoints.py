"""Checkpoints of a training in `out/checkpoints`, and going on from the last whole one.

checkpoints/made_from.json      settings, rows and first weights: another training cannot go on from here
checkpoints/checkpoint-N        as transformers writes them, after N updates, but for the weights
checkpoints/checkpoint-N/trained.safetensors   the weights that are trained
checkpoints/checkpoint-N/whole.json   written last: the files and their sizes. Without it a checkpoint is torn

`out/made_from.json` is that of the finished training, with the hash of each file of weights.
"""

import hashlib
import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from chainofstep.models.vlm import VLM
from chainofstep.settings import difference
from chainofstep.store import file_hash, read_json, write_json
from chainofstep.training.common import TrainConfig
from chainofstep.training.distributed import processes, rank, shared, wait

# Only numbers order checkpoints here; transformers warns where two were written within a second.
logging.getLogger("transformers.trainer_utils").addFilter(lambda record: "mtime may not" not in record.getMessage())

FINISHED = "made_from.json"
WHOLE = "whole.json"
TRAINED = "trained.safetensors"
SAMPLED = 64  # numbers of each weight that tell one model from another


def made_from(config: TrainConfig, rows: Iterable[Any], *models: VLM) -> dict[str, Any]:
    """What decides the bytes of a training, as JSON: settings, rows, models before it, processes."""
    settings = asdict(config)
    for name in ("save_every", "report_to"):
        del settings["machine"][name]
    settings["trained"] = list(config.trained)
    found = hashlib.sha256()
    for row in rows:
        found.update(repr(row).encode("utf-8", "surrogatepass"))
    weights = [_fingerprint(vlm) for vlm in models]
    return {"config": settings, "rows": found.hexdigest(), "models": weights, "processes": processes()}


def _fingerprint(vlm: VLM) -> str:
    """A hash of every weight's name, type and shape, and of some of its numbers: hashing all takes minutes."""
    found = hashlib.sha256()
    for name, weight in vlm.model.state_dict().items():
        flat = weight.detach().flatten()
        places = torch.linspace(0, len(flat) - 1, SAMPLED, dtype=torch.float64).long().to(flat.device)
        numbers = flat[places].cpu().contiguous().view(torch.uint8) if len(flat) else flat
        found.update(f"{name} {weight.dtype} {tuple(weight.shape)} {numbers.tolist()}".encode())
    return found.hexdigest()


def is_finished(out: Path, wanted: dict[str, Any]) -> bool:
    """Whether `out` holds the model of this training; the same to all processes, as the first one sees it.

    ValueError if it holds that of another, or weights that are not those that were saved.
    """
    found, trouble = shared(1, lambda numbers: [_finished(out, wanted) for _ in numbers])[0]
    if trouble:
        raise ValueError(f"{out} {trouble}: delete {out} to train again, or choose another folder for the model")
    return found


def _finished(out: Path, wanted: dict[str, Any]) -> tuple[bool, str]:
    """Whether the training is finished, and why it can be neither taken as it is nor begun again."""
    if not (out / FINISHED).exists():
        return False, ""
    try:
        kept = read_json(out / FINISHED)
    except ValueError:
        return False, f"has a broken {FINISHED}"
    known = {key: kept.get(key) for key in wanted if key != "processes"}  # how many there were is rounding alone
    if path := difference(known | {"processes": wanted["processes"]}, wanted):
        return False, f"holds the finished model of another training ({path} differs)"
    if kept.get("weights") != _weights(out):
        return False, "holds other weights than its training saved"
    return True, ""


def _weights(out: Path) -> dict[str, str]:
    return {path.name: file_hash(path) for path in sorted(out.glob("*.safetensors"))}


def finish(out: Path, made: dict[str, Any]) -> None:
    """Say whose the model in `out` is, once all of it is written."""
    write_json(out / FINISHED, made | {"weights": _weights(out)})


def last_checkpoint(out: Path, wanted: dict[str, Any]) -> Path | None:
    """The newest whole checkpoint of this training in `out`; None to start from the beginning.

    ValueError if the checkpoints there are another training's.
    """
    folder = out / "checkpoints"
    if not folder.exists():
        return None
    marker = folder / "made_from.json"
    if marker.exists() and (path := difference(read_json(marker), wanted)):
        raise ValueError(
            f"{folder} holds checkpoints of another training ({path} differs): delete {folder} to start again, or"
            " choose another folder for the model"
        )
    numbers = {int(path.name.rpartition("-")[2]): path for path in folder.glob("checkpoint-*")}
    return next((numbers[number] for number in sorted(numbers, reverse=True) if _is_whole(numbers[number])), None)


def begin(out: Path, wanted: dict[str, Any]) -> None:
    """Say whose checkpoints these are, before the first is written."""
    if rank() == 0:
        write_json(out / "checkpoints" / "made_from.json", wanted)


def _sizes(checkpoint: Path) -> dict[str, int]:
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != WHOLE)
    return {str(path.relative_to(checkpoint)): path.stat().st_size for path in files}


def _is_whole(checkpoint: Path) -> bool:
    marker = checkpoint / WHOLE
    return marker.exists() and bool(read_json(marker) == _sizes(checkpoint))


class MarkWhole(TrainerCallback):
    """Marks a checkpoint as whole once every process has written its part of it."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        wait()
        if rank() == 0:
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            write_json(checkpoint / WHOLE, _sizes(checkpoint))


class TrainedWeights:
    """A mixin for trainers: checkpoints hold the weights that are trained, by their names in memory.

    transformers' own write the names of older versions for several families (LLaVA's among them), find none of them
    when they are read, and go on from the first weights with no more than a warning. Sharded weights are written and
    read by accelerate and DeepSpeed, which keep the names.
    """

    model: Any
    args: Any
    is_fsdp_enabled: bool
    is_deepspeed_enabled: bool

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._save(output_dir, state_dict)  # type: ignore[misc]
        elif self.args.should_save:
            assert output_dir is not None
            Path(output_dir).mkdir(parents=True, exist_ok=True)
            weights = {name: weight.detach().contiguous() for name, weight in _trained(self.model)}
            save_file(weights, str(Path(output_dir) / TRAINED))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
            return
        weights = dict(_trained(self.model))
        kept = load_file(str(Path(resume_from_checkpoint) / TRAINED))
        assert kept.keys() == weights.keys(), "a checkpoint of the same training holds the same weights"
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(kept[name])


def _trained(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and weights that are trained; tied ones once."""
    return ((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)
