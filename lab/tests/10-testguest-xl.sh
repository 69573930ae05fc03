# xl runs our own test guest as PV and as PVH: what it checks, says and obeys. Tests of xyl rely on all of it.
# limit_s: 900
# xen: any
. /xyl-lab/lab/lib.sh

# The guest that the test is at. Its domid is looked up once: each call of xl takes a good part of a second here.
name= domid=

# start NAME TYPE LINE...: creates the guest, with these lines in its xl.cfg too, and waits until it is ready.
start() {
	name=$1
	{
		printf 'name = "%s"\ntype = "%s"\nkernel = "%s"\n' "$1" "$2" "$guests/testguest"
		# For a PVH guest as small as these xl 4.17 sets aside less paging memory than Xen needs.
		[ "$2" = pv ] || printf 'shadow_memory = 2\n'
		shift 2
		printf '%s\n' "$@"
	} >"$scratch/cfg"
	ok xl create -q "$scratch/cfg"
	domid=$(domid_of "$name")
	within 20 says 'testguest: ready'
}

# says PATTERN / says_times PATTERN COUNT: what stands in its console log.
says() {
	console_says "$name" "$1"
}
says_times() {
	[ "$(grep -acE -- "$1" "$consoles/guest-$name.log")" -ge "$2" ]
}

# node PATH / node_is PATH VALUE: reads one of its xenstore nodes.
node() {
	xenstore-read "/local/domain/$domid/$1" 2>/dev/null
}
node_is() {
	[ "$(node "$1")" = "$2" ]
}

# tell COMMAND: gives it a command through xenstore.
tell() {
	ok xenstore-write "/local/domain/$domid/data/command" "$1"
}

# told COMMAND ANSWER: gives a command and waits for the answer, an extended regular expression.
told() {
	xenstore-rm "/local/domain/$domid/data/result" 2>/dev/null
	tell "$1"
	within 20 answered "$2"
}
answered() {
	node data/result | grep -aqE -- "^$1\$"
}

beats_beyond() {
	[ "$(node data/heartbeat || echo 0)" -gt "$1" ]
}
gone() {
	domain_gone "$name"
}
state_has() {
	[[ $(domain_state "$name") == *$1* ]]
}

# boots TYPE: the smallest guest, then one with a module, more vCPUs, and the memory test.
boots() {
	local crc
	start "small-$1" "$1" 'memory = 8' 'cmdline = "heartbeat_ms=0"'
	ok says "^testguest: up, TYPE $1, domid [0-9]+, 8 MiB, 1 vcpus, cmdline \"heartbeat_ms=0\""
	ok xl destroy "$name"

	head -c 300001 /dev/urandom >"$scratch/module"
	crc=$(gzip -c "$scratch/module" | tail -c 8 | od -An -tx4 -N4 | tr -d ' ')
	start "full-$1" "$1" 'memory = 64' 'vcpus = 3' "ramdisk = \"$scratch/module\"" 'cmdline = "memtest a=\"b c\""'
	ok says "^testguest: up, TYPE $1, domid [0-9]+, 64 MiB, 3 vcpus, cmdline \"memtest a=.*b c"
	ok says "check module0? ok 300001 bytes at 0x[0-9a-f]+ crc32 $crc"
	ok says 'check memtest ok 1[56][0-9]{3} pages, 0 bad'
	[ "$1" = pv ] || ok says 'check acpi-madt ok .* 3 lapics, 3 enabled'
	matches '^[0-9]+ ok, 0 failed$' "$(node data/checks)"
	equals up "$(node data/state)"
	ok xl destroy "$name"
}

# listens TYPE: heartbeat, commands both ways, what the toolstack asks through xenstore.
listens() {
	start "busy-$1" "$1" 'memory = 16' 'vcpus = 2' 'cmdline = "heartbeat_ms=100"'
	within 10 beats_beyond 3
	ok says 'testguest: heartbeat 3'

	told 'echo two  words' 'ok echo two  words'
	ok says '^two  words'
	told 'dance' 'error dance: unknown command'
	told 'shutdown now' 'error shutdown now: usage: .*'
	told 'memtest' 'ok memtest: [0-9]+ pages, 0 bad'
	told 'fill-console 200' 'ok fill-console 200'
	within 10 says_times '^[0-9]{8} abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ ' 3200

	printf 'hello "guest"\r!echo from the console\r' >"$(node console/tty)"
	within 10 says 'testguest: got "hello \\"guest\\""'
	within 10 says '^from the console'

	ok xl sysrq "$name" h
	within 10 says 'testguest: sysrq h'
	ok xl mem-set "$name" 12
	within 10 says 'testguest: memory target [0-9]+ KiB'
	ok xl vcpu-set "$name" 1
	within 10 says 'testguest: vcpu 1 availability offline'

	told 'hostile' 'ok hostile: [0-9]+ done, [0-9]+ refused'
	told 'flood 50' 'ok flood 50: 50 done, 0 refused'
	equals x "$(node data/flood/49)"
	told 'flood 0' 'ok flood 0: 0 done, 0 refused'
	equals "$domid" "$(domid_of "$name")"

	# xl waits for the guest to take the request, so it runs beside; a guest that ignores it lives on.
	told 'ignore-shutdown on' 'ok ignore-shutdown on'
	xl shutdown "$name" &
	within 10 node_is control/shutdown poweroff
	told 'echo still here' 'ok echo still here'
	ok node_is control/shutdown poweroff
	tell 'ignore-shutdown off'
	ok wait $!
	within 20 gone
}

