#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Boot a Debian kernel in qemu, run a command there as root among the host's own files, and return
# what it returned. Emulation by default: neither KVM nor root is needed, and the guest can change
# nothing here.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/vm/common.sh
. "$here/common.sh"

usage()
{
	cat <<-END
	usage: run.sh KERNEL [OPTION]... [--] COMMAND [ARG]...
	  KERNEL           one of: $vm_releases (fetched when the cache has it not)
	  --timeout S      end the guest after S seconds (default 600)
	  --mem M          its memory in MiB (default 1024)
	  --smp N          its processors (default 2)
	  --disk FILE      a raw image as the next of /dev/vda, /dev/vdb, ...; stays as flushed
	  --share DIR      a folder that the guest writes to; all else it writes is forgotten
	  --root DIR       share this file tree, and the project's folder, instead of the host's
	  --system FILE    boot this image (fetch-system.sh): its systemd is process 1, COMMAND a
	                   unit after multi-user.target; it is /dev/vda, and stays as flushed
	  --env NAME=VALUE set in the guest; TALLYD_* variables are passed on anyway
	  --append WORDS   for the kernel's command line
	  --verbose        kernel messages to stderr while it runs
	The guest has the host's file tree, the current folder, cgroup v2, bpffs, tracefs, and
	loopback as its network. For another machine (ARCH) it has busybox and the project's
	folder, unless --root says more.
	exit code: that of COMMAND, or
	  123   the guest went down (reset, power off) before COMMAND ended
	  124   time is up
	  125   it did not boot, or the kernel panicked; also: wrong usage, nothing to boot
	environment: ARCH, TALLYD_CACHE, TALLYD_DEBIAN_URI (see fetch-kernel.sh),
	TALLYD_VM_ACCEL (qemu's -accel, default tcg)
	END
}

parse()
{
	case ${1:-} in
	-h|--help) usage; exit 0;;
	''|-*) usage >&2; exit 125;;
	esac
	kernel=$1 timeout=600 mem=1024 smp=2 disks=() shares=() env=() append='' root='' system='' verbose=''
	shift
	while [ $# -gt 0 ]; do
		case $1 in
		--verbose) verbose=1; shift; continue;;
		--) shift; break;;
		--*) [ $# -ge 2 ] || die "$1 wants a value" 125;;
		*) break;;
		esac
		case $1 in
		--timeout) timeout=$2;;
		--mem) mem=$2;;
		--smp) smp=$2;;
		--disk) disks+=("$(realpath -e "$2")") || die "no disk $2" 125;;
		--share) shares+=("$(realpath -e "$2")") || die "no folder $2" 125;;
		--root) root=$(realpath -e "$2") || die "no folder $2" 125;;
		--system) system=$(realpath -e "$2") || die "no image $2" 125;;
		--env) env+=("$2");;
		--append) append=$2;;
		*) die "unknown option $1" 125;;
		esac
		shift 2
	done
	[ $# -gt 0 ] || { usage >&2; exit 125; }
	command=("$@")
}

# The guest's shell reads what this prints; %q quotes for it.
command_script()
{
	local name

	echo "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	echo "export HOME=/root LANG=C.UTF-8 TALLYD_VM_KERNEL=$kernel"
	for name in $(compgen -e TALLYD_); do
		printf 'export %s=%q\n' "$name" "${!name}"
	done
	for name in ${env[@]+"${env[@]}"}; do
		printf 'export %s=%q\n' "${name%%=*}" "${name#*=}"
	done
	printf 'cd %q || exit 125\n' "$PWD"
	printf '%q ' exec "${command[@]}"
	echo
}

# Module $1 and all it stands on, in the order of insertion. What is not in modules.dep is built in.
add_module()
{
	local line dep

	[ -z "${added[$1]:-}" ] || return 0
	added[$1]=1
	line=$(grep -m1 "/$1\.ko:" "$modules/modules.dep") || return 0
	for dep in ${line#*:}; do
		dep=${dep##*/}
		add_module "${dep%.ko}"
	done
	echo "${line%%:*}"
}

guest_modules()
{
	local module
	declare -A added

	for module in virtio_pci virtio_console virtio_rng virtio_blk 9pnet_virtio 9p overlay \
		${system:+crc32c_generic ext4}; do
		add_module "$module"
	done
}

choose_tree()
{
	repo=$(cd "$here/../.." && pwd) tree=host foreign=''
	[ -z "$root" ] || foreign=1
	[ ! -e "$dir/busybox" ] || [ -n "$root" ] || { foreign=1 tree=bare; }
	[ -z "$system" ] || { foreign=1 tree=system disks=("$system" ${disks[@]+"${disks[@]}"}); }
}

# A tree that is not the host's needs the tests brought to it.
guest_mounts()
{
	local i

	echo "modules ro /lib/modules/${modules##*/}"
	[ -z "$foreign" ] || echo "repo ro $repo"
	for i in "${!shares[@]}"; do
		echo "share$i rw ${shares[i]}"
	done
}

# What guest-init.sh reads; its head says what each file is.
make_initramfs()
{
	local top=$tmp/initramfs vm=$tmp/initramfs/run/vm busybox=/bin/busybox module

	mkdir -p "$top"/{proc,sys,dev,lower,upper,root,modules} "$vm"
	[ ! -e "$dir/busybox" ] || busybox=$dir/busybox
	cp -L "$busybox" "$vm/busybox"
	cp "$here/guest-init.sh" "$top/init"
	command_script >"$vm/command"
	# shellcheck disable=SC2001,SC2059  # the format is the bytes
	printf "$(sed 's/../\\x&/g' <<<"$mark")" >"$vm/mark"
	echo "$tree" >"$vm/tree"
	guest_mounts >"$vm/mounts"
	for module in $(guest_modules); do
		cp "$modules/$module" "$top/modules/"
		echo "${module##*/}"
	done >"$vm/modules"
	(cd "$top" && find . | cpio --quiet -o -H newc) >"$tmp/initramfs.cpio"
}

machine_args()
{
	# shellcheck disable=SC2054  # the comma is qemu's
	case $(vm_arch) in
	amd64) qemu=(qemu-system-x86_64 -M q35 -cpu max) tty=ttyS0;;
	arm64) qemu=(qemu-system-aarch64 -M virt -cpu max,pauth-impdef=on) tty=ttyAMA0;;
	*) die "no machine known for $(vm_arch)" 125;;
	esac
	command -v "${qemu[0]}" >/dev/null || die "${qemu[0]} is not installed" 125
}

