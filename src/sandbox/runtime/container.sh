#!/bin/sh
# First process of a new container, in fresh mount, pid, network, uts and ipc namespaces that still show the host's
# files. Wires the network, mounts the container's root, moves into it and becomes the container's own program.
# Arguments: net namespace of the node, veth name, address, host name, root directory, fstab, image layers' directory,
# PATH inside; then the program. Everything else of the environment is the container's. Descriptor 3 takes the report
# (the pid as the host sees it, "ready", or whatever went wrong), 6 is the program's standard error.
set -eu
node=$1 veth=$2 address=$3 name=$4 root=$5 fstab=$6 layers=$7 path=$8
shift 8
exec 2>&3
trap 'echo "the container could not be set up" >&3' EXIT

# /proc is still the host's, so this is the pid by which the host can signal and enter the container.
read -r pid _ </proc/self/stat
echo "pid $pid" >&3

nsenter --net="$node" ip -batch - <<END
link add name $veth type veth peer name eth0 netns 1
link set dev $veth master pods up
END
# One address, one hardware address: neighbours of a restarted container remember it.
hardware=$(IFS=. && set -- $address && printf '02:00:%02x:%02x:%02x:%02x' "$@")
ip -batch - <<END
link set dev lo up
link set dev eth0 address $hardware
address add $address/16 dev eth0
link set dev eth0 up
route add default via 10.88.0.1
END

cd "$layers"
mount -n -a -T "$fstab"
# In a user namespace only the system call works, not the file.
hostname "$name" 2>/dev/null || printf '%s' "$name" >"$root/proc/sys/kernel/hostname"
cd "$root"
pivot_root . .old
cd /
umount -n -l /.old

trap - EXIT
echo ready >&3
exec 2>&6 6>&- 3>&-
PATH=$path
export PATH
exec "$@"
