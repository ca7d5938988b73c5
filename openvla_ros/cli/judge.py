"""Says how a recorded episode ended: what a person sees in the video. Replaces an earlier judgement."""

from __future__ import annotations

import argparse

HELP = "say how a recorded episode ended"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("episode", help="folder of the episode, or its name in the recorder's folder")
    parser.add_argument("outcome", choices=("success", "failure", "aborted", "unknown"))
    parser.add_argument("--score", type=float, help="0 to 1 (default: 1 for a success, 0 for a failure)")
    parser.add_argument(
        "--reason",
        choices=("perception_miss", "wrong_object", "bad_grasp", "safety_stop", "sequencing", "other"),
        help="why it failed",
    )
    parser.add_argument("--detail", default="", help="more about it, in words")


def run(args: argparse.Namespace) -> int:
    from openvla_ros.cli._episodes import episode_folder
    from openvla_ros.errors import RecordingError
    from openvla_ros.recording.episode import load_provenance
    from openvla_ros.recording.provenance import EpisodeOutcome, FailureReason

    folder = episode_folder(args.episode)
    reason = FailureReason(args.reason) if args.reason else None
    about = load_provenance(folder).judge(EpisodeOutcome(args.outcome), args.score, reason, args.detail)
    try:
        about.save(folder)
    except OSError as error:
        raise RecordingError(f"{folder} can't be written: {error.strerror or error}") from None
    return 0
