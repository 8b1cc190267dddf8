#!/usr/bin/env bash
# A real SLURM of two nodes on one Linux machine, for the tests of submission.
# A node is a network namespace with an address of its own (10.77.0.1, 10.77.0.2), a hostname (n1, n2),
# a process table and a /scratch, and runs a real slurmd; slurmctld runs outside of them.
#
#   lab.sh up        start it        lab.sh down       stop it, all of it
#   lab.sh kill n2   cut node n2 off as a power loss would     lab.sh revive n2   bring it back
#   lab.sh exec n1 COMMAND...   run a command on node n1
#
# Needs root and Debian's slurm-wlm, munge, iproute2. Its state lies in $LAB.
set -euo pipefail
LAB=${LAB:-/var/tmp/tune-gan-slurm-lab}
export SLURM_CONF=$LAB/slurm.conf
cpus=${LAB_CPUS:-2}

write_conf() {
  cat >"$SLURM_CONF" <<EOF
ClusterName=lab
SlurmctldHost=$(hostname -s)(10.77.0.254)
SlurmUser=root
AuthType=auth/munge
StateSaveLocation=$LAB/state
SlurmdSpoolDir=$LAB/spool.%n
SlurmctldPidFile=$LAB/slurmctld.pid
SlurmdPidFile=$LAB/slurmd.%n.pid
SlurmctldLogFile=$LAB/slurmctld.log
SlurmdLogFile=$LAB/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=5,batch_sched_delay=1
ReturnToService=2
SlurmdTimeout=20
KillWait=30
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName=n1 NodeHostname=n1 NodeAddr=10.77.0.1 Port=17001 CPUs=$cpus RealMemory=8000 State=UNKNOWN
NodeName=n2 NodeHostname=n2 NodeAddr=10.77.0.2 Port=17001 CPUs=$cpus RealMemory=8000 State=UNKNOWN
PartitionName=debug Nodes=n1,n2 Default=YES MaxTime=INFINITE OverSubscribe=NO State=UP
EOF
}

make_net() {
  ip link show lab0 >/dev/null 2>&1 && return
  ip link add lab0 type bridge
  ip addr add 10.77.0.254/24 dev lab0
  ip link set lab0 up
  for i in 1 2; do
    ip netns add "n$i"
    ip link add "labv$i" type veth peer name eth0 netns "n$i"
    ip link set "labv$i" master lab0 up
    ip netns exec "n$i" ip addr add "10.77.0.$i/24" dev eth0
    ip netns exec "n$i" ip link set eth0 up
    ip netns exec "n$i" ip link set lo up
  done
}

# nsenter and not `ip netns exec`: the latter mounts /sys anew, and slurmd needs /sys/fs/cgroup.
start_node() {
  local n=$1
  mkdir -p "$LAB/spool.$n" "$LAB/scratch.$n" /scratch
  nsenter --net="/var/run/netns/$n" unshare --uts --pid --fork --mount --mount-proc bash -c "
    hostname $n; mount --bind $LAB/scratch.$n /scratch
    exec slurmd -N $n -D" >"$LAB/slurmd.$n.out" 2>&1 &
  echo $! >"$LAB/node.$n.pid"
}

# The unshare process is the parent of the node's process 1: ending that one ends the whole node at once.
stop_node() {
  local parent
  parent=$(cat "$LAB/node.$1.pid" 2>/dev/null) || return 0
  for child in $(cat "/proc/$parent/task/$parent/children" 2>/dev/null); do kill -9 "$child" 2>/dev/null || true; done
  kill -9 "$parent" 2>/dev/null || true
  rm -f "$LAB/node.$1.pid"
}

case ${1:-} in
up)
  mkdir -p "$LAB/state" /run/munge
  chown munge /run/munge
  if [[ ! -f /etc/munge/munge.key ]]; then
    (umask 077 && head -c 1024 /dev/urandom >/etc/munge/munge.key)
    chown munge /etc/munge/munge.key
  fi
  munge -n >/dev/null 2>&1 || { runuser -u munge -- munged; sleep 1; }
  write_conf
  make_net
  slurmctld -D >"$LAB/slurmctld.out" 2>&1 &
  echo $! >"$LAB/ctld.pid"
  sleep 2
  start_node n1
  start_node n2
  for _ in $(seq 600); do
    [[ $(sinfo -h -N -o %T 2>/dev/null | sort | uniq -c | tr -s ' ') == " 2 idle" ]] && break
    sleep 1
  done
  sinfo
  ;;
down)
  stop_node n1
  stop_node n2
  [[ -f $LAB/ctld.pid ]] && kill "$(cat "$LAB/ctld.pid")" 2>/dev/null || true
  for i in 1 2; do ip netns del "n$i" 2>/dev/null || true; done
  ip link del lab0 2>/dev/null || true
  # What was killed may still be writing.
  for _ in $(seq 10); do rm -rf "$LAB" 2>/dev/null && break; sleep 1; done
  ;;
kill) stop_node "$2" ;;
revive) start_node "$2" ;;
exec)
  n=$2
  shift 2
  nsenter --net="/var/run/netns/$n" "$@"
  ;;
*)
  sed -n '2,11p' "$0"
  exit 2
  ;;
esac
