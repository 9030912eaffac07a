#!/usr/bin/env bash
# A sharded run on a SLURM of this machine's own ends in the table of the run without shards.
#
#   apt-get install slurmctld slurmd slurm-client munge
#   scripts/slurm_on_one_machine.sh [FOLDER]        # as root, from a clone after `make setup`; a few minutes
#
# Starts munged, slurmctld and slurmd, submits the shards with launcher=slurm, preempts one of them (SIGUSR2, what SLURM sends
# before a time limit) and kills another one's process; preempted jobs go back into the queue, and the same command picks up
# what the killed one left. Then rows and metrics are compared with those of one run without shards.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(realpath -m "${1:-$(mktemp -d)}")
eigencam=$PWD/.venv/bin/eigencam
mkdir -p "$work"/{state,spool,munge}
chmod 755 "$work"; chown root: "$work/munge"
head -c 1024 /dev/urandom > "$work/munge/key"; chmod 400 "$work/munge/key"
munged --key-file "$work/munge/key" --socket "$work/munge/socket" --pid-file "$work/munge/pid" --log-file "$work/munge/log" \
    --seed-file "$work/munge/seed" --force
cat > "$work/slurm.conf" <<CONF
ClusterName=one
SlurmctldHost=$(hostname)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$work/munge/socket
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
JobRequeue=1
MinJobAge=3600
SchedulerParameters=requeue_delay=1
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd.log
NodeName=$(hostname) CPUs=$(nproc) RealMemory=$(awk '/MemTotal/{print int($2 / 1200)}' /proc/meminfo) State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$work/slurm.conf
stop() {
    for pid in "$work"/{slurmd.pid,slurmctld.pid,munge/pid}; do if [ -f "$pid" ]; then kill "$(cat "$pid")" || true; fi; done
}
trap stop EXIT
slurmctld; slurmd
for _ in $(seq 30); do sinfo -h -o %T 2>/dev/null | grep -q idle && break; sleep 1; done
sinfo

run() { "$eigencam" run "$@" dataset.count=200 "method=[eigencam,smoothgrad,random]" workers=0 batch_size=8 flush_s=1 timing=false; }
run paths.results="$work/whole" 2> "$work/whole.log"
sharded() {
    run -m launcher=slurm shard=1/4,2/4,3/4,4/4 paths.results="$work/shards" hydra.launcher.gpus_per_node=null \
        hydra.launcher.cpus_per_task=1 hydra.launcher.mem_gb=4 hydra.launcher.timeout_min=10 hydra.launcher.signal_delay_s=20
}
sharded > "$work/first.log" 2>&1 &
first=$!
for _ in $(seq 120); do ls "$work"/shards/*/parts/*.parquet > /dev/null 2>&1 && break; sleep 0.5; done
signal() {  # to a running job other than $2; SLURM refuses while a job's step is starting
    for _ in $(seq 120); do
        for job in $(squeue -h -t RUNNING -o %i | grep -vx "$2" || true); do
            if scancel --signal="$1" "$job" 2> /dev/null; then echo "$job"; return; fi
        done
        sleep 1
    done
    return 1
}
preempted=$(signal USR2 none); echo "preempted job $preempted"
killed=$(signal KILL "$preempted"); echo "killed job $killed"
wait $first && echo "the first command should have failed: one of its jobs was killed" && exit 1
sharded > "$work/second.log" 2>&1
"$eigencam" status --results "$work/shards"
.venv/bin/python - "$work/whole" "$work/shards" <<'PY'
import json, sys
from pathlib import Path

import pandas as pd

whole, shards = (Path(folder) for folder in sys.argv[1:])
results = sorted(path.parent.name for path in whole.glob("*/metrics.json"))
assert results and results == sorted(path.parent.name for path in shards.glob("*/metrics.json")), "results differ"
for name in results:
    pd.testing.assert_frame_equal(*(pd.read_parquet(root / name / "rows.parquet") for root in (whole, shards)))
    assert (whole / name / "metrics.json").read_text() == (shards / name / "metrics.json").read_text(), name
    sessions = len(json.loads((shards / name / "env.json").read_text()))
    print(f"{name}: identical rows and metrics; {sessions} sessions worked on it")
PY
