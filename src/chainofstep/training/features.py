"""What a frozen vision tower makes of each set of pictures: computed once, kept on disk, read again for every batch.

The tower's own output is kept, so that the projector behind it can be trained. It is put back by a tower whose forward
returns what was kept; the model's code around it stays as it is.
"""

import hashlib
import inspect
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from chainofstep.models.batch import PromptCache
from chainofstep.models.encode import picture_key
from chainofstep.models.memory import to_device
from chainofstep.models.vlm import VLM
from chainofstep.progress import progress
from chainofstep.records import Example
from chainofstep.store import write_bytes
from chainofstep.training.adapters import part_of, tower_name
from chainofstep.training.common import TrainConfig
from chainofstep.training.distributed import local_rank, rank, wait

#: A tower's output by field. Of `hidden_states`, only the layers that the model reads, by their index.
Output = dict[str, Any]


class TowerFeatures:
    """The output of one model's vision tower for each set of pictures, as files in `folder`."""

    def __init__(self, vlm: VLM, config: TrainConfig, folder: Path, field: str = "tower"):
        name = tower_name(vlm.model)
        self.name = field  # under which batches hold them
        self.vlm, self.precision = vlm, config.machine.precision
        self.tower = vlm.model.get_submodule(name)
        inside = [module for module, _ in self.tower.named_modules() if part_of(f"{name}.{module}") == "projector"]
        if inside and "projector" in config.trained:
            raise ValueError(
                f"cached_features: the projector of {type(vlm.model).__name__} is computed inside its tower"
                f" ({inside[0]}) and is trained; leave projector out of `trained`, or set cached_features=false"
            )
        self.folder = folder / weights_hash(self.tower)[:16]  # of two models with one tower, the same files
        self.playing: list[Output] = []  # of the batch that is computed next

    def compute(self, examples: Iterable[Example]) -> None:
        """Compute and write the features of all picture sets; each process of a node its share."""
        here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        sets = {picture_key(example): example for example in examples if example.images}
        share = [sets[key] for key in sorted(sets)][local_rank() :: here]
        prompts = PromptCache(self.vlm, image_bytes=0)
        self.vlm.model.eval()
        device = torch.device("cuda", local_rank()) if torch.cuda.is_available() else self.vlm.device
        home = self.vlm.device
        self.tower.to(device)  # before it is sharded, a model is in main memory
        with progress("vision features", len(share)) if rank() == 0 else nullcontext() as tick:
            for done, example in enumerate(share, start=1):
                if not (path := self.path(example)).exists():
                    kept = BytesIO()
                    torch.save(self._output(prompts.encode(example).images, device), kept)
                    write_bytes(path, kept.getvalue())
                if tick is not None:
                    tick(done)
        self.tower.to(home)
        wait()

    def path(self, example: Example) -> Path:
        """The file of an example's pictures; other pictures under the same name have another."""
        stats = [(path, os.stat(path).st_size, os.stat(path).st_mtime_ns) for path in picture_key(example)]
        return self.folder / f"{hashlib.sha256(repr(stats).encode()).hexdigest()}.pt"

    def read(self, examples: Iterable[Example]) -> list[Output]:
        """The kept outputs of examples with pictures, in order."""
        return [torch.load(self.path(example), weights_only=True) for example in examples if example.images]

    @torch.no_grad()
    def _output(self, images: Mapping[str, torch.Tensor], device: torch.device) -> Output:
        """One pass of the tower over the pictures of a prompt; what comes after the tower is not computed."""
        model, seen = self.vlm.model, {}

        def see(_: Any, __: Any, output: Any) -> None:
            seen.update(self._kept(output))
            raise _Seen

        takes = inspect.signature(model.get_image_features).parameters
        given = {name: to_device(tensor, device) for name, tensor in images.items() if name in takes}
        with self.tower.register_forward_hook(see), self._autocast(device), suppress(_Seen):
            model.get_image_features(**given, return_dict=True)
        return seen

    def _autocast(self, device: torch.device) -> Any:
        return torch.autocast(device.type, torch.bfloat16) if self.precision == "bfloat16" else nullcontext()

    def _kept(self, output: Mapping[str, Any]) -> Output:
        kept = {name: _on_cpu(value) for name, value in output.items() if name not in ("hidden_states", "attentions")}
        layers = output.get("hidden_states")
        if layers is not None:
            wanted = getattr(self.vlm.model.config, "vision_feature_layer", -1)
            numbers = [wanted] if isinstance(wanted, int) else list(wanted)
            kept["hidden_states"] = {"count": len(layers)} | {
                str(number % len(layers)): _on_cpu(layers[number]) for number in numbers
            }
        return {name: value for name, value in kept.items() if value is not None}

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """The tower returns the features in `playing`, whatever pictures it is given."""
        kind = _output_class(self.tower)
        self.tower.forward = lambda *_, **__: _joined(kind, self.playing)
        try:
            yield
        finally:
            del self.tower.forward


@contextmanager
def kept_features(
    config: TrainConfig, examples: Sequence[Example], out: Path, **models: VLM
) -> Iterator[list[TowerFeatures]]:
    """With `cached_features`, the features of all examples for each model, by the field of a batch that holds them.

    The models' towers play them back meanwhile.
    """
    with ExitStack() as stack:
        found = []
        for field, vlm in models.items() if config.machine.cached_features else ():
            found.append(TowerFeatures(vlm, config, out / "features", field))
            found[-1].compute(examples)
        for features in found:
            stack.enter_context(features.replayed())
        yield found


def batch_features(kept: Sequence[TowerFeatures], examples: Sequence[Example]) -> dict[str, list[Output]]:
    """The fields of a batch for examples whose pictures are joined in this order."""
    return {features.name: features.read(examples) for features in kept}


class _Seen(Exception):
    """The tower is done."""


def weights_hash(module: torch.nn.Module) -> str:
    """SHA-256 of a module's weights by name, type, shape and bytes."""
    found = hashlib.sha256()
    for name, weight in module.state_dict().items():
        found.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        found.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return found.hexdigest()


def _output_class(tower: torch.nn.Module) -> Any:
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    wanted = inspect.signature(tower.forward).return_annotation
    return next(
        (kind for kind in getattr(wanted, "__args__", (wanted,)) if hasattr(kind, "to_tuple")),
        BaseModelOutputWithPooling,
    )


def _on_cpu(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    return None if value is None else [_on_cpu(part) for part in value]


def _joined(kind: Any, outputs: Sequence[Output]) -> Any:
    """The outputs of several prompts' pictures as that of one batch, end to end."""
    fields: Output = {}
    for name in outputs[0]:
        values = [output[name] for output in outputs]
        if isinstance(values[0], torch.Tensor):
            fields[name] = torch.cat(values)
        elif isinstance(values[0], dict):
            layers: list[torch.Tensor | None] = [None] * values[0]["count"]
            for number in values[0].keys() - {"count"}:
                layers[int(number)] = torch.cat([value[number] for value in values])
            fields[name] = tuple(layers)
        else:
            fields[name] = [torch.cat(parts) for parts in zip(*values, strict=True)]
    return kind(**fields)
