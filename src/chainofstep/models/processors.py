"""Loading a processor, also where torchvision is absent.

The processor classes of Qwen, InternVL, LLaVA-OneVision and SmolVLM insist on a video processor, and transformers has
those only together with torchvision. The CPU set-up has no torchvision (its builds break transformers' imports on a
CPU torch), and no picture needs one. Where it is absent, and only there, `NoVideos` stands in the video processor's
place. It remembers what the folder says of it, so that what is saved is whole again where torchvision is.
"""

from pathlib import Path
from typing import Any

from transformers import AutoProcessor, processing_utils
from transformers.models.auto.video_processing_auto import get_video_processor_config
from transformers.models.smolvlm import processing_smolvlm
from transformers.utils import is_torchvision_available
from transformers.video_processing_utils import VideoProcessorMixin


class NoVideos(VideoProcessorMixin):
    """Stands where a processor class demands a video processor, and cannot process videos."""

    num_frames, fps = 1, 1  # SmolVLM's processor reads them in every chat

    def __init__(self, stated: dict[str, Any] | None = None):
        super().__init__()
        self.stated = {} if stated is None else stated

    @classmethod
    def from_pretrained(cls, folder: str | Path, **kwargs: Any) -> "NoVideos":
        """One that remembers what the folder (or hub id) says of its video processor."""
        kwargs.pop("_from_auto", None)
        stated = dict(get_video_processor_config(folder, **kwargs))
        if stated.pop("image_processor_type", None) is not None:
            # An old folder has one entry for pictures and videos; the model's config names the class for videos.
            stated.pop("processor_class", None)
        return cls(stated)

    def to_dict(self) -> dict[str, Any]:
        """What a saved processor says of its video processor: what it said when it was loaded."""
        return dict(self.stated)

    def preprocess(self, videos: Any, **kwargs: Any) -> Any:
        raise ValueError("videos need torchvision, which is not installed; give pictures")


def allow_no_torchvision() -> None:
    """Let processor classes do without a video processor where torchvision is absent; else nothing is changed."""
    if is_torchvision_available():
        return
    # Processors look the base class up in the package, which has it only together with torchvision.
    processing_utils.transformers_module.VideoProcessorMixin = VideoProcessorMixin
    classes = processing_utils.MODALITY_TO_AUTOPROCESSOR_MAPPING._MAPPING_NAMES
    classes["video_processor"] = (NoVideos.__module__, NoVideos.__name__)
    # SmolVLM's processor refuses to start without num2words, which it needs for the frames of a video only.
    processing_smolvlm.num2words = processing_smolvlm.num2words or str


def load_processor(folder: str | Path) -> Any:
    """The processor of a folder or hub id, by the stock Auto class."""
    allow_no_torchvision()
    return AutoProcessor.from_pretrained(folder)
