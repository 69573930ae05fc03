# A PVH guest resets itself again and again, and stays the same domain on the same console and with its disk; its monitor may be
# killed in the middle. The first argument is how often it resets itself (20); lab/soak-soft-reset.sh has thousands.
# limit_s: 300
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'
resets=${1:-20}

# start NAME TYPE LINE...: a test guest made by xyl, ready. Sets domid.
start() {
	local name=$1 type=$2
	shift 2
	printf '%s\n' "name = \"$name\"" "type = \"$type\"" "kernel = \"$guests/testguest\"" 'memory = 32' \
		'cmdline = "heartbeat_ms=200"' "$@" >"$scratch/$name.cfg"
	ok xyl create -q "$scratch/$name.cfg"
	domid=$(domid_of "$name")
	within 20 console_says "$name" 'testguest: ready'
}
node() {
	xenstore-read "/local/domain/$domid/$1" 2>/dev/null
}
fds() {
	ls "/proc/$1/fd" | wc -l
}
# Pages of the program's file are no memory of its own: the kernel maps 64 KiB of them at once when another piece of code runs.
private_kib() {
	awk '/^Private_Dirty/ { sum += $2 } END { print sum }' "/proc/$1/smaps"
}
# What must not grow: descriptors of the monitor and of the daemons, xenstore's nodes, memory that Xen gives out.
usage() {
	local pid
	for pid in "$monitor" $(pgrep -x xenstored) $(pgrep -x xenconsoled); do
		echo "fds of $(cat "/proc/$pid/comm"): $(fds "$pid")"
	done
	echo "nodes: $(xenstore-ls | wc -l)"
	echo "free MiB: $(xl info | awk '/^free_memory/ { print $3 }')"
	echo "guest: $(xl list reset | awk 'NR == 2 { print $1, $2, $3, $4 }')"
	echo "tty: $(node console/tty)"
}
usage_as_before() {
	usage >"$scratch/after"
	diff "$scratch/before" "$scratch/after"
}
monitor_of() {
	pgrep -f "^[^ ]*xyl -T monitor $1 "
}
no_process() {
	! kill -0 "$1" 2>/dev/null
}
# No operation on the VM is under way or unfinished.
vm_runs() {
	[[ $(xyl list --states "$1" | tail -n 1) =~ running$ ]]
}
state_is() {
	[[ $(domain_state "$1") == *$2* ]]
}

# Again and again: the same domain, console and memory; nothing grows.
start reset pvh
first=$domid
monitor=$(monitor_of "$domid")
mkfifo "$scratch/keys"
xyl console reset <"$scratch/keys" >"$scratch/console" 2>&1 &
session=$!
exec 5>"$scratch/keys"
# The first ones may take buffers that stay.
ok python3 /xyl-lab/lab/soft-resets.py "$domid" 5
within 10 node data/heartbeat
usage >"$scratch/before"
before_kib=$(private_kib "$monitor")
heartbeat=$(node data/heartbeat)
for tenth in 1 2 3 4 5 6 7 8 9 10; do
	ok python3 /xyl-lab/lab/soft-resets.py "$domid" $((resets / 10))
	within 10 node data/heartbeat
	# A request under way has a descriptor or a node for a moment.
	within 10 usage_as_before
	after_kib=$(private_kib "$monitor")
	echo "monitor: $before_kib KiB private before, $after_kib KiB after $tenth tenths"
	# What the first resets take, such as buffers, it keeps; from then on it must not grow.
	[ "$tenth" -eq 3 ] && before_kib=$after_kib
done
cat "$scratch/after"
[ "$after_kib" -le $((before_kib + 64)) ] || fail "the monitor grew from $before_kib to $after_kib KiB"
equals "$first" "$(domid_of reset)"
matches '"on_soft_reset": "soft_reset"' "$(xl list -l reset | tr -s ' ')"
within 10 console_says reset "testguest: soft-reset done $((resets + 5))\$?"
# Its memory is the same: it counts on. What it prints comes out of the same tty, to whoever reads there.
within 10 eval '[ "$(node data/heartbeat || echo 0)" -gt "$heartbeat" ]'
printf '!echo still on the same tty\r' >&5
within 10 grep -aq '^still on the same tty' "$scratch/console"
[ "$(grep -ac 'soft-reset done' "$scratch/console")" -eq $((resets + 5)) ] || fail 'the session missed some of the console'
ok xl shutdown -w reset
within 20 no_process $session
exec 5>&-
# A line a minute is said of them.
[ "$(wc -l <"/var/log/xen/xyl-reset.log")" -lt $((20 + SECONDS / 60)) ] || fail 'the log grows with each reset'

