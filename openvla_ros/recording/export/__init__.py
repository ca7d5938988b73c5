"""Episodes as datasets that others train on, and back. A format is one module here and one line in FORMATS."""

# Name -> module with `write(folder, name, manifest, trajectories) -> the dataset's folder` and
# `read(dataset, manifest) -> trajectories`.
FORMATS = {
    "lerobot": "openvla_ros.recording.export.lerobot",
    "rlds": "openvla_ros.recording.export.rlds",
}