# A writable port of the guest that ends in descriptor $2 here.
port_args()
{
	qemu+=(-chardev "file,id=$1,path=/dev/fd/$2"
		-device "virtserialport,chardev=$1,name=tallyd.$1")
}

share_args()
{
	qemu+=(-fsdev "local,id=$1,path=${2//,/,,},security_model=none,multidevs=remap$3"
		-device "virtio-9p-pci,fsdev=$1,mount_tag=$1")
}

qemu_args()
{
	local i boot

	boot="panic=-1 oops=panic nokaslr cryptomgr.notests cgroup_no_v1=all random.trust_cpu=on"
	if [ -n "$verbose" ]; then
		boot+=" ignore_loglevel"
	else
		boot+=" quiet loglevel=4"
	fi
	# no udev: nobody would bring the terminal that a login waits for
	[ -z "$system" ] || boot+=" systemd.getty_auto=no systemd.show_status=yes"
	machine_args
	qemu+=(-accel "${TALLYD_VM_ACCEL:-tcg}" -smp "$smp" -m "$mem" -nodefaults -no-user-config
		-display none -no-reboot -kernel "$dir/kernel" -initrd "$tmp/initramfs.cpio"
		-append "console=$tty $boot $append"
		-chardev "file,id=console,path=/dev/fd/$console" -serial chardev:console
		-device virtio-rng-pci -device virtio-serial-pci)
	port_args stdout "$out"
	port_args stderr "$err"
	port_args control 1
	share_args modules "$modules" ,readonly=on
	[ "$tree" != host ] || share_args root "${root:-/}" ,readonly=on
	[ -z "$foreign" ] || share_args repo "$repo" ,readonly=on
	for i in "${!shares[@]}"; do
		share_args "share$i" "${shares[i]}" ''
	done
	for i in "${!disks[@]}"; do
		qemu+=(-drive "file=${disks[i]//,/,,},format=raw,if=virtio,index=$i")
	done
}

# Its stdout is the control port; it does not outlive this script.
start_guest()
{
	local sink=/dev/null

	[ -z "$verbose" ] || sink=/dev/stderr
	exec {out}> >(exec "$here/pump.py" "$mark")
	out_pid=$!
	exec {err}> >(exec "$here/pump.py" "$mark" >&2)
	err_pid=$!
	exec {console}> >(exec tee "$tmp/console" >$sink)
	console_pid=$!
	qemu_args
	exec {control}< <(exec setpriv --pdeathsig KILL "${qemu[@]}" </dev/null 2>"$tmp/qemu")
	guest=$!
	exec {out}>&- {err}>&- {console}>&-
}

# Follows the guest to its end: state says how far it came, code what COMMAND returned.
follow_guest()
{
	local deadline=$((SECONDS + timeout)) line

	state=boot code=''
	while [ "$state" != ended ]; do
		if IFS= read -r -t $((deadline - SECONDS + 1)) -u "$control" line; then
			case $line in
			start) state=running;;
			exit\ *) state=ended code=${line#exit };;
			esac
		elif [ $? -gt 128 ] || [ $SECONDS -gt $deadline ]; then
			state=timeout
			return 0
		else
			return 0
		fi
	done
	wait "$out_pid" "$err_pid" || true
}

end_guest()
{
	kill -KILL "$guest" 2>/dev/null || true
	wait "$guest" "$out_pid" "$err_pid" "$console_pid" 2>/dev/null || true
}

show_console()
{
	[ -n "$verbose" ] || tail -n 60 "$tmp/console" >&2
	cat "$tmp/qemu" >&2
}

verdict()
{
	case $state in
	ended)
		[ "$code" = 0 ] || [ -n "$verbose" ] || tail -n 40 "$tmp/console" >&2
		exit "$code";;
	timeout)
		show_console
		die "kernel=$kernel: time is up after $timeout s" 124;;
	esac
	show_console
	if grep -q 'Kernel panic' "$tmp/console"; then
		die "kernel=$kernel: the kernel panicked" 125
	fi
	[ "$state" = running ] || die "kernel=$kernel: the guest did not boot" 125
	die "kernel=$kernel: the guest went down before the command ended" 123
}

# shellcheck disable=SC2317  # by trap
cleanup()
{
	[ -z "${guest:-}" ] || kill -KILL "$guest" 2>/dev/null || true
	rm -rf "$tmp"
}

parse "$@"
vm_known "$kernel" || die "unknown kernel '$kernel' (one of: $vm_releases)" 125
"$here/fetch-kernel.sh" "$kernel" >/dev/null || exit 125
dir=$(vm_kernel_dir "$kernel")
modules=$dir/lib/modules/$(cat "$dir/version")
mark=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
tmp=$(mktemp -d "${TMPDIR:-/tmp}/tallyd-vm.XXXXXX")
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
choose_tree
make_initramfs
start_guest
follow_guest
end_guest
verdict