# Its process is killed in the middle, or before; another finishes, and the guest has its disk.
modprobe -a xen-blkback loop || fail 'no drivers'
truncate -s 1M "$scratch/taken.img"
loops_of_taken() {
	losetup -n -O NAME -j "$scratch/taken.img" | wc -l
}
# The guest has no driver for it, so blkback has opened it and waits (state 2).
disk_is_attached() {
	local backend=/local/domain/0/backend/vbd/$domid/51712
	[ "$(xenstore-read "$backend/state" "$backend/online" | xargs)" = '2 1' ] &&
		[ -e "/sys/bus/xen-backend/devices/vbd-$domid-51712/physical_device" ]
}
start taken pvh "disk = [ '$scratch/taken.img,raw,xvda,rw' ]"
uuid=$(uuid_of taken)
for round in $(seq 1 5); do
	xenstore-rm "/local/domain/$domid/data/before-reset" 2>/dev/null
	ok xenstore-write "/local/domain/$domid/data/before-reset" "$round"
	xenstore-write "/local/domain/$domid/data/command" 'shutdown soft_reset'
	sleep "0.$(printf '%03d' $((round * 13 % 60)))"
	kill_hard "$(monitor_of "$domid")"
	xyl -T monitor "$domid" "$uuid" </dev/null >"$scratch/monitor.log" 2>&1 &
	within 20 eval '! node data/before-reset >/dev/null && [ "$(node data/state)" = up ]'
	within 10 vm_runs taken
	within 10 disk_is_attached
	equals "/local/domain/0/backend/vbd/$domid/51712" "$(node device/vbd/51712/backend)"
	# blkback closes the disk of before a moment after its node is gone.
	within 10 eval '[ "$(loops_of_taken)" -eq 1 ]'
done
within 10 eval '[ "$(grep -ac "soft-reset done" "$consoles/guest-taken.log")" -ge 5 ]'
matches '^taken +[0-9]+ +32 +1 +-?[rb]?' "$(xl list taken)"
# Who asks it to shut down while it waits for its reset asks its next kernel.
kill_hard "$(monitor_of "$domid")"
xenstore-write "/local/domain/$domid/data/command" 'shutdown soft_reset'
within 20 state_is taken s
xenstore-write "/local/domain/$domid/control/shutdown" poweroff
xyl -T monitor "$domid" "$uuid" </dev/null >"$scratch/monitor.log" 2>&1 &
within 20 console_says taken 'soft-reset done 6'
within 20 domain_gone taken
within 10 eval '[ "$(loops_of_taken)" -eq 0 ]'

# A disk that cannot be attached again is a crash, and the log names it.
truncate -s 1M "$scratch/gone.img"
start gone pvh "disk = [ '$scratch/gone.img,raw,xvdc,rw' ]" 'on_crash = "preserve"'
rm "$scratch/gone.img"
xenstore-write "/local/domain/$domid/data/command" 'shutdown soft_reset'
within 30 grep -q 'attach its devices again: disk .xvdc.*As after a crash: preserve' /var/log/xen/xyl-gone.log
within 10 state_is gone s
matches '"outcome":"failed"' "$(tail -n 1 "/run/xyl/vm/$(uuid_of gone)/journal")"
ok xyl destroy gone

# A PV guest that asks has crashed, and its owner reads why.
start asks-pv pv 'on_crash = "preserve"'
xenstore-write "/local/domain/$domid/data/command" 'shutdown soft_reset'
within 20 grep -q 'Xen cannot soft-reset a PV guest.*As after a crash: preserve' /var/log/xen/xyl-asks-pv.log
ok state_is asks-pv s
ok xyl destroy asks-pv
start asks-pv2 pv
xenstore-write "/local/domain/$domid/data/command" 'shutdown soft_reset'
within 20 domain_gone asks-pv2

# Other actions are obeyed.
start ends pvh 'on_soft_reset = "destroy"'
xenstore-write "/local/domain/$domid/data/command" 'shutdown soft_reset'
within 20 domain_gone ends
start anew pvh 'on_soft_reset = "restart"'
xenstore-write "/local/domain/$domid/data/command" 'shutdown soft_reset'
within 30 eval '[ "$(grep -ac "testguest: ready" "$consoles/guest-anew.log")" -ge 2 ]'
ok xl destroy anew
within 20 eval '[ -z "$(ls /var/lib/xyl/vm)" ]'
