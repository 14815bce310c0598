#!/bin/bash
# A real Slurm cluster on one machine: a controller and NODES hosts, each a network namespace with its
# own address, name and /etc/hosts. usage: virtual_cluster.sh DIR NODES GPUS
#
# cluster.py starts this script as the first process of new PID, mount, network and UTS namespaces. It
# prints "ready" when all nodes are idle and exits when its standard input closes; the kernel then kills
# every daemon and job. Nothing is visible outside the namespaces.
# DIR holds the files of the cluster; its path must be short (sockets: 107 characters).
set -euo pipefail
dir=$1 nodes=$2 gpus=$3 # GPUs per node, as devices that do nothing
mkdir -p "$dir"/{etc,state,log,run,spool,munge,gpus}
chmod 755 "$dir"
chmod 700 "$dir/munge"

# ---- hosts: ctl = 10.77.0.254 with the bridge, n1, n2, … = 10.77.0.1, … ----------------------------
mkdir -p /run/netns
mount -t tmpfs tmpfs /run/netns
hosts="127.0.0.1 localhost"$'\n'"10.77.0.254 ctl"
for i in $(seq 1 "$nodes"); do hosts+=$'\n'"10.77.0.$i n$i other-n$i"; done
echo "$hosts" > "$dir/etc/hosts"
mount --bind "$dir/etc/hosts" /etc/hosts
hostname ctl
ip link set lo up
ip link add br0 type bridge
ip addr add 10.77.0.254/24 dev br0
ip link set br0 up
for i in $(seq 1 "$nodes"); do
    ip netns add "n$i"
    ip link add "v$i" type veth peer name eth0 netns "n$i"
    ip link set "v$i" master br0 up
    ip -n "n$i" link set lo up
    ip -n "n$i" addr add "10.77.0.$i/24" dev eth0
    ip -n "n$i" link set eth0 up
done

# ---- sshd on every host, with a key of the cluster alone -----------------------------------------
if command -v sshd ssh-keygen > /dev/null; then
    mkdir -p /run/sshd
    mkdir -m 700 "$dir/ssh"
    ssh-keygen -q -t ed25519 -N '' -f "$dir/ssh/key"
    cat > "$dir/ssh/client" <<EOF
Host *
    IdentityFile $dir/ssh/key
    IdentitiesOnly yes
    StrictHostKeyChecking no
    UserKnownHostsFile $dir/ssh/known_hosts
    LogLevel ERROR
EOF
    cat > "$dir/ssh/server" <<EOF
HostKey $dir/ssh/key
AuthorizedKeysFile $dir/ssh/key.pub
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
MaxStartups 100
EOF
    mount --bind "$dir/ssh/client" /etc/ssh/ssh_config # ~/.ssh stays as it is
    for i in $(seq 1 "$nodes"); do
        # In the foreground: daemon() fails where /dev/null is not the usual device.
        nsenter --net="/run/netns/n$i" -- unshare --uts bash -c "hostname n$i
            exec \"\$(command -v sshd)\" -D -f '$dir/ssh/server' -E '$dir/log/sshd-n$i.log'" &
    done
fi

# ---- configuration --------------------------------------------------------------------------------
for i in $(seq 1 "$gpus"); do mknod "$dir/gpus/gpu$i" c 1 3; done
cat > "$dir/etc/slurm.conf" <<EOF
ClusterName=virtual
SlurmctldHost=ctl(10.77.0.254)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$dir/munge/socket
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/slurmd-%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1
ReturnToService=2
SlurmctldTimeout=60
SlurmdTimeout=60
MessageTimeout=30
InactiveLimit=0
MinJobAge=600
KillWait=15
JobRequeue=1
SlurmdParameters=config_overrides
PropagateResourceLimits=NONE
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n[1-$nodes] NodeAddr=10.77.0.[1-$nodes] CPUs=2 Boards=1 Sockets=1 CoresPerSocket=2 ThreadsPerCore=1 RealMemory=4000 Gres=gpu:$gpus State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=high Nodes=ALL Default=NO MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
EOF
: > "$dir/etc/gres.conf"
(( gpus == 0 )) || echo "NodeName=n[1-$nodes] Name=gpu File=$dir/gpus/gpu[1-$gpus]" > "$dir/etc/gres.conf"
: > "$dir/etc/plugstack.conf"
export SLURM_CONF=$dir/etc/slurm.conf

# ---- daemons --------------------------------------------------------------------------------------
head -c 128 /dev/urandom > "$dir/munge/key"
chmod 400 "$dir/munge/key"
munged --key-file="$dir/munge/key" --socket="$dir/munge/socket" --pid-file="$dir/munge/pid" \
    --log-file="$dir/munge/log" --seed-file="$dir/munge/seed" --num-threads=2 --force
slurmctld -c
for i in $(seq 1 "$nodes"); do
    mkdir -p "$dir/spool/n$i"
    # Not `ip netns exec`: it remounts /sys without cgroups, and slurmd then refuses to start.
    nsenter --net="/run/netns/n$i" -- unshare --uts bash -c "hostname n$i; exec slurmd"
done
for _ in $(seq 1 300); do
    [[ $(sinfo -h -N -p main -o %T 2>/dev/null | grep -c '^idle') != "$nodes" ]] || break
    sleep 0.1
done
sinfo -N -p main -o '%N %T %c %G %E'
echo ready
# Bash reaps orphaned processes; end of file on standard input ends the cluster.
read -r _ || true
