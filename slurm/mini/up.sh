#!/usr/bin/env bash
# Start a whole Slurm on this machine: slurm/mini/up.sh [accounting|bare ...]   (default: both)
#
# accounting   munge, MariaDB, slurmdbd, slurmctld and two slurmd
# bare         munge, slurmctld and two slurmd; sacct has nothing to say, as on many clusters
#
# Everything lives in $VLMABLATE_MINI (default /tmp/vlmablate-slurm). What runs already is left as it is, and what has
# died is started again.
set -euo pipefail
cd "$(dirname "$0")"
. ./common.sh

install_packages() {
  local packages="slurmctld slurmd slurm-client munge" missing="" package log policy=/usr/sbin/policy-rc.d
  [ "$PROFILE" = accounting ] && packages="$packages slurmdbd mariadb-server"
  for package in $packages; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q ' installed$' || missing="$missing $package"
  done
  [ -n "$missing" ] || return 0
  command -v apt-get > /dev/null || die "install these first:$missing (only Debian and Ubuntu are done for you)"
  echo "installing$missing"
  log=$(mktemp /tmp/vlmablate-slurm-apt.XXXXXX)
  (
    # Without this the packages start services of their own.
    if [ ! -e "$policy" ]; then
      trap 'rm -f "$policy"' EXIT
      printf '#!/bin/sh\nexit 101\n' > "$policy"
      chmod +x "$policy"
    fi
    # shellcheck disable=SC2086 # a list of words
    apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing
  ) > "$log" 2>&1 < /dev/null || {
    tail -n 20 "$log" >&2
    die "apt-get could not install$missing; its log is $log"
  }
  rm -f "$log"
}

write_slurm_conf() {
  local accounting
  if [ "$PROFILE" = accounting ]; then
    accounting="AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$DBD_PORT
AccountingStoragePass=$ROOT/munge.socket
AccountingStorageTRES=gres/gpu
AccountingStoreFlags=job_comment"
  else
    accounting="AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$ROOT/jobcomp.txt"
  fi
  awk -v accounting="$accounting" '{ if ($0 == "@ACCOUNTING@") print accounting; else print }' slurm.conf.in |
    sed -e "s|@PROFILE@|$PROFILE|g" -e "s|@ROOT@|$ROOT|g" -e "s|@CTLD_PORT@|$CTLD_PORT|" \
      -e "s|@NODE1_PORT@|$NODE1_PORT|" -e "s|@NODE2_PORT@|$NODE2_PORT|" > "$SLURM_CONF"
  # No control groups are used, but slurmd looks for the plugin, and the one of version 2 needs systemd.
  printf 'CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n' > "$ROOT/cgroup.conf"
  # Two made-up GPUs on each node: Slurm wants device files, hands out their numbers, and nothing computes on them.
  printf 'NodeName=vlm[1-2] Name=gpu File=%s\n' /dev/null /dev/zero > "$ROOT/gres.conf"
}

start_munge() {
  local key="$ROOT/munge.key"
  [ -s "$key" ] || (umask 077 && head -c 1024 /dev/urandom > "$key")
  start_daemon munged munged --foreground --force --num-threads=4 --key-file="$key" \
    --socket="$ROOT/munge.socket" --pid-file="$ROOT/munged.pid" --seed-file="$ROOT/munge.seed"
  wait_for 10 munged munge --no-input --socket="$ROOT/munge.socket"
}

start_database() {
  local socket="$ROOT/mariadb.socket" user
  user=$(id -un)
  if [ ! -e "$ROOT/data/complete" ]; then
    rm -rf "$ROOT/data" # a start that was cut short
    mkdir -p "$ROOT/data"
    mariadb-install-db --no-defaults --user="$user" --datadir="$ROOT/data" --auth-root-authentication-method=socket \
      --skip-test-db > "$ROOT/mariadb-install.log" 2>&1 < /dev/null ||
      { tail "$ROOT/mariadb-install.log" >&2; die "no database; the log is $ROOT/mariadb-install.log"; }
    touch "$ROOT/data/complete"
  fi
  # Few syncs: what a power cut could take from a test's accounting does not matter.
  start_daemon mariadb mariadbd --no-defaults --user="$user" --datadir="$ROOT/data" \
    --socket="$socket" --skip-networking --pid-file="$ROOT/mariadb.pid" --innodb-buffer-pool-size=64M \
    --innodb-lock-wait-timeout=900 --innodb-log-file-size=16M --innodb-flush-log-at-trx-commit=0
  wait_for 60 mariadb mariadb-admin --no-defaults --socket="$socket" ping
  mariadb --no-defaults --socket="$socket" -e "create database if not exists slurm_acct_db" ||
    die "MariaDB does not take a database; its log is $ROOT/mariadb.out"

  (umask 077 && cat > "$ROOT/slurmdbd.conf" << CONF
AuthType=auth/munge
AuthInfo=socket=$ROOT/munge.socket
DbdAddr=127.0.0.1
DbdHost=localhost
DbdPort=$DBD_PORT
SlurmUser=$user
PidFile=$ROOT/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageLoc=slurm_acct_db
StorageUser=$user
CONF
  )
  # slurmdbd finds its configuration beside slurm.conf, and the database's socket by this variable.
  MYSQL_UNIX_PORT="$socket" start_daemon slurmdbd slurmdbd -D
  wait_for 60 slurmdbd timeout 5 sacctmgr --noheader list cluster

  local cluster=vlmablate_accounting
  sacctmgr --noheader list association format=Account%20,User%20 cluster=$cluster user="$user" | grep -q test && return 0
  { sacctmgr --immediate --quiet add cluster $cluster || true
    sacctmgr --immediate --quiet add account test cluster=$cluster || true
    sacctmgr --immediate --quiet add user "$user" account=test cluster=$cluster || true
  } >> "$ROOT/sacctmgr.log" 2>&1
}

up() {
  local host node
  install_packages
  for host in $NODES localhost "$(uname -n)"; do
    getent ahosts "$host" > /dev/null || echo "127.0.0.1 $host" >> /etc/hosts
  done
  mkdir -p "$ROOT/state"
  start_munge
  # A running controller keeps the configuration that it started with.
  running slurmctld || write_slurm_conf
  [ "$PROFILE" = bare ] || start_database
  start_daemon slurmctld slurmctld -D -f "$SLURM_CONF"
  wait_for 30 slurmctld timeout 5 scontrol ping
  for node in $NODES; do start_node "$node"; done
  for node in $NODES; do
    # A node that was set down or drained, or whose slurmd was dead for long, comes back.
    usable "$node" || scontrol update NodeName="$node" State=RESUME > /dev/null 2>&1 || true
    wait_for 40 "slurmd-$node" usable "$node"
  done
  echo "Slurm ($PROFILE) is up; to use it:  source <(slurm/mini/env.sh $PROFILE)"
}

[ "$(uname -s)" = Linux ] || die "Slurm runs on Linux only; this is $(uname -s)"
[ "$(id -u)" = 0 ] || die "Slurm's daemons have to start as root (in a container that is usual); try sudo"
# shellcheck disable=SC2048 # names of profiles have no spaces
for profile in ${*:-$PROFILES}; do
  use_profile "$profile"
  lock
  up
done
