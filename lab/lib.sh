# What the lab's tests share. A test is a bash script in lab/tests that begins with
#   . /xyl-lab/lab/lib.sh
# It passes by ending with 0. Words about what it does go to stdout; they are shown when it fails.
# A line "# limit_s: N" in the test sets its time limit (120 s otherwise).

set -uo pipefail
. /xyl-lab/lab/initrd.sh

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

# A file that never has anything to read: waiting for it takes no process, as `sleep` would.
exec {never}<> <(:)
# A limit is for a machine with little else to do; a CI's can be so many times slower.
slowness=3
# within LIMIT_S COMMAND...: tries until the command succeeds; fails after the limit, times the slowness.
within() {
	local limit_s=$(($1 * slowness))
	local deadline=$((SECONDS + limit_s))
	shift
	until "$@"; do
		[ $SECONDS -lt $deadline ] || fail "not within $limit_s s: $*"
		# It ends by its time, which bash counts as a failure; a wait that succeeds must not.
		read -rt 0.1 -u "$never" || true
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

# domid_of NAME / domain_gone NAME / domain_state NAME / uuid_of NAME: by Xen and xenstored, whichever toolstack made the domain.
# The state is in the letters of `xl list`.
domid_of() {
	lab-query domid "$1"
}
domain_gone() {
	domid_of "$1" >/dev/null
	[ $? -eq 1 ]
}
domain_state() {
	lab-query state "$1"
}
uuid_of() {
	lab-query uuid "$1"
}

# kept_to DOMID PID: each open file of privcmd of a process is restricted to this domain: the kernel changes no restriction.
kept_to() {
	python3 - "$@" <<'PYTHON'
import ctypes, errno, fcntl, os, struct, sys
domid, pid = int(sys.argv[1]), int(sys.argv[2])
call = ctypes.CDLL(None, use_errno=True).syscall
pidfd = call(434, pid, 0)
RESTRICT, seen = 0x25006, 0
for name in os.listdir(f"/proc/{pid}/fd"):
    if os.readlink(f"/proc/{pid}/fd/{name}") != "/dev/xen/privcmd":
        continue
    file = call(438, pidfd, int(name), 0)
    fcntl.ioctl(file, RESTRICT, struct.pack("H", domid))
    try:
        fcntl.ioctl(file, RESTRICT, struct.pack("H", domid + 1))
        sys.exit(f"file {name} is not restricted")
    except OSError as error:
        assert error.errno == errno.EINVAL, error
    seen += 1
assert seen, "no file of privcmd"
PYTHON
}

# record_of NAME MEMBER: a list of libxl's record of a domain, such as `disks`, a member a line.
record_of() {
	xl list -l "$1" | python3 -c 'import json, sys; print(json.dumps(json.load(sys.stdin)[0]["config"][sys.argv[1]], sort_keys=True, indent=1))' "$2"
}
# differing FILE FILE: the names of the members and nodes in which two such lists, or lists of nodes, differ.
differing() {
	diff "$1" "$2" | sed -nE 's#^[<>] (.*/| *")([a-z_-]+)"?(:| =) .*#\2#p' | sort -u | xargs
}

# metric NAME DOMAIN [LABELS]: a value of `xyl metrics` about a domain; LABELS are further ones, with a comma before each.
metric() {
	xyl metrics | sed -n "s/^$1{uuid=\"$(uuid_of "$2")\"${3-}} //p"
}

. /xyl-lab/lab/kept.sh
# traces: what domains leave behind when they are not taken down whole, a line each: compare before and after.
traces() {
	lab-query traces "${kept_nodes[@]}" "${kept_files[@]}"
}
# as_before FILE: whether the traces are those in the file.
as_before() {
	lab-query settles 0 "$1" "${kept_nodes[@]}" "${kept_files[@]}" >"$scratch/traces.diff"
}
# leaves_nothing FILE: the traces become those in the file again, within the time that Xen takes to free a domain.
leaves_nothing() {
	lab-query settles 20 "$1" "${kept_nodes[@]}" "${kept_files[@]}" >"$scratch/traces.diff" ||
		fail "left behind: $(cat "$scratch/traces.diff")"
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
# It has 32 MiB unless a line says otherwise: xl of 4.17 creates no PVH domain without `memory`.
testguest_cfg() {
	printf '%s\n' "name = \"$1\"" "type = \"$2\"" "kernel = \"$guests/testguest\"" "${@:3}"
	[[ ${*:3} == *memory* ]] || echo 'memory = 32'
}
# tell NAME WORDS: has the test guest do something.
tell() {
	ok xenstore-write "/local/domain/$(domid_of "$1")/data/command" "$2"
}
# readies NAME NUMBER: whether the test guest has been ready so many times.
readies() {
	[ "$(grep -acs 'testguest: ready' "$consoles/guest-$1.log")" -ge "$2" ] 2>/dev/null
}
# beats NAME / beats_beyond NAME NUMBER: the test guest's heartbeat, and whether it has gone on.
beats() {
	xenstore-read "/local/domain/$(domid_of "$1")/data/heartbeat" 2>/dev/null || echo 0
}
beats_beyond() {
	[ "$(beats "$1")" -gt "$2" ]
}
# other_domid NAME DOMID: whether the VM has another domain by now.
other_domid() {
	local now
	now=$(domid_of "$1") && [ "$now" != "$2" ]
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

# qemus [DOMID]: the PIDs of the QEMUs that serve this domain, or any.
qemus() {
	pgrep -f -- "-xen-domid ${1:-[0-9]+} " | xargs
}
no_qemu() {
	[ -z "$(qemus "$@")" ]
}

# guest_types: the types of guests of a test in which each takes minutes. A soak has both; else the seed decides, so another commit
# has the other one.
guest_types() {
	case $LAB_SOAK$((LAB_SEED % 2)) in
	1*) echo pv pvh ;;
	00) echo pv ;;
	*) echo pvh ;;
	esac
}

# linux_cfg NAME TYPE: prints an xl.cfg of Debian's kernel with the lab's small initramfs.
linux_cfg() {
	printf 'name = "%s"\ntype = "%s"\nkernel = "%s"\nramdisk = "%s"\ncmdline = "console=hvc0 quiet"\nmemory = 256\n' \
		"$1" "$2" "$guests/linux-vmlinuz" "$guests/linux-initrd"
}
