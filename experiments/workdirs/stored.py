"""JSON files of runs, read with a clear error if they are not what was written."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read(path: Path, fields: Mapping[str, type]) -> dict[str, Any]:
    """Read a file that has an object.

    Args:
      path: of the file.
      fields: that it must have, with their types.

    Returns:
      The object.

    Raises:
      FileNotFoundError: if it does not exist.
      ValueError: if it is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is no object")
        missing = [name for name, of in fields.items() if not isinstance(content.get(name), of)]
        if missing:
            raise ValueError(f"it lacks {', '.join(missing)}")
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); restore it from a backup, or begin again in another "
            "folder"
        ) from error
    return content
