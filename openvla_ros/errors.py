"""The error types a user meets. A message says what was wrong, what is allowed and how to mend it."""


class OpenVLAError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigError(OpenVLAError):
    """A configuration is missing, contradictory or out of range. Names the field."""


class CheckpointError(OpenVLAError):
    """A checkpoint folder is incomplete, corrupt or of a kind that is not supported."""


class PolicyError(OpenVLAError):
    """No action could be produced from this observation. The arm must hold."""


class KinematicsError(OpenVLAError):
    """A target pose has no joint solution within limits. The arm must hold."""


class RecordingError(OpenVLAError):
    """An episode can't be written or read. What controls the arm is not affected."""


class ReplayError(OpenVLAError):
    """A recorded episode can't be replayed here, or must not be. Nothing was sent, or nothing more."""


class TrainingError(OpenVLAError):
    """A training can't start, or can't go on. What it has saved so far is whole."""
