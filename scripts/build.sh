#!/usr/bin/env bash
# Everything from a bare checkout to installed executables in $VENV. Each step is skipped when its result is there, and
# can be interrupted at any point. Settings: env.sh, and
#   PYTHON           the interpreter, python3
#   TORCH_INDEX_URL  one more package index, for a CPU or CUDA build of PyTorch
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$root"

PYTHON=${PYTHON:-python3}
extras=(sim record lerobot train test dev)
build=build/$(basename "$VENV" | tr -d .) # its CMake cache names the environment
state=$VENV/.openvla_ros # what is in the environment, one small file per step
log=$root/log/build.log

main() {
  [[ $VENV != *[[:space:]]* ]] || die "neither ROS nor Python scripts work in a path with a space: move this folder, $root"
  trap 'printf "\ninterrupted: the same command goes on from here\n" >&2; exit 130' INT
  mkdir -p log
  exec 9>log/build.lock
  flock -n 9 || { printf 'waiting for another build in this folder\n'; flock 9; }
  check_python
  install_debian_packages
  environment_is_ours || step "Virtual environment ${VENV#"$root"/}" create_environment
  check_ros

  local wanted
  wanted=$(packages_wanted)
  if [[ $wanted != "$(recorded packages)" ]]; then
    step "Python packages, ROS 2 ${ros^} (the slowest step)" install_python_packages
    printf '%s' "$wanted" >"$state/packages"
    rm -f "$state/package"
  fi
  wanted=$(package_wanted)
  if [[ $wanted != "$(recorded package)" ]]; then
    step "colcon build" build_package
    printf '%s' "$wanted" >"$state/package"
  fi
}

step() { # step TITLE COMMAND...: its output goes to the log; the screen shows the last line of it, then the time taken
  local title=$1 start=$SECONDS ticker='' status
  shift
  : >"$log"
  printf '%-50s' "$title"
  if [[ -t 1 ]]; then
    show_progress "$title" &
    ticker=$!
    trap 'kill "$ticker" 2>/dev/null' EXIT
  fi
  # In a subshell, so that errexit holds inside the command.
  set +e
  (set -e; "$@") >>"$log" 2>&1
  status=$?
  set -e
  if [[ $ticker ]]; then
    kill "$ticker" && wait "$ticker" 2>/dev/null || true
    trap - EXIT
    printf '\r\e[K%-50s' "$title"
  fi
  if [[ $status -ne 0 ]]; then
    printf 'failed\n'
    tail -n 30 "$log" >&2
    die "\"$title\" failed; its whole output is in ${log#"$root"/}"
  fi
  printf '%4d s\n' $((SECONDS - start))
}

show_progress() {
  while sleep 0.5 && kill -0 $$ 2>/dev/null; do
    printf '\r\e[K%-50s%4d s  %.50s\r' "$1" $((SECONDS - start)) "$(grep -v '^ ' "$log" | tail -n 1 | tr -d '\r')"
  done
}

recorded() { cat "$state/$1" 2>/dev/null || true; }

hash_of() { sha256sum | cut -d ' ' -f 1; }

check_python() {
  "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    die "Python 3.10 or newer is needed, $PYTHON is not: name another one with PYTHON=/path/to/python3"
}

# --- Debian packages -------------------------------------------------------------------------------------------------