# ends TYPE: every reason to stop, as xl sees it.
ends() {
	local before reason
	start "end-$1" "$1" 'memory = 16'
	before=$domid
	ok xl reboot "$name"
	within 20 says_times 'testguest: ready' 2
	domid=$(domid_of "$name")
	[ "$domid" -gt "$before" ] || fail "the same domain after a reboot"
	tell 'shutdown reboot'
	within 20 says_times 'testguest: ready' 3
	domid=$(domid_of "$name")
	tell 'shutdown poweroff'
	within 20 gone

	for reason in crash:c watchdog:s suspend:s; do
		start "${reason%:*}-$1" "$1" 'memory = 16' 'on_crash = "preserve"' 'on_watchdog = "preserve"'
		tell "shutdown ${reason%:*}"
		within 20 state_has "${reason#*:}"
		ok says "testguest: ok shutdown ${reason%:*}"
		ok xl destroy "$name"
	done

	start "panic-$1" "$1" 'memory = 16'
	tell panic
	within 20 gone
	ok says 'testguest: panic: as commanded'

	start "spin-$1" "$1" 'memory = 16'
	told spin 'ok spin'
	ok xl destroy "$name"
}

# is_saved TYPE: save, restore, and a save that the guest survives.
is_saved() {
	start "save-$1" "$1" 'memory = 16' 'cmdline = "heartbeat_ms=100"'
	ok xl save -c "$name" "$scratch/image"
	within 20 says 'testguest: resumed 1, cancelled'
	told 'echo going on' 'ok echo going on'
	ok xl save "$name" "$scratch/image"
	ok gone
	ok xl restore "$scratch/image"
	within 20 says 'testguest: resumed 2, new domain'
	domid=$(domid_of "$name")
	within 20 beats_beyond 1
	told 'memtest' 'ok memtest: [0-9]+ pages, 0 bad'
	ok xl shutdown -w "$name"
}

# is_soft_reset: the guest's side of a soft reset, which xl offers to no PVH guest: here the least that a toolstack
# has to do between the shutdown and the guest's first step afterwards, by hand.
is_soft_reset() {
	local round
	start soft-pvh pvh 'memory = 16' 'on_soft_reset = "preserve"' 'cmdline = "heartbeat_ms=100"'
	cat >"$scratch/soft-reset.py" <<'PYTHON'
import ctypes, glob, subprocess, sys

STORE_PFN, STORE_EVTCHN, CONSOLE_EVTCHN = 1, 2, 18
domid = int(sys.argv[1])

def library(name):
    return ctypes.CDLL(sorted(glob.glob(f"/usr/lib/*/{name}.so*"))[-1])

def check(what, good):
    if not good:
        sys.exit(f"{what} failed")

control, store = library("libxenctrl"), library("libxenstore")
control.xc_interface_open.restype = store.xs_open.restype = ctypes.c_void_p
xen = ctypes.c_void_p(control.xc_interface_open(None, None, 0))
connection = ctypes.c_void_p(store.xs_open(0))

check("pause", control.xc_domain_pause(xen, domid) == 0)
check("release", store.xs_release_domain(connection, domid))
check("soft reset", control.xc_domain_soft_reset(xen, domid) == 0)
ports = [control.xc_evtchn_alloc_unbound(xen, domid, 0) for _ in range(2)]
check("event channels", min(ports) > 0)
for param, port in zip((STORE_EVTCHN, CONSOLE_EVTCHN), ports):
    check("set param", control.xc_hvm_param_set(xen, domid, param, ctypes.c_uint64(port)) == 0)
gfn = ctypes.c_uint64()
check("get param", control.xc_hvm_param_get(xen, domid, STORE_PFN, ctypes.byref(gfn)) == 0)
# The release took away what the guest owned.
for node in ("data", "control/shutdown", "control/feature-poweroff"):
    path = f"/local/domain/{domid}/{node}"
    subprocess.call(["xenstore-rm", path], stderr=subprocess.DEVNULL)
    subprocess.check_call(["xenstore-write", path, ""])
    subprocess.check_call(["xenstore-chmod", path, f"n{domid}"])
subprocess.check_call(["xenstore-write", f"/local/domain/{domid}/console/port", str(ports[1])])
check("introduce", store.xs_introduce_domain(connection, domid, ctypes.c_ulong(gfn.value), ports[0]))
check("unpause", control.xc_domain_unpause(xen, domid) == 0)
PYTHON
	for round in 1 2; do
		tell 'shutdown soft_reset'
		within 20 state_has S
		ok python3 "$scratch/soft-reset.py" "$domid"
		within 20 says "testguest: soft-reset done $round"
		told "echo after reset $round" "ok echo after reset $round"
		within 10 says "^after reset $round"
	done
	# Its monitor ended with the first reset.
	ok xl destroy "$name"
}

# xl takes its time: what does not depend on the type is looked at once. The tests of xyl go on with both.
for type in pv pvh; do
	boots $type
	is_saved $type
done
listens pv
ends pvh
is_soft_reset
