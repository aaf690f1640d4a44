"""What the vision tower makes of pictures: computed once for a set of pictures, kept while it fits."""

import inspect
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from chainofstep.models.encode import Prompt
from chainofstep.models.memory import to_device
from chainofstep.models.vlm import VLM

PictureKey = tuple[str, ...]
KEPT_BYTES = 2**28


def is_plain(prompt: Prompt) -> bool:
    """Whether its pictures are one tensor [pictures, ...], so that those of several prompts can be laid side by side.

    Other layouts (tiles, patches of any number, token types, positions in three parts) are computed one by one.
    """
    return set(prompt.images) <= {"pixel_values"}


def other_inputs(prompt: Prompt, device: torch.device) -> dict[str, torch.Tensor]:
    """The processor's tensors that the decoder's forward takes beside the features: grids, sizes, token types."""
    return {name: tensor.to(device) for name, tensor in prompt.images.items() if not name.startswith("pixel_")}


class PictureFeatures:
    """Features by picture set, as the model's own `get_image_features` returns them; the least recently used leave."""

    def __init__(self, vlm: VLM, kept_bytes: int = KEPT_BYTES):
        self.vlm, self.kept_bytes = vlm, kept_bytes
        self.found: OrderedDict[PictureKey, Any] = OrderedDict()

    def clear(self) -> None:
        self.found.clear()

    def of(self, prompts: Mapping[PictureKey, Prompt]) -> dict[PictureKey, Any]:
        """Features of each set of pictures; sets without pictures are left out."""
        wanted = {key: prompt for key, prompt in prompts.items() if key}
        fresh = {key: prompt for key, prompt in wanted.items() if key not in self.found}
        if fresh and all(is_plain(prompt) and len(prompt.images) == 1 for prompt in fresh.values()):
            self.found |= self._together(fresh)
        else:
            self.found |= {key: self._compute(prompt.images) for key, prompt in fresh.items()}
        features = {key: self.found[key] for key in wanted}
        for key in wanted:
            self.found.move_to_end(key)
        self._forget()
        return features

    def _compute(self, images: Mapping[str, torch.Tensor]) -> Any:
        model, device = self.vlm.model, self.vlm.device
        takes = inspect.signature(model.get_image_features).parameters
        given = {name: to_device(tensor, device) for name, tensor in images.items() if name in takes}
        dtype = model.get_input_embeddings().weight.dtype
        pixels = {name: tensor.to(dtype) for name, tensor in given.items() if tensor.is_floating_point()}
        return model.get_image_features(**(given | pixels), return_dict=True)

    def _together(self, prompts: Mapping[PictureKey, Prompt]) -> dict[PictureKey, Any]:
        """One pass of the tower over the pictures of several prompts."""
        counts = [len(prompt.images["pixel_values"]) for prompt in prompts.values()]
        joined = torch.cat([prompt.images["pixel_values"] for prompt in prompts.values()])
        pooled = self._compute({"pixel_values": joined}).pooler_output
        features, start = {}, 0
        for key, count in zip(prompts, counts, strict=True):
            features[key] = BaseModelOutputWithPooling(pooler_output=pooled[start : start + count])
            start += count
        return features

    def _forget(self) -> None:
        held = {key: _nbytes(features) for key, features in self.found.items()}
        total = sum(held.values())
        for key, size in held.items():
            if total <= self.kept_bytes:
                return
            del self.found[key]
            total -= size


def join_features(features: Sequence[Any]) -> Any:
    """Features of several plain prompts as those of one batch, in their order."""
    if len(features) == 1:
        return features[0]
    pooled = [one.pooler_output for one in features]
    if isinstance(pooled[0], torch.Tensor):
        return BaseModelOutputWithPooling(pooler_output=torch.cat(pooled))
    return BaseModelOutputWithPooling(pooler_output=[picture for pictures in pooled for picture in pictures])


def _nbytes(features: Any) -> int:
    """Bytes of all tensors in a model output, nested lists included."""
    if isinstance(features, torch.Tensor):
        return features.nbytes
    values = (
        features.values() if isinstance(features, Mapping) else features if isinstance(features, list | tuple) else ()
    )
    return sum(_nbytes(value) for value in values)
