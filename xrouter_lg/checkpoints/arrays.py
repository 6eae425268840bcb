"""Arrays of a checkpoint as they lie in a safetensors file, checked before anything uses them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from xrouter_lg.checkpoints.manifest import CheckpointError
from xrouter_lg.extras import need

Axes = Mapping[str, str]
"""The axes of an array by its name, a letter or a number each: ``{"weight_F_P": "FP"}``. A letter
has the same size wherever it stands. A name with a ``#`` in front of its axes holds integers."""


def read_arrays(
    path: Path,
    axes: Axes,
    sizes: Mapping[str, int],
    *,
    optional: Sequence[Collection[str]] = (),
    purpose: str,
) -> dict[str, Any]:
    """The arrays of a file. ``sizes`` are those that the manifest tells; ``optional`` are
    groups that come all together or not at all. The file's own size bounds the memory.

    Raises:
        CheckpointError: no such file, a header that is none or that lies, an array that is missing,
            of another type or shape, or that holds a number that is not finite.
        MissingExtraError: safetensors or numpy is not installed.
    """
    np = need("numpy", purpose)  # safetensors' own error would not name the extra
    load = need("safetensors.numpy", purpose).load_file
    where = f"{str(path)!r}"
    try:
        arrays: dict[str, Any] = load(path)
    except Exception as error:  # the library raises errors of its own for each kind of damage
        raise CheckpointError(
            f"{where} can't be read: {error}; copy the checkpoint again"
        ) from error
    wanted = set(axes)
    for group in optional:
        if not set(group) & set(arrays):
            wanted -= set(group)
    if missing := sorted(wanted - set(arrays)):
        raise CheckpointError(f"{where} lacks {', '.join(missing)}; fit it again")
    known = dict(sizes)
    for name in sorted(wanted):
        array, shape = arrays[name], axes[name].removeprefix("#")
        whole = axes[name].startswith("#")
        if array.dtype.kind not in ("iu" if whole else "f"):
            kind = "integers" if whole else "floating-point numbers"
            raise CheckpointError(f"{where}: {name} holds {array.dtype}, not {kind}")
        expected = [int(axis) if axis.isdigit() else known.get(axis) for axis in shape]
        if array.ndim != len(shape) or any(
            size is not None and size != found
            for size, found in zip(expected, array.shape, strict=True)
        ):
            raise CheckpointError(
                f"{where}: {name} is of shape {list(array.shape)}, not "
                f"{['?' if size is None else size for size in expected]} ({shape})"
            )
        known.update(zip(shape, array.shape, strict=True))
        if not whole and not np.isfinite(array).all():
            raise CheckpointError(f"{where}: {name} holds what is no finite number; fit it again")
    return arrays
