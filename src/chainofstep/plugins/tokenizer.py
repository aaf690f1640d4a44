"""A tokenizer whose step tokens are ordinary ones: they stay in texts that are decoded without special tokens.

Ids and texts are the same; only who leaves special tokens out (verl's reward managers, many servers) sees them now.
"""

import json
from pathlib import Path
from shutil import copyfile
from typing import Any

from chainofstep.chain import ALL_TOKENS
from chainofstep.store import read_json, write_json

#: Where tokenizers of transformers 4 and 5 name their special tokens beside those with a role.
LISTS = ("additional_special_tokens", "extra_special_tokens")


def keep_step_tokens(model: str | Path, out: str | Path) -> Path:
    """Write the tokenizer of the folder `model`, and whatever else is no weights, to `out`, with ordinary step tokens.

    ValueError for a folder without tokenizer.json, or whose tokenizer lacks the step tokens.
    """
    source, target = Path(model), Path(out)
    if not (source / "tokenizer.json").exists():
        raise ValueError(f"{source} has no tokenizer.json: give the folder that training wrote")
    if target.resolve() == source.resolve():
        raise ValueError(f"{target} is the model's own folder: choose another")
    tokenizer = read_json(source / "tokenizer.json")
    step_tokens = [token for token in tokenizer["added_tokens"] if token["content"] in ALL_TOKENS]
    if not step_tokens:
        raise ValueError(f"{source}: its tokenizer has no step tokens: train the model first, or call add_step_tokens")
    for token in step_tokens:
        token["special"] = False
    target.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if file.suffix in (".json", ".jinja", ".txt", ".model") and not file.name.endswith(".index.json"):
            copyfile(file, target / file.name)
    write_json(target / "tokenizer.json", tokenizer)
    settings = target / "tokenizer_config.json"
    if settings.exists():
        write_json(settings, _ordinary(json.loads(settings.read_text("utf-8"))))
    (target / "special_tokens_map.json").unlink(missing_ok=True)  # says the same as the settings
    return target


def _ordinary(settings: dict[str, Any]) -> dict[str, Any]:
    for name in LISTS:
        if isinstance(settings.get(name), list):
            settings[name] = [token for token in settings[name] if _content(token) not in ALL_TOKENS]
    for token in settings.get("added_tokens_decoder", {}).values():
        token["special"] = token["special"] and token["content"] not in ALL_TOKENS
    return settings


def _content(token: Any) -> str:
    return str(token["content"] if isinstance(token, dict) else token)
