#!/run/vm/busybox sh
# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=dash
#
# Process 1 of a guest, in two stages. The first runs from the initramfs, mounts the host's file
# tree read-only with a writable layer of memory above it, and makes that the root. The second makes
# the place a test expects, runs the command, and reports. run.sh wrote these beside this script, in
# /run/vm:
#
#   command   what to run, a shell script       busybox   the only program needed
#   modules   to insert, in order               mark      what ends stdout and stderr
#   tree      "host", "bare" for a tree of busybox alone, or "system" for a disk with its own init,
#             which then runs the command as a unit
#   mounts    "TAG MODE PATH": folders of the host, MODE is ro or rw
#
# To the host lead three virtio ports: stdout, stderr, and control, which says "start" and "exit
# CODE".

PATH=/run/vm/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH

port()
{
	for sys in /sys/class/virtio-ports/*; do
		if [ "$(cat "$sys/name")" = "tallyd.$1" ]; then
			echo "/dev/${sys##*/}"
			return
		fi
	done
	fail "no port $1"
}

# A panic is what the host understands without a port.
fail()
{
	echo "tallyd-vm: $1" >/dev/console
	echo c >/proc/sysrq-trigger
	exit 1
}

kernel_filesystems()
{
	mount -t sysfs sysfs /sys
	mount -t devtmpfs devtmpfs /dev
}

# Both mount proc: busybox runs itself by /proc/self/exe, which must never be the host's.
host_tree()
{
	mount -t 9p -o ro,trans=virtio,version=9p2000.L,cache=loose,msize=512000 root /lower ||
		fail "cannot mount the host's files"
	mount -t tmpfs -o size=75% upper /upper
	mkdir /upper/data /upper/work
	mount -t overlay -o lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work root /root ||
		fail "cannot lay memory over the host's files"
	mount -t proc proc /root/proc
}

# Guests of another machine: busybox and nothing else.
bare_tree()
{
	mount -t tmpfs root /root
	(cd /root && mkdir -p proc sys dev tmp root etc run bin usr/bin sbin usr/sbin mnt)
	cp /run/vm/busybox /root/bin/
	mount -t proc proc /root/proc
	chroot /root /bin/busybox --install -s /bin
	echo 'root:x:0:0:root:/root:/bin/sh' >/root/etc/passwd
}

# A system of its own on the first disk: the command becomes a unit of it, told of in /run.
system_tree()
{
	mount -t ext4 -o rw /dev/vda /root || fail "cannot mount the system's disk"
}

command_unit()
{
	mkdir -p /root/run/systemd/system/multi-user.target.wants
	cat >/root/run/systemd/system/vm.service <<-END
	[Unit]
	Description=The command of run.sh
	After=multi-user.target
	[Service]
	ExecStart=/run/vm/busybox sh /run/vm/init unit
	END
	ln -s ../vm.service /root/run/systemd/system/multi-user.target.wants/
	exec switch_root /root /sbin/init
}

stage1()
{
	# first, for busybox finds its own name there
	/run/vm/busybox mount -t proc proc /proc
	/run/vm/busybox mkdir /run/vm/bin
	/run/vm/busybox --install -s /run/vm/bin
	kernel_filesystems
	while read -r module; do
		insmod "/modules/$module" || fail "cannot insert $module"
	done </run/vm/modules
	"$(cat /run/vm/tree)_tree"
	mount -t tmpfs -o mode=755 run /root/run
	mkdir /root/run/vm
	cp -a /init /run/vm/. /root/run/vm/
	umount /sys /dev
	[ "$(cat /run/vm/tree)" != system ] || command_unit
	exec switch_root /root /run/vm/busybox sh /run/vm/init stage2
}

mount_all()
{
	kernel_filesystems
	mkdir -p /dev/pts /dev/shm /run/lock
	mount -t devpts -o ptmxmode=666 devpts /dev/pts
	mount -t tmpfs shm /dev/shm
	ln -sf /proc/self/fd /dev/fd
	ln -sf /proc/self/fd/0 /dev/stdin
	ln -sf /proc/self/fd/1 /dev/stdout
	ln -sf /proc/self/fd/2 /dev/stderr
	mount -t cgroup2 cgroup2 /sys/fs/cgroup
	mount -t bpf bpf /sys/fs/bpf
	mount -t debugfs debugfs /sys/kernel/debug
	mount -t tracefs tracefs /sys/kernel/tracing
	mount -t securityfs securityfs /sys/kernel/security
}

# Through busybox: the host may have no kmod.
module_loading()
{
	echo /run/vm/bin/modprobe >/proc/sys/kernel/modprobe
	[ -e /sbin/modprobe ] || ln -s /run/vm/bin/modprobe /sbin/modprobe
}

shared_folders()
{
	while read -r tag mode path; do
		cache=none
		[ "$mode" = rw ] || cache=loose
		mkdir -p "$path"
		mount -t 9p -o "$mode,trans=virtio,version=9p2000.L,cache=$cache,msize=512000" \
			"$tag" "$path" || fail "cannot mount $path"
	done </run/vm/mounts
}

# What the command left running would keep its output open for ever.
end_others()
{
	for proc in /proc/[0-9]*; do
		pid=${proc##*/}
		case " 1 $1 $2 " in
		*" $pid "*) ;;
		*) kill -9 "$pid" 2>/dev/null;;
		esac
	done
}

# A pipe stands between the command and each port: a port opens once only, and /dev/stdout would
# open it again.
pump()
{
	mkfifo "/run/vm/$1"
	exec 4>"$(port "$1")"
	(cat "/run/vm/$1" && cat /run/vm/mark) >&4 &
	exec 4>&-
}

run_command()
{
	shell=/bin/bash
	[ -x $shell ] || shell=/bin/sh
	pump stdout
	out=$!
	pump stderr
	err=$!
	exec 3>"$(port control)"
	echo start >&3
	setsid $shell /run/vm/command </dev/null >/run/vm/stdout 2>/run/vm/stderr 3>&- &
	wait $!
	code=$?
	[ "$(cat /run/vm/tree)" = system ] || end_others $out $err
	wait $out $err
	sync
	echo "exit $code" >&3
}

stage2()
{
	mount_all
	hostname tallyd-vm
	ip link set lo up
	ulimit -n 65536
	shared_folders
	module_loading
	run_command
	sleep 60
	poweroff -f
}

unit()
{
	ulimit -n 65536
	shared_folders
	run_command
}

case ${1:-} in
stage2 | unit) "$1";;
*) stage1;;
esac