missing_build_tools() {
  command -v cmake >/dev/null || echo cmake
  command -v c++ >/dev/null || echo g++
  command -v make >/dev/null || echo make
  "$PYTHON" -c 'import ensurepip' 2>/dev/null || echo python3-venv
  [[ -f $("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h ]] || echo python3-dev
}

missing_rendering() { # MuJoCo draws camera images through these, also without screen and GPU
  local package
  command -v dpkg-query >/dev/null || return 0
  for package in libegl1 libegl-mesa0 libgl1-mesa-dri; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || echo "$package"
  done
}

install_debian_packages() {
  local tools rendering sudo=()
  mapfile -t tools < <(missing_build_tools)
  mapfile -t rendering < <(missing_rendering)
  [[ ${#tools[@]} -gt 0 || ${#rendering[@]} -gt 0 ]] || return 0

  local names="${tools[*]} ${rendering[*]}"
  if command -v apt-get >/dev/null; then
    [[ $EUID -eq 0 ]] || sudo=(sudo -n)
    if [[ $EUID -eq 0 ]] || sudo -n true 2>/dev/null; then
      # shellcheck disable=SC2086
      (step "Debian packages: ${names# }" apt_install "${sudo[@]}" -- $names) && return 0
    fi
  fi
  printf 'These packages are missing and could not be installed here. Run:\n\n    %s\n\n' \
    "sudo apt-get update && sudo apt-get install -y ${names# }" >&2
  [[ ${#tools[@]} -eq 0 ]] || die "nothing can be built without: ${tools[*]}"
  printf 'Going on without: the simulated camera cannot draw until then.\n\n' >&2
}

apt_install() { # apt_install [sudo -n] -- PACKAGE...
  local as=()
  while [[ $1 != -- ]]; do as+=("$1"); shift; done
  shift
  "${as[@]}" apt-get update
  "${as[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=120 "$@"
}

# --- Python packages -------------------------------------------------------------------------------------------------

environment_is_ours() { # complete, and made at this path: the scripts of one that was copied or moved name the old path
  "$VENV/bin/python" -c 'import pip' 2>/dev/null && grep -qF "$VENV/bin/python" "$VENV/bin/pip"
}

create_environment() {
  rm -rf "$build"
  "$PYTHON" -m venv --clear "$VENV"
}

check_ros() { # one environment is for one ROS
  local wanted=${system_ros:-$ros from PyPI}
  touch "$VENV/COLCON_IGNORE"
  mkdir -p "$state"
  [[ -e $state/ros ]] || printf '%s' "$wanted" >"$state/ros"
  [[ $(recorded ros) == "$wanted" ]] ||
    die "$VENV was made for $(recorded ros), not for $wanted: choose another with VENV=.venv-$ros, or remove it"
}

requirements() {
  if [[ $system_ros ]]; then
    command -v colcon >/dev/null || printf 'colcon-common-extensions\ncolcon-ros\n'
  else
    cat "scripts/ros-$ros.txt"
  fi
  "$VENV/bin/python" scripts/requirements.py "${extras[@]}"
}

constraints() {
  cat scripts/constraints.txt
  # A compiled cv_bridge works with the major version of numpy that it was built for.
  [[ ! -d $system_ros/share/cv_bridge ]] ||
    "$PYTHON" -c 'import numpy; print(f"numpy<{int(numpy.__version__.split(chr(46))[0]) + 1}")'
}

packages_wanted() {
  { requirements; constraints; "$VENV/bin/python" --version; } | hash_of
}

see_system_packages() { # see_system_packages true|false
  sed -i "s/^include-system-site-packages = .*/include-system-site-packages = $1/" "$VENV/pyvenv.cfg"
}

install_python_packages() {
  requirements >"$state/requirements.txt"
  constraints >"$state/constraints.txt"
  # pip must not find the system's packages good enough: their commands, such as pytest, run on the system's Python.
  see_system_packages false
  local pip=(env -u PYTHONPATH "$VENV/bin/python" -m pip install --disable-pip-version-check --progress-bar off)
  "${pip[@]}" --upgrade 'pip>=25' # resolves in half the time of the one that comes with Python 3.11
  "${pip[@]}" --no-compile ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} \
    -r "$state/requirements.txt" -c "$state/constraints.txt"
  # On all cores, which pip cannot. Files for newer Pythons among the packages fail, without harm.
  "$VENV/bin/python" -m compileall -q -j 0 "$VENV"/lib/python*/site-packages >/dev/null || true
  if [[ $system_ros ]]; then
    see_system_packages true
    "$VENV/bin/python" -c 'import rclpy' || die "$PYTHON cannot import rclpy of $system_ros: name that ROS's interpreter, PYTHON=/usr/bin/python3"
  else
    "$VENV/bin/python" scripts/patch_cmake_exports.py
  fi
}

# --- This package ----------------------------------------------------------------------------------------------------

package_wanted() { # Python files are linked, so that only their names matter
  {
    find openvla_ros config launch resource -name __pycache__ -prune -o -type f -print | sort
    find msg srv action -type f -exec cat {} + 2>/dev/null || true
    cat CMakeLists.txt package.xml scripts/executable.in scripts/build.sh
  } | hash_of
}

build_package() {
  if [[ ! $system_ros ]]; then
    export AMENT_PREFIX_PATH=$VENV CMAKE_PREFIX_PATH=$VENV
    unset PYTHONPATH
  fi
  find "$VENV"/lib/python*/site-packages/openvla_ros "$VENV"/{lib,share}/openvla_ros -xtype l -delete 2>/dev/null || true
  PATH=$VENV/bin:$PATH colcon --log-base log build --base-paths . --build-base "$build" --merge-install \
    --install-base "$VENV" --symlink-install --event-handlers console_direct+ \
    --cmake-args "-DPython3_EXECUTABLE=$VENV/bin/python" -DCMAKE_BUILD_TYPE=Release --no-warn-unused-cli
  [[ ! $system_ros ]] || write_sourcing_command
}

write_sourcing_command() { # ROS from PyPI finds itself; any other ROS has to be sourced before openvla-ros can run
  rm -f "$VENV/bin/openvla-ros" # a link to the one that was built
  cat >"$VENV/bin/openvla-ros" <<END
#!/usr/bin/env bash
VENV=$VENV exec $root/scripts/run.sh $root/$build/openvla_ros/executables/openvla-ros "\$@"
END
  chmod +x "$VENV/bin/openvla-ros"
}

main
