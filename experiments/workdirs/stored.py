"""JSON files of runs, read with a clear error if they are not what was written."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def read(path: Path, fields: Sequence[str] = ()) -> dict[str, Any]:
    """Read a file that has an object.

    Args:
      path: of the file.
      fields: that it must have.

    Returns:
      The object.

    Raises:
      FileNotFoundError: if it does not exist.
      ValueError: if it is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        missing = [name for name in fields if name not in content]
        if not isinstance(content, dict) or missing:
            raise ValueError(f"it lacks {', '.join(missing)}" if missing else "it is no object")
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); restore it from a backup, or begin again in another "
            "folder"
        ) from error
    return content
