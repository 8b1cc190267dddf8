#!/bin/bash
# A sweep of tune-gan on SLURM, made by `tune-gan submit --to slurm`.
# Without an argument it is the job: Ray's head, the other nodes, and the sweep.
# With "node ADDRESS" it is what the job runs on each of its other nodes.
#SBATCH --job-name=digits
#SBATCH --partition=gpu
#SBATCH --account=my-project
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --mem=64G
#SBATCH --time=720
#SBATCH --signal=B:USR1@120
#SBATCH --open-mode=append
#SBATCH --no-kill
#SBATCH --requeue
umask 077

fail() {
  printf 'tune-gan: %s: %s\n' "$(hostname)" "$1" >&2
  exit "${2:-1}"
}

module load python/3.11 || fail "the module python/3.11 cannot be loaded" 2
# Not before: what modules run may read variables that are not set.
set -u

run=/shared/runs/digits
# This script, the sweep and the log; as the run, a folder that every node sees.
work=/shared/runs/digits.slurm
python=/shared/me/tune-gan/bin/python
inside=()
scratch=/tmp

# Two jobs on one node share nothing: each has a folder, ports, CPUs, GPUs and a token of its own.
own=$scratch/tune-gan-$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}
mkdir -m 700 "$own" || fail "$own cannot be made; give the site file a scratch folder of the node's own" 2
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$work/$SLURM_JOB_ID.token
export RAY_USAGE_STATS_ENABLED=0 MALLOC_ARENA_MAX=2 RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=1
# What the one who submits has set for another Ray.
unset RAY_ADDRESS RAY_AUTH_TOKEN
# A step gets the CPUs of its task only where it is told to.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}

# The address of this node on the network that leads to another one.
address_towards() {
  "${inside[@]}" "$python" -c 'import socket, sys
probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
probe.connect((sys.argv[1], 9))
print(probe.getsockname()[0])' "$1"
}

# The GPUs that the job sees on this node, cards or MIG instances. Ray would ask NVML, which counts whole
# cards and may be missing. With shards and MPS SLURM counts no GPUs and only names the card.
num_gpus() {
  local given=${SLURM_GPUS_ON_NODE:-${SLURM_SHARDS_ON_NODE:-${CUDA_MPS_ACTIVE_THREAD_PERCENTAGE:-0}}}
  [ "$given" != 0 ] || { echo 0; return; }
  case ${CUDA_VISIBLE_DEVICES-unset} in
  unset) echo "${SLURM_GPUS_ON_NODE:-0}" ;;
  '' | NoDevFiles | -1) echo 0 ;;
  *) tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c . ;;
  esac
}

# Ports are chosen by the system. Only CPUs and GPUs of the allocation count, not those of the node; so
# does its memory, where SLURM says it (in MiB), three quarters of it: the rest is for Ray itself.
mib=${SLURM_MEM_PER_NODE:-$((${SLURM_MEM_PER_CPU:-0} * SLURM_CPUS_ON_NODE))}
start_ray() {
  [ "$mib" = 0 ] || set -- "$@" --memory="$((mib * 800000))"
  "${inside[@]}" "$python" -m ray.scripts.scripts start --block --temp-dir="$own/ray" \
    --num-cpus="$SLURM_CPUS_ON_NODE" --num-gpus="$(num_gpus)" \
    --object-store-memory=500000000 --min-worker-port=0 --max-worker-port=0 \
    --dashboard-agent-listen-port=0 "$@" >"$own/ray.log" 2>&1 &
  ray=$!
}

if [ "${1:-}" = node ]; then
  trap 'rm -rf "$own"' EXIT
  [ -s "$RAY_AUTH_TOKEN_PATH" ] || fail "the token $RAY_AUTH_TOKEN_PATH is missing" 2
  start_ray --address="$2" --node-ip-address="$(address_towards "${2%:*}")"
  told=''
  trap 'told=1; kill "$ray" 2>/dev/null' TERM INT USR1
  while kill -0 "$ray" 2>/dev/null; do wait "$ray"; done
  [ -n "$told" ] || fail "Ray ended: $(tail -n 1 "$own/ray.log")"
  exit 0
fi

ray='' others=''
end() {
  # srun forwards this signal; on others it kills its nodes' processes before they have tidied up.
  [ -z "$others" ] || kill -USR1 "$others" 2>/dev/null
  [ -z "$ray" ] || kill "$ray" 2>/dev/null
  for _ in $(seq 20); do
    [ -n "$(jobs -rp)" ] || break
    sleep 1
  done
  [ -z "$(jobs -rp)" ] || kill $(jobs -rp) 2>/dev/null
  wait
  rm -rf "$own" "$RAY_AUTH_TOKEN_PATH"
}
trap end EXIT

srun --overlap --ntasks-per-node=1 test -r "$work/job.sh" ||
  fail "not every node sees $work; give --out a folder on a file system that all nodes share" 2
"${inside[@]}" "$python" -c 'import secrets; print(secrets.token_hex(32), end="")' >"$RAY_AUTH_TOKEN_PATH" ||
  fail "the token $RAY_AUTH_TOKEN_PATH cannot be written" 2

# Not `ray symmetric-run`: that refuses to start where another job's Ray is on the node, and stops it.
last=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | tail -n 1)
last=$(scontrol --oneliner show node "$last" | sed -n 's/.* NodeAddr=\([^ ]*\).*/\1/p')
start_ray --head --port=0 --include-dashboard=false --node-ip-address="$(address_towards "$last")"
for _ in $(seq 120); do
  [ -s "$own/ray/ray_current_cluster" ] && break
  kill -0 "$ray" 2>/dev/null || break
  sleep 1
done
[ -s "$own/ray/ray_current_cluster" ] || fail "Ray did not start: $(tail -n 1 "$own/ray.log")"
RAY_ADDRESS=$(cat "$own/ray/ray_current_cluster")
export RAY_ADDRESS
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
  num=$((SLURM_JOB_NUM_NODES - 1))
  srun --overlap --no-kill --nodes="$num" --ntasks="$num" --exclude="$SLURMD_NODENAME" \
    --gpus-per-node=4 \
    bash "$work/job.sh" node "$RAY_ADDRESS" &
  others=$!
fi

# The sweep, or what is left of it.
if [ -e "$run/sweep.yaml" ]; then
  what=(resume "$run")
else
  what=(sweep "$work/sweep.yaml" --out "$run")
fi
touch "$own/started"
"${inside[@]}" "$python" -m tune_gan "${what[@]}" --min-nodes "$SLURM_JOB_NUM_NODES" &
sweep=$!
at_limit=
trap 'at_limit=1; kill -USR1 "$sweep" 2>/dev/null' USR1
trap 'kill -TERM "$sweep" 2>/dev/null' TERM INT
wait "$sweep"
code=$?
# A signal to this script ends a wait, not the sweep.
while kill -0 "$sweep" 2>/dev/null; do wait "$sweep"; code=$?; done
wait "$sweep" 2>/dev/null
again=$?
[ "$again" -eq 127 ] || code=$again

# It has saved what it did before the limit: go on in a new job, unless this one came to no report.
if [ -n "$at_limit" ] && [ "$code" -eq 130 ]; then
  [ -n "$(find "$run" -name result.json -newer "$own/started" -print -quit)" ] ||
    fail "no trial made a report in this job's time; give the site file more" "$code"
  trap - EXIT
  end
  exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
