"""Which weights of a model are trained: its parts, whole or by low-rank adapters, and how the model is plain again.

A part is told by the names that stock classes give their modules, not by family.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from chainofstep.chain import ALL_TOKENS
from chainofstep.models.vlm import VLM, quiet
from chainofstep.training.common import PARTS, Lora, Part, TrainConfig, stock_forward
from chainofstep.training.distributed import sharded_launch
from chainofstep.training.drop_path import dropping

TOWERS = frozenset({"vision_tower", "vision_model", "visual", "vision_encoder"})
#: Also what lies in the tower by name, as Qwen's mergers, and the embedding of a line's end (LLaVA-NeXT).
PROJECTORS = frozenset({"multi_modal_projector", "connector", "merger", "deepstack_merger_list", "image_newline"})


def part_of(name: str) -> Part:
    """The part that a module or parameter belongs to, by its dotted name."""
    path = set(name.split("."))
    if path & PROJECTORS:
        return "projector"
    return "vision" if path & TOWERS else "decoder"


def parts(model: nn.Module) -> dict[Part, list[str]]:
    """Names of the parameters of each part; ValueError for a model in which a part is not found."""
    found: dict[Part, list[str]] = {part: [] for part in PARTS}
    for name, _ in model.named_parameters():
        found[part_of(name)].append(name)
    for part, names in found.items():
        if not names:
            raise ValueError(
                f"{type(model).__name__}: no {part} found among its modules ({', '.join(_modules(model))});"
                " give a vision-language model"
            )
    return found


def tower_name(model: nn.Module) -> str:
    """The dotted name of the vision tower."""
    return next(name for name, _ in model.named_modules() if name.rpartition(".")[2] in TOWERS)


def _modules(model: nn.Module) -> list[str]:
    return [name for name, _ in getattr(model, "model", model).named_children()]


@dataclass(frozen=True)
class Prepared:
    """What a trainer is to train: the model itself, or the model with an adapter; and the types its weights came in."""

    model: Any
    types: dict[str, torch.dtype]


@contextmanager
def prepared(vlm: VLM, config: TrainConfig) -> Iterator[Prepared]:
    """The model ready to be trained as the settings say.

    Parts that are not trained are frozen. At the end the model is as it was, but for its weights: stock forward,
    attention, precision, everything trainable. (Weights that were sharded over processes stay so.)
    """
    model, named = vlm.model, parts(vlm.model)
    _check_bits(vlm, config.lora)
    types = {name: weight.dtype for name, weight in model.named_parameters()}
    trained = {name for part in config.trained for name in named[part]}
    with ExitStack() as stack:
        stack.callback(_as_before, model, types)
        stack.enter_context(stock_forward(model))
        stack.enter_context(_attention(model, config.machine.attention))
        if config.machine.precision == "float32" and not config.lora.four_bit:
            model.float()
        if config.drop_path:
            stack.enter_context(dropping(model.get_submodule(tower_name(model)), config.drop_path))
        if config.machine.liger:
            _use_liger(model)
        for name, weight in model.named_parameters():
            weight.requires_grad_(weight.is_floating_point() and name in trained and not config.lora.rank)
        wrapped = with_adapter(vlm, config) if config.lora.rank else model
        stack.callback(_without_adapter, wrapped)
        _widen(wrapped, config)
        yield Prepared(wrapped, types)


def _as_before(model: Any, types: Mapping[str, torch.dtype]) -> None:
    """Everything trainable, in the type it came in, without checkpointing."""
    with quiet():
        if model.is_gradient_checkpointing:
            model.gradient_checkpointing_disable()
    for weight in model.parameters():
        weight.requires_grad_(weight.is_floating_point())
    if not sharded_launch():
        as_it_came(model, types)


def _check_bits(vlm: VLM, lora: Lora) -> None:
    loaded = bool(getattr(vlm.model, "is_loaded_in_4bit", False))
    if lora.four_bit and not loaded:
        raise ValueError("lora.four_bit: the weights are not in four bits; load the model with four_bit=True")
    if loaded and not lora.four_bit:
        raise ValueError("the weights are in four bits and cannot be trained themselves; set lora.four_bit and rank")


@contextmanager
def _attention(model: Any, wanted: str) -> Iterator[None]:
    before = model.config._attn_implementation
    if wanted == before:
        yield
        return
    model.set_attn_implementation(wanted)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def as_it_came(model: nn.Module, types: Mapping[str, torch.dtype]) -> None:
    """Give each weight the type that it came in; what was unpacked from four bits stays as it is."""
    for name, weight in model.named_parameters():
        kind = types.get(name, weight.dtype)
        if kind.is_floating_point and weight.is_floating_point() and weight.dtype != kind:
            weight.data = weight.data.to(kind)


def _widen(model: nn.Module, config: TrainConfig) -> None:
    """Float32 for what is trained: in bfloat16 most updates would be rounded away."""
    if config.machine.precision == "bfloat16" and not sharded_launch():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.data = weight.data.float()


def _use_liger(model: Any) -> None:
    """Fused norms, rotations and feed-forwards; the losses here have their own head."""
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN, _apply_liger_kernel_to_instance

    kind = model.config.model_type
    if kind not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise ValueError(f"machine.liger: liger_kernel has no kernels for {kind}; set machine.liger=false")
    _apply_liger_kernel_to_instance(model, fused_linear_cross_entropy=False, cross_entropy=False)


def with_adapter(vlm: VLM, config: TrainConfig) -> Any:
    """The model with fresh adapters, which change nothing yet: a `PeftModel` around the same modules."""
    from peft import get_peft_model

    torch.manual_seed(config.seed)  # half of an adapter is drawn at random: the same in every process
    with quiet():
        return get_peft_model(vlm.model, adapter_config(vlm, config))


def adapter_config(vlm: VLM, config: TrainConfig) -> Any:
    """peft's settings: adapters on all linear layers of the trained parts but the head, and the step tokens' rows.

    The rows are trained whole: tokens that were added last week have nothing that a low rank could lean on.
    """
    from peft import LoraConfig

    model = vlm.model
    if not isinstance(model.get_input_embeddings(), nn.Embedding):
        raise ValueError(f"{type(model).__name__} has an adapter already; merge it first (load_vlm does)")
    head = model.get_output_embeddings()
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head and part_of(name) in config.trained
    ]
    if not linear:
        raise ValueError(
            f"trained={','.join(config.trained)}: no linear layer in {type(model).__name__} to put an adapter on;"
            " train the decoder too, or set lora.rank=0"
        )
    rows = step_rows(vlm) if "decoder" in config.trained else {}
    if sharded_launch() and len(rows) == 1:
        raise ValueError(
            f"{type(model).__name__} has one matrix for embedding and head, whose trained rows cannot be sharded:"
            " use accelerate_configs/ddp.yaml, or set lora.rank=0"
        )
    return LoraConfig(
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=linear,
        trainable_token_indices=rows or None,
    )


def step_rows(vlm: VLM) -> dict[str, list[int]]:
    """Ids of the step tokens by the name of the matrix that holds their rows: embedding, and head where untied."""
    known = vlm.tokenizer.get_vocab()
    ids = sorted(known[token] for token in ALL_TOKENS if token in known)
    inputs, outputs = vlm.model.get_input_embeddings(), vlm.model.get_output_embeddings()
    matrices = [inputs] if outputs.weight is inputs.weight else [inputs, outputs]
    names = {module: name for name, module in vlm.model.named_modules()}
    return {names[module]: ids for module in matrices} if ids else {}


def _without_adapter(model: Any) -> None:
    """Take adapters off that nobody merged: training was interrupted."""
    if hasattr(model, "peft_config") and hasattr(model, "unload") and not sharded_launch():
        model.unload()
