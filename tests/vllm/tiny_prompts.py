"""Prompts that leave the tiny model a choice among whole answers, as it has nothing to say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def choice_prompt(path: Path, user: str, key: str, answers: Sequence[Any]) -> Path:
    """Write a prompt file whose answer has one key, with one of the given values; return it.

    Prompt files are the user's to write, and the schema goes through the real server: only how
    many answers are possible differs from production, and with it the number of tokens.
    """
    schema = {
        "type": "object",
        "properties": {key: {"enum": list(answers)}},
        "required": [key],
        "additionalProperties": False,
    }
    head = f'id = "{path.stem}"\nversion = 1\nuser = {json.dumps(user)}\n'
    path.write_text(f"{head}schema = '''{json.dumps(schema)}'''\n", encoding="utf-8")
    return path
