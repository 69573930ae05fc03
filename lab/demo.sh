#!/bin/bash
# Two toolstacks do the same steps with the same guests, one after the other, in one boot.
#   demo.sh [FIRST] [SECOND]     (xyl and xl)
# Prints each step with its time, a table at the end, and fails if any step failed.
set -u
first=${1:-xyl}
second=${2:-xl}
configs=/xyl-lab/lab/demo
images=/var/tmp/xyl-demo
. /xyl-lab/lab/initrd.sh
scratch=$(mktemp -d)
failures=0
declare -A took_ms

now_ms() { echo $((${EPOCHREALTIME/./} / 1000)); }

# step ROLE GUEST NAME CHECK COMMAND...: does, times, checks and shows one step. ROLE is the column of the table.
# CHECK, one word that is a shell command, sees afterwards whether it worked, and takes no part in the time.
step() {
	local role=$1 guest=$2 name=$3 check=$4 started ms code
	shift 4
	rm -f "$scratch/shown"
	started=$(now_ms)
	"$@" >"$scratch/output" 2>&1
	code=$?
	ms=$(($(now_ms) - started))
	if [ $code -eq 0 ] && eval "$check" >>"$scratch/output" 2>&1; then
		took_ms[$role,$guest,$name]=$ms
		printf '  %-9s %6d ms  %s\n' "$name" "$ms" "$(tail -n 1 "$scratch/shown" 2>/dev/null)"
		return
	fi
	took_ms[$role,$guest,$name]=failed
	failures=$((failures + 1))
	printf '  %-9s FAILED (exit code %d): %s\n' "$name" "$code" "$*"
	sed 's/^/      /' "$scratch/output"
}

# row TOOL GUEST: the guest's row of the list, kept to be shown.
row() { "$1" list | awk -v name="$2" '$1 == name' | tee "$scratch/shown" | grep .; }
state() { row "$1" "$2" | awk '{ print $5 }'; }
listed() { [ -n "$(row "$1" "$2")" ] || { echo "not listed"; return 1; }; }
paused() { [[ $(state "$1" "$2") == *p* ]] || { echo "not paused"; return 1; }; }
unpaused() { [[ $(state "$1" "$2") =~ ^[rb-]+$ ]] || { echo "not running"; return 1; }; }
gone() {
	local tries
	for tries in $(seq 100); do
		"$1" domid "$2" >/dev/null 2>&1 || return 0
		sleep 0.1
	done
	echo "still there"
	return 1
}

# disk_state DOMAIN NUMBER: the state of a disk's backend, 4 while the guest uses it; nothing without one.
disk_state() {
	xenstore-read "/local/domain/0/backend/vbd/$(xl domid "$1")/$2/state" 2>/dev/null
}
# The second disk of the Linux guest is xvdb, number 51728.
used() {
	local tries
	for tries in $(seq 100); do
		[ "$(disk_state "$1" 51728)" = 4 ] && return 0
		sleep 0.1
	done
	echo "the guest does not use it"
	return 1
}
unused() { [ -z "$(disk_state "$1" 51728)" ] || { echo "still there"; return 1; }; }

# disks: an initramfs with the driver of disks, and two images of 64 MiB.
disks() {
	local tree=$scratch/tree
	mkdir -p $images
	modprobe -a xen-blkback loop
	truncate -s 64M $images/first.img $images/second.img
	guest_tree "$tree" xen-blkfront
	cat >"$tree/init" <<'INIT'
#!/bin/busybox sh
. /setup
wait_for /dev/xvda
[ -b /dev/xvda ] && serve_console
INIT
	pack_tree "$tree" $images/initrd
}

# says TOOL GUEST PATTERN: the guest's words reach us through the console command.
says() {
	local reader tries found=1
	"$1" console "$2" <>"$scratch/keys" >"$scratch/console" 2>&1 &
	reader=$!
	for tries in $(seq 1200); do
		if grep -a -m 1 -- "$3" "$scratch/console" >"$scratch/shown"; then
			found=0
			break
		fi
		kill -0 $reader 2>/dev/null || break
		sleep 0.05
	done
	kill $reader 2>/dev/null
	wait $reader 2>/dev/null
	[ $found -eq 0 ] || { echo "never saw '$3' in:"; cat "$scratch/console"; }
	return $found
}

# life ROLE TOOL GUEST PATTERN: everything that the demo does with one guest.
life() {
	local role=$1 tool=$2 guest=$3 pattern=$4 name=demo-$3
	echo "$tool, $guest guest:"
	local config=$configs/$guest.cfg
	step "$role" "$guest" create : "$tool" create "$config"
	step "$role" "$guest" list : listed "$tool" "$name"
	step "$role" "$guest" console : says "$tool" "$name" "$pattern"
	step "$role" "$guest" pause "paused $tool $name" "$tool" pause "$name"
	step "$role" "$guest" unpause "unpaused $tool $name" "$tool" unpause "$name"
	if [ "$guest" = linux ]; then
		step "$role" "$guest" attach "used $name" "$tool" block-attach "$name" "$images/second.img,raw,xvdb,rw"
		step "$role" "$guest" detach "unused $name" "$tool" block-detach "$name" xvdb
	fi
	step "$role" "$guest" shutdown "gone $tool $name" "$tool" shutdown -w "$name"
	step "$role" "$guest" "create 2" "unpaused $tool $name" "$tool" create "$config"
	step "$role" "$guest" destroy "gone $tool $name" "$tool" destroy "$name"
	# Whatever went wrong above, the next guest starts on clean ground.
	xl destroy "$name" >/dev/null 2>&1
}

cell() {
	case ${took_ms[$1]-} in
	'' | failed) echo "${took_ms[$1]:--}" ;;
	*) echo "${took_ms[$1]} ms" ;;
	esac
}

summary() {
	local guest name a b
	printf '%-7s %-9s %12s %12s %9s\n' guest step "$first" "$second" faster
	for guest in pv pvh linux; do
		for name in create list console pause unpause attach detach shutdown "create 2" destroy; do
			[ -n "${took_ms[1,$guest,$name]-}" ] || continue
			a=${took_ms[1,$guest,$name]-} b=${took_ms[2,$guest,$name]-}
			printf '%-7s %-9s %12s %12s %9s\n' "$guest" "$name" "$(cell "1,$guest,$name")" "$(cell "2,$guest,$name")" \
				"$(awk -v a="$a" -v b="$b" 'BEGIN { if (a + 0 > 0 && b + 0 > 0) printf "%.1f x", b / a }')"
		done
	done
}

mkfifo "$scratch/keys"
disks
echo "$(xl info | awk -F': *' '/^xen_version/ { print "Xen " $2 }'), dom0 $(uname -r)"
for guest in "pv:testguest: heartbeat" "pvh:testguest: heartbeat" "linux:XYL-GUEST-UP"; do
	life 1 "$first" "${guest%%:*}" "${guest#*:}"
	life 2 "$second" "${guest%%:*}" "${guest#*:}"
done
echo
summary
echo "(One run each, one after the other, under emulation: \`cargo xtask bench\` measures.)"
rm -rf "$scratch" $images
if [ $failures -gt 0 ]; then
	echo "demo: $failures steps FAILED"
	exit 1
fi
echo "demo: every step worked"
