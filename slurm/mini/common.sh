# shellcheck shell=bash disable=SC2034 # what is set here is read by the scripts that source it
# Shared by the scripts of this folder: where a profile lives, and how its processes are told apart from others.

PROFILES="accounting bare"
NODES="vlm1 vlm2"
BASE="${VLMABLATE_MINI:-/tmp/vlmablate-slurm}"

die() {
  echo "slurm/mini: $*" >&2
  exit 1
}

use_profile() { # NAME
  PROFILE="${1:-accounting}"
  # Ports far from Slurm's own, so that a real Slurm on this machine is not disturbed.
  local first="${VLMABLATE_MINI_PORT:-26800}"
  case "$PROFILE" in
    accounting) ;;
    bare) first=$((first + 10)) ;;
    *) die "unknown profile '$PROFILE'; there are: $PROFILES" ;;
  esac
  ROOT="$BASE/$PROFILE"
  CTLD_PORT=$first NODE1_PORT=$((first + 1)) NODE2_PORT=$((first + 2)) DBD_PORT=$((first + 3))
  export SLURM_CONF="$ROOT/slurm.conf"
}

# One change of a profile at a time: whoever comes second waits until the first is through.
lock() {
  mkdir -p "$BASE"
  exec 9> "$BASE/lock-$PROFILE"
  flock --wait 180 9 || die "another up.sh or down.sh of the profile $PROFILE has been at work for 3 minutes"
}

started_at() { # PID -> its start time; nothing when it has ended, reaped or not
  local stat
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 0
  # The command's name, in parentheses, may hold spaces.
  read -ra stat <<< "${stat##*) }"
  [ "${stat[0]}" = Z ] || echo "${stat[19]}"
}

# A process is ours when its id and its start time are those that were noted: ids are used again.
running() { # NAME
  local pid start
  { read -r pid start _ < "$ROOT/run-$1"; } 2>/dev/null || return 1
  [ -n "$start" ] && [ "$(started_at "$pid")" = "$start" ]
}

signal() { # NAME SIGNAL
  local pid
  running "$1" || return 0
  read -r pid _ < "$ROOT/run-$1"
  kill -s "$2" "$pid" 2>/dev/null || true
}

gone() { ! running "$1"; }

stop() { # NAME ...: all at once, by force when they do not listen
  local name
  for name in "$@"; do signal "$name" TERM; done
  for name in "$@"; do
    within 10 gone "$name" || signal "$name" KILL
    within 5 gone "$name" || die "$name (process $(cut -d' ' -f1 "$ROOT/run-$name")) does not end"
    rm -f "$ROOT/run-$name"
  done
}

within() { # SECONDS COMMAND...: try until it succeeds; fails when it did not in that time
  local end=$((SECONDS + $1))
  shift
  until "$@" > /dev/null 2>&1; do
    [ "$SECONDS" -lt "$end" ] || return 1
    sleep 0.05
  done
}

wait_for() { # SECONDS DAEMON COMMAND...: until the command succeeds; with the last words of both when it never does
  local end=$((SECONDS + $1)) name=$2 log="$ROOT/$2.out" why="" said
  shift 2
  until said=$("$@" 2>&1); do
    if ! running "$name"; then why="$name ended"; fi
    if [ "$SECONDS" -ge "$end" ]; then why="waited in vain for $name"; fi
    if [ -n "$why" ]; then
      echo "--- the end of $log" >&2
      tail -n 20 "$log" >&2
      [ -z "$said" ] || printf -- '--- %s\n%s\n' "$*" "$said" >&2
      die "$why; its log is $log"
    fi
    sleep 0.05
  done
}

start_daemon() { # NAME COMMAND...: in the foreground of a session of its own, so that its process id is known
  local name=$1
  shift
  running "$name" && return 0
  local now
  now=$(date +%s)
  setsid "$@" >> "$ROOT/$name.out" 2>&1 < /dev/null 9>&- &
  echo "$! $(started_at $!) $now" > "$ROOT/run-$name"
}

start_node() { # NAME
  mkdir -p "$ROOT/spool-$1"
  # Slurm tells start times in whole seconds: a node's second life must not begin in the second of its first one.
  while running slurmctld && ! running "slurmd-$1" && [ "$(registered "$1" || echo 0)" -ge "$(date +%s)" ]; do sleep 0.1; done
  start_daemon "slurmd-$1" slurmd -D -f "$SLURM_CONF" -N "$1"
}

registered() { # NODE: seconds since 1970 of the start of the slurmd that slurmctld knows
  local shown
  shown=$(timeout 5 scontrol show node "$1" 2> /dev/null | grep -o 'SlurmdStartTime=[-0-9T:]*') || return 1
  date -d "${shown#*=}" +%s
}

usable() { # NODE: it can take jobs (or has some), as far as slurmctld knows since its slurmd was last started
  local noted
  read -r _ _ noted < "$ROOT/run-slurmd-$1"
  [ "$(registered "$1" || echo 0)" -ge "$noted" ] || return 1
  timeout 5 sinfo --noheader --Node --partition=main --nodes="$1" --format=%T |
    grep -qxE 'idle|mixed|allocated|completing'
}
