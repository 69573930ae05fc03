# xl runs our own test guest as PV and as PVH: what it checks, says and obeys. Tests of xyl rely on all of it.
# limit_s: 240
. /xyl-lab/lab/lib.sh

# cfg NAME TYPE LINE...: prints an xl.cfg of the test guest.
cfg() {
	printf 'name = "%s"\ntype = "%s"\nkernel = "%s"\n' "$1" "$2" "$guests/testguest"
	# For a PVH guest as small as these xl 4.17 sets aside less paging memory than Xen needs.
	[ "$2" = pv ] || printf 'shadow_memory = 2\n'
	shift 2
	printf '%s\n' "$@"
}

# start NAME TYPE LINE...: creates the guest and waits until it is ready.
start() {
	cfg "$@" >"$scratch/$1.cfg"
	ok xl create -q "$scratch/$1.cfg"
	within 20 console_says "$1" 'testguest: ready'
}

# node NAME PATH: reads a node of the guest.
node() {
	xenstore-read "/local/domain/$(xl domid "$1")/$2" 2>/dev/null
}

node_is() {
	[ "$(node "$1" "$2")" = "$3" ]
}

# tell NAME COMMAND: gives a command through xenstore.
tell() {
	ok xenstore-write "/local/domain/$(xl domid "$1")/data/command" "$2"
}

# told NAME COMMAND ANSWER: gives a command and waits for the answer, an extended regular expression.
told() {
	xenstore-rm "/local/domain/$(xl domid "$1")/data/result" 2>/dev/null
	tell "$1" "$2"
	within 20 answered "$1" "$3"
}
answered() {
	node "$1" data/result | grep -aqE -- "^$2\$"
}

# count NAME PATTERN: how many console lines match.
count() {
	grep -acE -- "$2" "$consoles/guest-$1.log"
}
said_times() {
	[ "$(count "$1" "$2")" -ge "$3" ]
}

beats_beyond() {
	[ "$(node "$1" data/heartbeat || echo 0)" -gt "$2" ]
}
state_has() {
	[[ $(domain_state "$1") == *$2* ]]
}

# boots TYPE: the smallest guest, then one with a module, more vCPUs, and the memory test.
boots() {
	local name=small-$1 crc
	start "$name" "$1" 'memory = 8' 'cmdline = "heartbeat_ms=0"'
	ok console_says "$name" "^testguest: up, TYPE $1, domid [0-9]+, 8 MiB, 1 vcpus, cmdline \"heartbeat_ms=0\""
	ok xl destroy "$name"

	name=full-$1
	head -c 300001 /dev/urandom >"$scratch/module"
	crc=$(python3 -c 'import sys, zlib; print("%08x" % zlib.crc32(open(sys.argv[1], "rb").read()))' "$scratch/module")
	start "$name" "$1" 'memory = 64' 'vcpus = 3' "ramdisk = \"$scratch/module\"" 'cmdline = "memtest a=\"b c\""'
	ok console_says "$name" "^testguest: up, TYPE $1, domid [0-9]+, 64 MiB, 3 vcpus, cmdline \"memtest a=.*b c"
	ok console_says "$name" "check module0? ok 300001 bytes at 0x[0-9a-f]+ crc32 $crc"
	ok console_says "$name" 'check memtest ok 1[56][0-9]{3} pages, 0 bad'
	[ "$1" = pv ] || ok console_says "$name" 'check acpi-madt ok .* 3 lapics, 3 enabled'
	matches '^[0-9]+ ok, 0 failed$' "$(node "$name" data/checks)"
	equals up "$(node "$name" data/state)"
	ok xl destroy "$name"
}

