#!/usr/bin/env bash
# Check that a sharded run on a local SLURM gives the rows and the table of a run without shards and SLURM.
#
#   apt-get install slurmctld slurmd slurm-client munge       # Debian
#   scripts/slurm_on_one_machine.sh [FOLDER]                  # as root, in a clone after `make setup`; FOLDER: new or empty
#
# Starts munged, slurmctld and slurmd, and submits an array of four shards with launcher=slurm. While they run, the first
# is preempted (SIGUSR2, which SLURM sends before a time limit) and requeued. The second is killed, and the same command
# is repeated and resumes from its rows. Rows, metrics and table must then equal those of a run without SLURM. If they
# differ, or anything else fails, the exit status is not 0 and FOLDER is kept.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(realpath -m "${1:-$(mktemp -d)}")
eigencam=$PWD/.venv/bin/eigencam
node=$(uname -n); node=${node%%.*}
for program in munged slurmctld slurmd squeue; do
    command -v $program > /dev/null || { echo "$program: not found; apt-get install slurmctld slurmd slurm-client munge" >&2; exit 2; }
done
[ -z "$(ls -A "$work" 2> /dev/null)" ] || { echo "$work: not empty" >&2; exit 2; }
mkdir -p "$work"/slurm/{state,spool,munge}
chmod 755 "$work"
cat > "$work/slurm/slurm.conf" <<CONF
ClusterName=one
SlurmctldHost=$node(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
# A requeued job waits until its credential has expired, by default two minutes.
AuthInfo=socket=$work/slurm/munge/socket,cred_expire=15
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
JobRequeue=1
MinJobAge=3600
StateSaveLocation=$work/slurm/state
SlurmdSpoolDir=$work/slurm/spool
SlurmctldPidFile=$work/slurm/slurmctld.pid
SlurmdPidFile=$work/slurm/slurmd.pid
SlurmctldLogFile=$work/slurm/slurmctld.log
SlurmdLogFile=$work/slurm/slurmd.log
NodeName=$node NodeAddr=127.0.0.1 CPUs=$(getconf _NPROCESSORS_ONLN) RealMemory=$(awk '/MemTotal/{print int($2 / 1200)}' /proc/meminfo) State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$work/slurm/slurm.conf

stop() {
    status=$?
    trap - EXIT
    if [ -n "${first:-}" ]; then pkill -P "$first" || true; fi
    if squeue --me > /dev/null 2>&1; then scancel --me || true; queue_ends 60 || true; fi
    for file in "$work"/slurm/{slurmd.pid,slurmctld.pid,munge/pid}; do
        [ -f "$file" ] || continue
        pid=$(cat "$file")
        kill "$pid" 2> /dev/null || true
        for _ in $(seq 100); do kill -0 "$pid" 2> /dev/null || break; sleep 0.1; done
    done
    if [ $status = 0 ]; then rm -rf "$work"; else echo "failed ($status); logs are in $work" >&2; fi
    exit $status
}
fail() { echo "$1" >&2; exit 1; }
within() {  # SECONDS COMMAND...: until the command succeeds
    for _ in $(seq $((2 * $1))); do if "${@:2}" > /dev/null 2>&1; then return; fi; sleep 0.5; done
    return 1
}
queue_ends() { within "$1" eval 'queue=$(squeue --me --noheader) && [ -z "$queue" ]'; }

trap stop EXIT
trap 'exit 130' INT TERM
head -c 1024 /dev/urandom > "$work/slurm/munge/key"; chmod 400 "$work/slurm/munge/key"
munged --key-file "$work/slurm/munge/key" --socket "$work/slurm/munge/socket" --pid-file "$work/slurm/munge/pid" \
    --log-file "$work/slurm/munge/log" --seed-file "$work/slurm/munge/seed" --force
slurmctld; slurmd
within 60 eval 'sinfo --noheader --format=%T | grep -q idle' || fail "SLURM did not start"

run() { "$eigencam" run "$@" device=cpu dataset.count=120 "method=[eigencam,smoothgrad,random]" workers=0 batch_size=1 flush_s=1 timing=false; }
sharded() {
    run -m launcher=slurm shard=1/4,2/4,3/4,4/4 paths.results="$work/shards" hydra.launcher.gpus_per_node=null \
        hydra.launcher.cpus_per_task=1 hydra.launcher.mem_gb=4 hydra.launcher.timeout_min=30 hydra.launcher.signal_delay_s=20
}
wait_for_rows() {  # K: until shard K of 4 has written rows
    .venv/bin/python - "$work" "$1" <<'PY'
import sys, time
from pathlib import Path

import pandas as pd

from eigencam.store.records import Shard

work, k = Path(sys.argv[1]), int(sys.argv[2])
images = pd.read_parquet(next(work.glob("whole/*/rows.parquet")))["image"].unique()
own = set(Shard(k, 4).pick(list(images)))  # batches of one
end = time.monotonic() + 300
while not any(own & set(pd.read_parquet(part)["image"]) for part in work.glob("shards/*/parts/*.parquet")):
    if time.monotonic() > end:
        sys.exit(f"shard {k}/4: no rows after 300 s")
    time.sleep(0.2)
PY
}
state() { scontrol show job "$1" | grep -oE '(JobState|Restarts)=[^ ]+' | paste -sd' '; }

echo "without SLURM"
run paths.results="$work/whole" > "$work/whole.log" 2>&1
echo "four shards in SLURM"
sharded > "$work/first.log" 2>&1 &
first=$!
wait_for_rows 1
array=$(squeue --me --noheader --format=%F | sort -u)
# Of an array with tasks pending, the signal arrives, yet SLURM answers "try again", which scancel does after 5 s.
timeout 3 scancel --signal=USR2 "${array}_0" 2> /dev/null || true
wait_for_rows 2
job=$(scontrol show job "${array}_1" | grep -oE '^JobId=[0-9]+' | cut -d= -f2)
kill -KILL "$(scontrol listpids "$job.0" | awk '$4 == 0 {print $1}')" || fail "the second shard ended before it was killed"
echo "preempted the first, killed the second"
within 600 eval '! kill -0 $first' || fail "the first command goes on after its jobs' end"
if wait $first; then fail "the first command should have failed: one of its jobs was killed"; fi
first=
queue_ends 600 || fail "jobs are still in the queue"
echo "the first: $(state "${array}_0"); the second: $(state "${array}_1")"
state "${array}_1" | grep -q "^JobState=FAILED " || fail "the killed job was not killed"
state "${array}_0" | grep -q "^JobState=COMPLETED Restarts=1$" || fail "the preempted job did not go on"
if ls "$work"/shards/*/metrics.json > /dev/null 2>&1; then fail "results are complete without the killed job"; fi
echo "the same command again"
sharded > "$work/second.log" 2>&1
.venv/bin/python - "$work/whole" "$work/shards" <<'PY'
import json, sys
from pathlib import Path

import pandas as pd

whole, shards = (Path(folder) for folder in sys.argv[1:])
results = sorted(path.parent.name for path in whole.glob("*/metrics.json"))
if not results or results != sorted(path.parent.name for path in shards.glob("*/metrics.json")):
    sys.exit("results differ")
for name in results:
    rows = pd.read_parquet(whole / name / "rows.parquet")
    pd.testing.assert_frame_equal(rows, pd.read_parquet(shards / name / "rows.parquet"), check_exact=True)
    if (whole / name / "metrics.json").read_bytes() != (shards / name / "metrics.json").read_bytes():
        sys.exit(f"{name}: metrics differ")
    runs = len(list((shards / name / "runs").iterdir()))
    print(f"{name}: {len(rows)} rows and the metrics identical; {runs} runs")
PY
for kind in whole shards; do "$eigencam" table --results "$work/$kind" --format csv > "$work/$kind.csv"; done
cmp "$work/whole.csv" "$work/shards.csv"
echo "tables identical ($(wc -l < "$work/whole.csv") lines); $SECONDS s"
