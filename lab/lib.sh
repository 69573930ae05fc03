# What the lab's tests share. A test is a bash script in lab/tests that begins with
#   . /xyl-lab/lab/lib.sh
# It passes by ending with 0. Words about what it does go to stdout; they are shown when it fails.
# A line "# limit_s: N" in the test sets its time limit (120 s otherwise).

set -uo pipefail

guests=/xyl-lab/guests
consoles=/var/log/xen/console
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# fail WORDS...: ends the test as failed.
fail() {
	local depth
	echo "FAILED: $*"
	for ((depth = 1; depth < ${#FUNCNAME[@]}; depth++)); do
		echo "  at ${BASH_SOURCE[depth]##*/}:${BASH_LINENO[depth - 1]}"
	done
	exit 1
}

# skip WORDS...: ends the test as skipped; the words say why.
skip() {
	echo "$*" >"$LAB_SKIP_REASON"
	exit 77
}

# ok COMMAND...: the command must succeed.
ok() {
	local code=0
	"$@" || code=$?
	[ $code -eq 0 ] || fail "exit code $code of: $*"
}

# refused PATTERN COMMAND...: the command must fail, and its output must match the extended regular expression.
refused() {
	local pattern=$1 output
	shift
	if output=$("$@" 2>&1); then
		fail "succeeded, but should not: $*"
	fi
	matches "$pattern" "$output"
}

# equals EXPECTED ACTUAL
equals() {
	[ "$1" = "$2" ] || fail "expected '$1', got '$2'"
}

# matches PATTERN TEXT: the text must match the extended regular expression.
matches() {
	grep -aqE -- "$1" <<<"$2" || fail "no match for /$1/ in: $2"
}

# within LIMIT_S COMMAND...: tries until the command succeeds; fails after the limit.
within() {
	local limit_s=$1 deadline=$((SECONDS + $1))
	shift
	until "$@"; do
		[ $SECONDS -lt $deadline ] || fail "not within $limit_s s: $*"
		sleep 0.1
	done
}

# kill_hard PID: ends a process of xyl as nothing can be caught, at a moment that was left to chance. The runner counts them.
kill_hard() {
	kill -KILL "$1" 2>/dev/null && count_kill
}
count_kill() {
	echo kill >>"${LAB_KILLS:-/dev/null}"
}

# console_says NAME PATTERN: whether the guest's console log has a matching line.
console_says() {
	grep -aqsE -- "$2" "$consoles/guest-$1.log"
}

# domain_gone NAME / domain_state NAME: by xl, whichever toolstack made it.
domain_gone() {
	! xl domid "$1" >/dev/null 2>&1
}
domain_state() {
	xl list "$1" | awk 'NR == 2 { print $5 }'
}

# traces: what domains leave behind when they are not taken down whole, a line each: compare before and after.
traces() {
	xl list | awk 'NR > 1 { print "domain", $2 }'
	xl claims | awk 'NR > 1 && $4 > 0 { print "claim", $2 }'
	xenstore-ls -f / | sed 's/ = ".*//' | grep -vxE '/vm|/libxl|/tool/xyl(/told)?|/local/domain/0/backend(/[a-z]+)?'
	find /run/xyl /var/lib/xyl /var/lib/xen -mindepth 1 -path /var/lib/xen/dump -prune -o -print 2>/dev/null | grep -vxE '/var/lib/xyl/(vm|kept)|/run/xyl/(busy|vm|names|watch|(host-facts|told)\.(json|new))'
	pgrep -ax 'xyl|xyld|xl'
	true
}
# as_before FILE: whether the traces are those in the file.
as_before() {
	traces | diff "$1" - >"$scratch/traces.diff"
}
# leaves_nothing FILE: the traces become those in the file again, within the time that Xen takes to free a domain.
leaves_nothing() {
	local deadline=$((SECONDS + 20))
	until as_before "$1"; do
		[ $SECONDS -lt $deadline ] || fail "left behind: $(cat "$scratch/traces.diff")"
		sleep 0.2
	done
}

# grub_cfg NAME TYPE: prints an xl.cfg of a GRUB that says XYL-GRUB-UP and stays; TYPE is pv or pvh.
grub_cfg() {
	local kernel=$guests/grub-pvh
	[ "$2" = pv ] && kernel=$guests/grub-pv64
	printf 'name = "%s"\ntype = "%s"\nkernel = "%s"\nmemory = 32\n' "$1" "$2" "$kernel"
}

# shim_needs: prints the setting without which the shim does not start here. Debian's shim of Xen 4.20 ends in
# "BUG at arch/x86/xstate.c:522" under the emulation, with xl as with xyl.
shim_needs() {
	case $(xl info | awk '/^xen_version/ { print $3 }') in
	4.17.*) ;;
	*) echo 'pvshim_extra = "xsave=0"' ;;
	esac
}

# testguest_cfg NAME TYPE LINE...: prints an xl.cfg of the test guest.
testguest_cfg() {
	printf '%s\n' "name = \"$1\"" "type = \"$2\"" "kernel = \"$guests/testguest\"" "${@:3}"
}
# tell NAME WORDS: has the test guest do something.
tell() {
	ok xenstore-write "/local/domain/$(xl domid "$1")/data/command" "$2"
}
# readies NAME NUMBER: whether the test guest has been ready so many times.
readies() {
	[ "$(cat "$consoles/guest-$1.log" 2>/dev/null | grep -ac 'testguest: ready')" -ge "$2" ]
}
# beats NAME / beats_beyond NAME NUMBER: the test guest's heartbeat, and whether it has gone on.
beats() {
	xenstore-read "/local/domain/$(xl domid "$1")/data/heartbeat" 2>/dev/null || echo 0
}
beats_beyond() {
	[ "$(beats "$1")" -gt "$2" ]
}
# other_domid NAME DOMID: whether the VM has another domain by now.
other_domid() {
	local now
	now=$(xl domid "$1" 2>/dev/null) && [ "$now" != "$2" ]
}
# uuid_of NAME
uuid_of() {
	xl vm-list | awk -v name="$1" '$3 == name { print $1 }'
}

# monitors NAME: the processes that watch over it. gone PID: whether a process has ended.
monitors() {
	pgrep -f "^[^ ]*xyl -T monitor [0-9]+ $(uuid_of "$1")"
}
gone() {
	! kill -0 "$1" 2>/dev/null
}

# compared NAME: both toolstacks dump the core of a domain that stands still; the line of numbers of compare-cores.py. What
# else it says, and how long they take, goes to stderr.
compared() {
	local begun=$SECONDS between
	ok xl dump-core "$1" "$scratch/xl.core" >&2
	between=$SECONDS
	ok xyl dump-core "$1" "$scratch/xyl.core" >&2
	echo "$1: xl $((between - begun)) s, xyl $((SECONDS - between)) s" >&2
	equals 600 "$(stat -c %a "$scratch/xyl.core")"
	python3 /xyl-lab/lab/compare-cores.py "$scratch/xl.core" "$scratch/xyl.core" >"$scratch/compared" || fail "not the same: $(cat "$scratch/compared")"
	cat "$scratch/compared" >&2
	tail -n 1 "$scratch/compared"
	rm "$scratch"/*.core
}

# linux_cfg NAME TYPE: prints an xl.cfg of Debian's kernel with the lab's small initramfs.
linux_cfg() {
	printf 'name = "%s"\ntype = "%s"\nkernel = "%s"\nramdisk = "%s"\ncmdline = "console=hvc0 quiet"\nmemory = 256\n' \
		"$1" "$2" "$guests/linux-vmlinuz" "$guests/linux-initrd"
}
