"""Bytes that a stage holds on one GPU, by formulas that tests compare with what small models really hold.

Training, for P parameters of which P_t are trained, on G GPUs that share them (FSDP2, ZeRO-3) or G = 1 where each holds
all (DDP):

- weights: 4 P_t + F P_f in float32 or bfloat16 training alike, by G. Trained weights are kept in float32, since at the
  paper's rates an update is smaller than what bfloat16 can add to a weight; frozen ones in what the model was loaded as
  (F = 2 for bfloat16, 4 for float32, 0.5 + 4/64 in four bits with a scale for each block of 64). Shared weights are
  gathered layer by layer in bfloat16, two layers at a time.
- gradients: 4 P_t by G; there all the time when several passes make an update, otherwise only as activations go.
- optimizer: 8 P_t by G, AdamW's two moments in float32. The fused step needs nothing more.

What autograd keeps for the backward pass, in elements of a row's token and layer (h width, q queries, k keys and
values, f feed-forward, b bytes of a number):

- norms: twice input, normalized and output, 6 h. In bfloat16 the norm works on a float32 copy of its input.
- attention: rotated queries and keys, values, output, and a float32 number for each head: 2 q + 2 k. SDPA with padded
  rows repeats keys and values for all heads (4 q) and keeps a mask of T numbers; without padding, or with flash
  attention, it does not.
- feed-forward: gate, its activation, up, their product: 4 f (2 f where it is not gated).
- under autocast (bfloat16 with float32 weights on one GPU) the stream between layers stays float32, and each product
  keeps its own cast copy of its input.

The backward pass of a layer holds gradients of its stream and of two feed-forward tensors, 2 f + h, beside what the
layer kept. Recomputed activations leave the input of each layer, and one layer's own at a time, after the loss is done.

The head's logits and what the loss makes of them are 12 bytes for each kept position and word (SFT): the logits, a
copy of those wanted, their float32 log-softmax, and its gradient. DPO has 14 in bfloat16, the policy's log-softmax and
all of the reference's at once. The PRM's logits stand at the tags alone, and GRPO computes them in tiles.
"""

from dataclasses import dataclass
from typing import Literal

from chainofstep.planning.shape import ModelShape, Stack
from chainofstep.training.common import TrainConfig

