"""The README of a trained model, with the front matter that the hub reads; and the way to the hub."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from httpx2 import HTTPError
from huggingface_hub import HfApi, ModelCardData, metadata_load
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from chainofstep.models.vlm import VLM
from chainofstep.store import write_text
from chainofstep.training.checkpoints import FINISHED
from chainofstep.training.common import TrainConfig
from chainofstep.training.distributed import processes

PACKAGES = ("chainofstep", "transformers", "accelerate", "peft", "torch")
KINDS = {"SFT": "sft", "PRM": "process-reward-model", "DPO": "dpo", "GRPO": "grpo"}


def write_card(
    vlm: VLM, out: Path, title: str, config: TrainConfig, history: Sequence[Mapping[str, Any]], left_out: int
) -> Path:
    """Write `out/README.md`: what the model was made from and how, and how to load it. No date: a second run of the
    same training gives the same bytes."""
    base, known = base_of(vlm)
    front = ModelCardData(
        base_model=base or None,
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        license=known.get("license"),
        tags=["chain-of-step", KINDS.get(title, title.lower()), *(["lora"] if config.lora.rank else [])],
    )
    updates = [entry for entry in history if "loss" in entry]
    text = f"""---
{front.to_yaml()}
---

# {out.name}

A vision-language model trained by chainofstep: {title}, starting from
{base or "a model without a public name"}.
License: {known.get("license") or "not stated"}.

## Training

{len(updates)} updates of {config.batch_size} rows on {processes()} process(es), {left_out} rows left out as too long.

{_losses(updates)}

```json
{json.dumps(asdict(config), indent=2)}
```

{_versions()}

## Loading

```python
from chainofstep.models.vlm import load_vlm

vlm = load_vlm("{out.name}")
```

`AutoModelForImageTextToText.from_pretrained` and `AutoProcessor.from_pretrained` load it too. Keep special tokens when
decoding: the steps are written with them.{ADAPTER if config.lora.rank else ""}
"""
    return write_text(out / "README.md", text)


ADAPTER = """
`adapter/` holds the LoRA by itself, for peft. The weights beside it have it merged already."""


def base_of(vlm: VLM) -> tuple[str, dict[str, Any]]:
    """The hub id of the model that this one was trained from, "" if it has none, and what its README's head says.

    Of a folder on this disk only its own README tells, so that no path of this machine gets into a card.
    """
    name = str(getattr(vlm.model, "name_or_path", "") or vlm.model.config._name_or_path)
    if name and not name.startswith((".", "/")) and not Path(name).is_dir():
        return name, {}
    readme = Path(name) / "README.md"
    known = (metadata_load(readme) if readme.is_file() else None) or {}
    base = known.get("base_model") or ""
    return (base if isinstance(base, str) else str(base[0])), known


def _losses(updates: Sequence[Mapping[str, Any]]) -> str:
    """The first and last update's figures as a table."""
    if not updates:
        return ""
    names = [name for name in updates[-1] if name not in ("epoch", "step", "learning_rate")]
    rows = [f"| {name} | {updates[0].get(name, 0):.4f} | {updates[-1][name]:.4f} |" for name in names]
    return "\n".join(["| | first update | last update |", "|---|---|---|", *rows])


def _versions() -> str:
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return f"Made with Python {platform.python_version()}, {', '.join(found)}."


def push(folder: str | Path, repo_id: str, private: bool = True) -> str:
    """Upload a trained folder to the hub, without checkpoints; the address of the commit.

    ValueError if the folder holds no finished model or the hub refuses.
    """
    folder = Path(folder)
    for name in ("config.json", "README.md"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} has no {name}: give a folder that training wrote and finished")
    api = HfApi()
    ignored = ["checkpoints/**", "features/**", "runs/**", "*.pt", FINISHED]
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repo_id, folder_path=folder, ignore_patterns=ignored))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ValueError(f"{repo_id}: {_reason(error)}; log in with `hf auth login` and check the name") from error
    except HTTPError as error:
        raise ValueError(f"{repo_id}: the hub cannot be reached ({_reason(error)}); check the network") from error


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
