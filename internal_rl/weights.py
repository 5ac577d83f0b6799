"""Parameters that ship with the package: a ``.safetensors`` file, and a ``.json`` beside it that vouches for it."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save


class WeightsError(RuntimeError):
    """A file of parameters that cannot be used, worded as one sentence."""


def write(path: Path, tree: Any, about: dict[str, Any]) -> None:
    """Writes a tree of arrays to ``path`` and ``about`` beside it, with the file's sha256.

    Args:
      path: ends in ``.safetensors``.
      tree: of arrays.
      about: JSON.
    """
    flat = {jax.tree_util.keystr(at): np.asarray(x) for at, x in jax.tree_util.tree_leaves_with_path(tree)}
    content = save(flat)
    for file, data in (
        (path, content),
        (
            path.with_suffix(".json"),
            (json.dumps({"sha256": hashlib.sha256(content).hexdigest()} | about, indent=2) + "\n").encode(),
        ),
    ):
        temporary = file.with_name(file.name + ".tmp")
        temporary.write_bytes(data)
        os.replace(temporary, file)


def read(path: Path, like: Any) -> tuple[Any, dict[str, Any]]:
    """The tree at ``path`` and what is known about it.

    Args:
      path: ends in ``.safetensors``.
      like: a tree of arrays, or of their shapes and dtypes, that the file must match.

    Raises:
      WeightsError: for files that are missing, damaged or of another shape.
    """
    try:
        content, about = path.read_bytes(), json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        flat = load(content) if hashlib.sha256(content).hexdigest() == about["sha256"] else None
    except FileNotFoundError as error:
        raise WeightsError(f"{error.filename} does not exist.") from None
    except (ValueError, KeyError, TypeError, SafetensorError):
        flat = None
    if flat is None:
        raise WeightsError(f"{path} is damaged: it does not match the sha256 in {path.stem}.json.")
    wanted, structure = jax.tree_util.tree_flatten_with_path(like)
    names = [jax.tree_util.keystr(at) for at, _ in wanted]
    for name, (_, leaf) in zip(names, wanted, strict=True):
        found = flat.get(name)
        if found is None or found.shape != leaf.shape or found.dtype != leaf.dtype:
            shown = "nothing" if found is None else f"{found.dtype}{list(found.shape)}"
            raise WeightsError(f"{path} has {shown} for {name}; expected {leaf.dtype}{list(leaf.shape)}.")
    if len(flat) != len(names):
        raise WeightsError(f"{path} has {sorted(flat.keys() - set(names))[0]}; expected nothing of this name.")
    return jax.tree.unflatten(structure, [flat[name] for name in names]), about