Sharing = Literal["ddp", "fsdp2", "zero3"]
FOUR_BITS = 0.5 + 4 / 64
TILE_BYTES = 4096 * 8192 * 4 * 2  # of TRL's chunked head: a tile of logits and of their gradient


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU."""

    weights: int = 0
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    logits: int = 0
    cache: int = 0  # keys and values

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits + self.cache


@dataclass(frozen=True)
class Pass:
    """What goes through a model at once: `rows` of `tokens`, with `patches` of all their pictures in the tower.

    `kept` positions of a row need logits, each `loss_bytes` for every word; 0 bytes: computed in tiles.
    """

    rows: int
    tokens: int
    patches: int
    kept: int
    loss_bytes: int = 12


def number_bytes(config: TrainConfig) -> int:
    return 4 if config.machine.precision == "float32" else 2


def trained_parameters(model: ModelShape, config: TrainConfig) -> int:
    """Full weights of the trained parts, or the adapters on them."""
    if config.lora.rank:
        return model.adapter(config.trained, config.lora.rank)
    return sum(model.of(part) for part in config.trained)


def training_memory(model: ModelShape, config: TrainConfig, work: Pass, gpus: int, sharing: Sharing) -> Memory:
    """At the fullest moment of an update: between its last forward and backward pass."""
    trained = trained_parameters(model, config)
    frozen = model.total if config.lora.rank else model.total - trained
    frozen_bytes = FOUR_BITS if config.lora.four_bit else number_bytes(config)
    shards = 1 if sharing == "ddp" else gpus
    accumulates = config.batch_size > config.forward_rows * gpus
    kept, backward = activation_bytes(model, config, work, sharing)
    gradients = 4 * trained // shards
    logits = work.loss_bytes * work.rows * work.kept * model.vocabulary or TILE_BYTES
    return Memory(
        weights=int((4 * trained + frozen_bytes * frozen) / shards) + _gathered(model, config, sharing),
        gradients=gradients if accumulates else max(0, gradients - kept),  # otherwise they come as activations go
        optimizer=8 * trained // shards,
        activations=kept + max(0, backward - logits),  # the loss has let go before a layer's backward pass begins
        logits=logits,
    )


def _gathered(model: ModelShape, config: TrainConfig, sharing: Sharing) -> int:
    """Weights in bfloat16 that are whole for a while: of shared ones, or autocast's copies of float32 ones.

    Autocast keeps its copies for the backward pass; where activations are computed again, so are the copies.
    """
    if sharing != "ddp":
        layer = model.parameters["decoder"] // model.decoder.layers
        return 2 * (2 * layer + max(model.parameters["embeddings"], model.parameters.get("head", 0)))
    if config.machine.precision == "float32" or config.lora.rank:
        return 0
    copies = 2 * trained_parameters(model, config)
    return copies // model.decoder.layers if config.machine.gradient_checkpointing else copies


def activation_bytes(model: ModelShape, config: TrainConfig, work: Pass, sharing: Sharing) -> tuple[int, int]:
    """What decoder and tower keep until the backward pass, and what one layer's backward pass needs at a time."""
    b, recomputes = number_bytes(config), config.machine.gradient_checkpointing
    autocast = b == 2 and sharing == "ddp" and not config.lora.rank
    masked = work.rows > 1 and config.machine.attention != "flash_attention_2"
    stacks = [(model.decoder, work.rows * work.tokens, work.tokens if masked else 0)]
    if "vision" in config.trained:
        stacks.append((model.tower, work.patches, 0))
    layers = [layer_bytes(stack, b, autocast, mask) * count for stack, count, mask in stacks]
    gradients = [b * (2 * stack.feed_forward + stack.width) * count for stack, count, _ in stacks]
    if not recomputes:
        return sum(stack.layers * layer for (stack, _, _), layer in zip(stacks, layers, strict=True)), max(gradients)
    stream = 4 if autocast else b
    again = max(layer + gradient for layer, gradient in zip(layers, gradients, strict=True))
    return sum(stack.layers * stream * stack.width * count for stack, count, _ in stacks), again


def layer_bytes(stack: Stack, b: int, autocast: bool = False, mask: int = 0) -> int:
    """What a layer keeps of one token. `mask` is the number of its columns where attention gets one, else 0."""
    h, q, k = stack.width, stack.queries, stack.key_values
    repeated = bool(mask) and k < q
    attention = 2 * q + (2 * q if repeated else 2 * k)
    if stack.query_norm:
        attention += 2 * q + 2 * k  # what goes into their norms, and that normalized
    if stack.joint:
        attention += 3 * h  # the values are a part of the product, and outputs of pictures are put together
    scaled = 2 * h if stack.layer_scale else 0
    kept = attention + scaled + stack.activation_tensors * stack.feed_forward + mask
    return b * kept + 4 * stack.heads + 2 * _norm_bytes(stack, b, autocast) + _cast_bytes(stack, autocast)


def _norm_bytes(stack: Stack, b: int, autocast: bool) -> int:
    """Of one norm: its input, that normalized (where it is written out), its output, and its statistics."""
    h = stack.width
    if autocast:  # in float32 throughout; of the output only the cast copies are kept
        return (8 if stack.rms else 4) * h + 4
    if stack.rms:
        return (4 + 2 * b) * h + 4
    return 2 * b * h + 8


def _cast_bytes(stack: Stack, autocast: bool) -> int:
    """Of the norms' outputs, one copy in bfloat16 for each product that takes it."""
    products = (1 if stack.joint else 3) + (2 if stack.gated else 1)
    return 2 * products * stack.width if autocast else 0
