"""Many episodes' last moments in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from openvla_ros.errors import OpenVLAError
from openvla_ros.experiments.rollout import RolloutResult
from openvla_ros.images import RGB

_MOST = 60  # pictures
_COLUMNS = 6
_BORDER, _TEXT = 4, 18  # [px]
_COLOURS = {True: (40, 160, 60), False: (200, 45, 45), None: (120, 120, 120)}


def write_grid(episodes: Sequence[tuple[RGB, RolloutResult]], path: Path) -> None:
    """The first 60 pictures (H, W, 3) uint8: framed green for a success, red for a failure, grey where not judged.

    Raises OpenVLAError if the file can't be written.
    """
    tiles = [_tile(picture, outcome) for picture, outcome in episodes[:_MOST]]
    columns = min(_COLUMNS, len(tiles))
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
    if not cv2.imwrite(str(path), cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR)):
        raise OpenVLAError(f"{path} can't be written")


def _tile(picture: RGB, outcome: RolloutResult) -> RGB:
    colour = _COLOURS[outcome.success]
    tile = cv2.copyMakeBorder(
        picture, _TEXT + _BORDER, _BORDER, _BORDER, _BORDER, cv2.BORDER_CONSTANT, value=[float(c) for c in colour]
    )
    others = f" ({', '.join(sorted(outcome.others))}!)" if outcome.others else ""
    text = f"{outcome.seed}: {outcome.instruction}{others}"
    white = (255, 255, 255)
    cv2.putText(tile, text, (_BORDER + 2, _TEXT - 3), cv2.FONT_HERSHEY_SIMPLEX, 0.36, white, 1, cv2.LINE_AA)
    return np.asarray(tile, dtype=np.uint8)
