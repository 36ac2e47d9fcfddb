#!/usr/bin/env bash
# A real Slurm on one machine, to test job scripts with: as root, without systemd.
#
#   apt-get install -y --no-install-recommends slurm-wlm munge    # Debian, Ubuntu
#   eval "$(jobs/slurm-local.sh start)"    # starts it and sets SLURM_CONF
#   sbatch jobs/slurm.sbatch response --smoke
#   jobs/slurm-local.sh stop
#
# Both may be said twice. SLURM_LOCAL_DIR is where it keeps configuration, state and logs.
set -euo pipefail

dir=${SLURM_LOCAL_DIR:-${TMPDIR:-/tmp}/slurm-local}
host=$(hostname -s)
export SLURM_CONF=$dir/slurm.conf

fail() {
    echo "slurm-local: $*" >&2
    exit 1
}

configure() {
    mkdir -p "$dir"/{state,spool,log}
    # Two partitions on one node, so that a job in `urgent` preempts one in `debug`. The
    # node claims more CPUs than there may be: tests of job scripts mostly wait.
    cat >"$SLURM_CONF" <<CONF
ClusterName=local
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job waits until the credential of its last run has expired, and a second
# more: by default 121 s. Only a test cluster is idle enough for so short a time.
AuthInfo=cred_expire=5
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
KillWait=5
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
# look for what can start every second, not every minute
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=$host NodeAddr=127.0.0.1 CPUs=16 State=UNKNOWN
PartitionName=debug Nodes=$host Default=YES State=UP PriorityTier=1 GraceTime=10
PartitionName=urgent Nodes=$host State=UP PriorityTier=2
CONF
}

start_munge() {
    if munge -n </dev/null 2>/dev/null | unmunge >/dev/null 2>&1; then
        return # runs already, and may be another's
    fi
    mkdir -p /run/munge /var/log/munge /var/lib/munge
    if ! [ -s /etc/munge/munge.key ]; then
        dd if=/dev/urandom of=/etc/munge/munge.key bs=1024 count=1 status=none
    fi
    chown -R munge: /etc/munge /run/munge /var/log/munge /var/lib/munge
    chmod 400 /etc/munge/munge.key
    chmod 755 /run/munge
    su -s /bin/sh munge -c "$(command -v munged)" >&2
    touch "$dir/munge-is-ours"
}

idle() {
    timeout 5 sinfo --noheader --format=%T 2>/dev/null | grep -qE '^(idle|mixed|alloc)'
}

# Not kill -0 alone: a stale file may name another's process, and zombies answer.
alive() {
    local pid
    pid=$(cat "$dir/$1.pid" 2>/dev/null) || return 1
    [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$1" ] &&
        ! grep -q '^State:.Z' "/proc/$pid/status"
}

start() {
    [ "$(id -u)" = 0 ] || fail "must run as root"
    for tool in slurmctld slurmd munged; do
        command -v "$tool" >/dev/null ||
            fail "no $tool: apt-get install -y --no-install-recommends slurm-wlm munge"
    done
    if ! alive slurmctld || ! alive slurmd; then
        configure
    fi
    start_munge
    alive slurmctld || slurmctld -f "$SLURM_CONF" >&2
    alive slurmd || slurmd -f "$SLURM_CONF" >&2
    for _ in $(seq 60); do
        if idle; then
            echo "export SLURM_CONF=$SLURM_CONF"
            return
        fi
        sleep 0.5
    done
    tail -n 20 "$dir"/log/*.log >&2
    fail "no node answers after 30 s; the logs are in $dir/log"
}

stop() {
    [ -f "$SLURM_CONF" ] || return 0
    timeout 5 scancel --user=root 2>/dev/null || true
    for _ in $(seq 40); do # until KillWait is over, so that no task is left behind
        [ -n "$(timeout 5 squeue --noheader 2>/dev/null)" ] || break
        sleep 0.25
    done
    for daemon in slurmd slurmctld; do
        alive "$daemon" || continue
        kill "$(cat "$dir/$daemon.pid")"
        for _ in $(seq 40); do
            alive "$daemon" || break
            sleep 0.25
        done
    done
    if [ -f "$dir/munge-is-ours" ]; then
        kill "$(cat /run/munge/munged.pid)" 2>/dev/null || true
    fi
    rm -rf "$dir"
}

case ${1:-} in
    start) start ;;
    stop) stop ;;
    *) fail "usage: $0 start | stop" ;;
esac