# listens TYPE: heartbeat, commands both ways, what the toolstack asks through xenstore.
listens() {
	local name=busy-$1 domid
	start "$name" "$1" 'memory = 16' 'vcpus = 2' 'cmdline = "heartbeat_ms=100"'
	domid=$(xl domid "$name")
	within 10 beats_beyond "$name" 3
	ok console_says "$name" 'testguest: heartbeat 3'

	told "$name" 'echo two  words' 'ok echo two  words'
	ok console_says "$name" '^two  words'
	told "$name" 'dance' 'error dance: unknown command'
	told "$name" 'shutdown now' 'error shutdown now: usage: .*'
	told "$name" 'memtest' 'ok memtest: [0-9]+ pages, 0 bad'
	told "$name" 'fill-console 200' 'ok fill-console 200'
	within 10 said_times "$name" '^[0-9]{8} abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ ' 3200

	printf 'hello "guest"\r!echo from the console\r' >"$(node "$name" console/tty)"
	within 10 console_says "$name" 'testguest: got "hello \\"guest\\""'
	within 10 console_says "$name" '^from the console'

	ok xl sysrq "$name" h
	within 10 console_says "$name" 'testguest: sysrq h'
	ok xl mem-set "$name" 12
	within 10 console_says "$name" 'testguest: memory target [0-9]+ KiB'
	ok xl vcpu-set "$name" 1
	within 10 console_says "$name" 'testguest: vcpu 1 availability offline'

	told "$name" 'hostile' 'ok hostile: [0-9]+ done, [0-9]+ refused'
	told "$name" 'flood 100000' 'ok flood 100000: [0-9]+ done, 1 refused'
	told "$name" 'flood 0' 'ok flood 0: 0 done, 0 refused'
	equals "$domid" "$(xl domid "$name")"

	# xl waits for the guest to take the request, so it runs beside; a guest that ignores it lives on.
	told "$name" 'ignore-shutdown on' 'ok ignore-shutdown on'
	xl shutdown "$name" &
	within 10 node_is "$name" control/shutdown poweroff
	told "$name" 'echo still here' 'ok echo still here'
	ok node_is "$name" control/shutdown poweroff
	tell "$name" 'ignore-shutdown off'
	ok wait $!
	within 20 domain_gone "$name"
}

# ends TYPE: every reason to stop, as xl sees it.
ends() {
	local name=end-$1 domid reason
	start "$name" "$1" 'memory = 16' 'on_crash = "preserve"' 'on_watchdog = "preserve"'
	domid=$(xl domid "$name")
	ok xl reboot "$name"
	within 20 said_times "$name" 'testguest: ready' 2
	[ "$(xl domid "$name")" -gt "$domid" ] || fail "the same domain after a reboot"
	tell "$name" 'shutdown reboot'
	within 20 said_times "$name" 'testguest: ready' 3
	tell "$name" 'shutdown poweroff'
	within 20 domain_gone "$name"

	for reason in 'shutdown crash' 'shutdown watchdog' panic; do
		rm -f "$consoles/guest-$name.log"
		pkill -HUP -x xenconsoled
		start "$name" "$1" 'memory = 16' 'on_crash = "preserve"' 'on_watchdog = "preserve"'
		tell "$name" "$reason"
		if [ "$reason" = 'shutdown watchdog' ]; then
			within 20 state_has "$name" s
		else
			within 20 state_has "$name" c
		fi
		ok console_says "$name" "testguest: ok $reason"
		ok xl destroy "$name"
	done
	ok console_says "$name" 'testguest: panic: as commanded'

	start "spin-$1" "$1" 'memory = 16'
	told "spin-$1" spin 'ok spin'
	ok xl destroy "spin-$1"
}

# is_saved TYPE: save, restore, and a save that the guest survives.
is_saved() {
	local name=save-$1
	start "$name" "$1" 'memory = 16' 'cmdline = "heartbeat_ms=100"'
	ok xl save -c "$name" "$scratch/image"
	within 20 console_says "$name" 'testguest: resumed 1, cancelled'
	told "$name" 'echo going on' 'ok echo going on'
	ok xl save "$name" "$scratch/image"
	ok domain_gone "$name"
	ok xl restore "$scratch/image"
	within 20 console_says "$name" 'testguest: resumed 2, new domain'
	within 20 beats_beyond "$name" 1
	told "$name" 'memtest' 'ok memtest: [0-9]+ pages, 0 bad'
	ok xl shutdown -w "$name"
}

for type in pv pvh; do
	boots $type
	listens $type
	ends $type
	is_saved $type
done
