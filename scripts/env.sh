# Sourced by the other scripts: which ROS, and where its environment and its build folder are.
#   ROS   jazzy (default) or kilted: ROS 2 from PyPI. Where a ROS is sourced already, that one is used.
#   VENV  the virtual environment: .venv, or .venv-kilted
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

die() {
  printf 'openvla_ros: %s\n' "$*" >&2
  exit 1
}

source_setup() { # the setup files read variables that may be unset
  set +u
  # shellcheck disable=SC1090
  source "$1"
  set -u
}

sourced_ros() { # prefix of the ROS that this shell has sourced, unless it is an environment of this tree
  local prefix
  while IFS= read -rd: prefix; do
    if [[ $prefix != "$root"/.venv* && -f $prefix/share/rclpy/package.xml ]]; then
      printf '%s' "$prefix"
      return
    fi
  done <<<"${AMENT_PREFIX_PATH:-}:"
}

# The ROS wheels of another environment set this; inherited, it keeps ours from finding their own libraries.
unset _ROS_WHEELS_BOOTSTRAP_COMPLETE

system_ros=$(sourced_ros)
if [[ ! ${VENV:-} ]]; then
  VENV=.venv
  [[ $system_ros || ${ROS:-jazzy} == jazzy ]] || VENV=.venv-$ROS
fi
[[ $VENV == /* ]] || VENV=$root/$VENV

made_for=$(cat "$VENV/.openvla_ros/ros" 2>/dev/null || true)
if [[ ! $system_ros && $made_for == /* && -f $made_for/setup.bash ]]; then # on a ROS that this shell has not sourced
  source_setup "$made_for/setup.bash"
  system_ros=$made_for
fi

if [[ $system_ros ]]; then
  ros=${ROS_DISTRO:-sourced}
  [[ ${ROS:-$ros} == "$ros" ]] || die "ROS=$ROS means ROS from PyPI, but $ros of $system_ros is sourced: use a shell without it"
else
  ros=${ROS:-jazzy}
  [[ -f $root/scripts/ros-$ros.txt ]] || die "ROS=$ros is unknown: take jazzy or kilted, or source another one's setup.bash"
fi
