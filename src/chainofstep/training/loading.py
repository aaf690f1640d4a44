"""Loading a model the way its training needs it."""

from pathlib import Path

from chainofstep.models.vlm import VLM, load_vlm
from chainofstep.training.common import TrainConfig, check_settings
from chainofstep.training.distributed import sharded_launch


def load_for_training(name: str | Path, config: TrainConfig) -> VLM:
    """The model in the precision, place and bits of the settings.

    Under FSDP and ZeRO it is loaded into main memory, for one GPU may not hold it before it is sharded; else onto the
    GPU of this process. With bfloat16, what is trained is widened to float32 later. ValueError as in `load_vlm`,
    and before anything is loaded for settings that cannot work.
    """
    check_settings(config)
    machine = config.machine
    return load_vlm(
        name,
        dtype=machine.precision,
        device="cpu" if sharded_launch() else None,
        attention=machine.attention,
        four_bit=config.lora.four_bit,
    )
