# A monitor that dies is noticed and replaced, catches up, and never has a second one beside it; all are replaced under the
# running guests; a guest that reboots all the time is slowed down; a restart that fails is tried again.
# limit_s: 400
# xen: any
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'

# start NAME TYPE LINE...: a test guest made by xyl, ready. It has a kernel of its own.
start() {
	local name=$1 type=$2
	shift 2
	cp "$guests/testguest" "$scratch/$name.kernel"
	rm -f "$consoles/guest-$name.log"
	printf '%s\n' "name = \"$name\"" "type = \"$type\"" "kernel = \"$scratch/$name.kernel\"" 'memory = 32' \
		'cmdline = "heartbeat_ms=200"' "$@" >"$scratch/$name.cfg"
	ok xyl create -q "$scratch/$name.cfg"
	within 20 readies "$name" 1
}
# kill_monitor NAME: ends it as nothing can be caught, and waits until it is gone.
kill_monitor() {
	local pid
	pid=$(monitors "$1")
	ok kill -9 "$pid"
	within 10 gone "$pid"
}
one_monitor() {
	[ "$(monitors "$1" | wc -l)" -eq 1 ]
}
state_is() {
	[[ $(domain_state "$1") == *$2* ]]
}
log_says() {
	grep -qE -- "$2" "/var/log/xen/xyl-$1.log"
}
traces >"$scratch/before"

# ---- noticed by a list, by any change, by recover ----
start watched pvh
start beside pv
matches 'watched .*1[0-9]*' "$(xyl list)"
kill_monitor watched
matches 'watched: its monitor had died: process [0-9]+ is its monitor now' "$(xyl list 2>&1 >/dev/null)"
within 10 one_monitor watched
equals '' "$(xyl list 2>&1 >/dev/null)"
first=$(domid_of watched)
tell watched 'shutdown reboot'
within 30 other_domid watched "$first"
within 20 readies watched 2
# A list asks Xen and xenstored for nothing more.
kill_monitor watched
matches 'had died' "$(xyl pause beside 2>&1)"
ok xyl unpause beside
within 10 one_monitor watched
matches 'another process watches over' "$(xyl monitor "$(domid_of watched)" "$(uuid_of watched)" 2>&1)"
one_monitor watched || fail 'two monitors'
# Many who look at once start one.
kill_monitor watched
for _ in 1 2 3 4 5; do
	xyl list >/dev/null 2>&1 &
done
wait
within 20 one_monitor watched
ok xyl destroy watched

# ---- what happened while nobody watched ----
start asleep pvh 'on_crash = "restart"'
for reason in reboot crash soft_reset; do
	first=$(domid_of asleep)
	before=$(grep -ac 'testguest: ready\|soft-reset done' "$consoles/guest-asleep.log")
	kill_monitor asleep
	tell asleep "shutdown $reason"
	within 20 state_is asleep s
	ok xyl recover
	within 40 eval '[ "$(grep -ac "testguest: ready\|soft-reset done" "$consoles/guest-asleep.log")" -gt "$before" ]'
	if [ $reason = soft_reset ]; then
		equals "$first" "$(domid_of asleep)"
	else
		other_domid asleep "$first" || fail "no new domain after $reason"
	fi
	one_monitor asleep || fail "no monitor after $reason"
done
kill_monitor asleep
tell asleep 'shutdown poweroff'
within 20 state_is asleep s
ok xyl recover
within 20 domain_gone asleep
# Destroyed by xl meanwhile.
start taken pv
uuid=$(uuid_of taken)
kill_monitor taken
ok xl destroy taken
ok xyl recover
within 20 test ! -e "/run/xyl/watch/$uuid"
ok xyl destroy beside
leaves_nothing "$scratch/before"

# ---- nobody for whom nobody asked ----
printf '%s\n' 'name = "alone"' 'type = "pv"' "kernel = \"$guests/testguest\"" 'memory = 32' >"$scratch/alone.cfg"
ok xyl create -q -e "$scratch/alone.cfg"
ok xyl list >/dev/null
ok xyl recover
[ -z "$(monitors alone)" ] || fail 'a monitor in spite of -e'
ok xyl destroy alone

# ---- all of them replaced, under the running guests ----
start up-1 pvh
start up-2 pv
for round in 1 2 3; do
	old=$(monitors up-1)
	beat=$(xenstore-read "/local/domain/$(domid_of up-1)/data/heartbeat")
	first=$(domid_of up-2)
	# One of them reboots at that very moment.
	tell up-2 'shutdown reboot'
	output=$(ok xyl upgrade-monitors) || fail "$output"
	equals 2 "$(grep -cE '^up-[12] \(.*\): process [0-9]+ in the place of process [0-9]+$' <<<"$output")"
	within 10 one_monitor up-1
	other_monitor=$(monitors up-1)
	[ "$other_monitor" != "$old" ] || fail 'the same monitor'
	within 40 other_domid up-2 "$first"
	within 20 readies up-2 $((round + 1))
	within 10 one_monitor up-2
	within 10 eval '[ "$(xenstore-read "/local/domain/$(domid_of up-1)/data/heartbeat")" -gt "$beat" ]'
done
matches '"failed": ?null' "$(xyl upgrade-monitors --json | tr -d '\n' | tr -s ' ')"
ok xyl destroy up-1
ok xyl destroy up-2
leaves_nothing "$scratch/before"

# ---- reboot loops ----
start loop pv
for n in 1 2 3; do
	first=$(domid_of loop)
	tell loop 'shutdown reboot'
	[ $n -eq 3 ] && break
	within 30 other_domid loop "$first"
	within 20 readies loop $((n + 1))
done
within 10 log_says loop 'the restart waits 4 s: the guest has ended within 10 s of its start, 3 times in a row'
matches 'loop +restart +waits +[0-9]+ s the guest has ended' "$(xyl ops)"
# Whoever comes next waits for the rest of it.
kill_monitor loop
ok xyl list >/dev/null 2>&1
within 20 other_domid loop "$first"
within 20 readies loop 4
within 10 one_monitor loop
# The destroy of the domain ends the wait.
waits() {
	[ "$(grep -c 'the restart waits' /var/log/xen/xyl-loop.log)" -gt "$waited" ]
}
waited=$(grep -c 'the restart waits' /var/log/xen/xyl-loop.log)
# On a slow machine it may have lived long enough by now to be restarted at once: then some more short lives.
for n in 4 5 6 7; do
	first=$(domid_of loop)
	tell loop 'shutdown reboot'
	within 20 eval 'waits || other_domid loop "$first"'
	waits && break
	within 20 readies loop $((n + 1))
done
ok waits
pid=$(monitors loop)
ok xyl destroy loop
within 3 gone "$pid"
leaves_nothing "$scratch/before"

# ---- restarts that fail ----
start fails pvh
uuid=$(uuid_of fails)
mv "$scratch/fails.kernel" "$scratch/aside"
tell fails 'shutdown reboot'
within 20 log_says fails 'not restarted: .*The next try follows in 2 s'
[ -e "/var/lib/xyl/vm/$uuid/config.cfg" ] || fail 'its configuration is gone'
# Whoever comes next tries too.
ok kill -9 "$(pgrep -f "^[^ ]*xyl -T monitor [0-9]+ $uuid")"
mv "$scratch/aside" "$scratch/fails.kernel"
ok xyl recover
within 20 readies fails 2
mv "$scratch/fails.kernel" "$scratch/aside"
tell fails 'shutdown reboot'
within 100 log_says fails 'not restarted, after 5 tries.* xyl create /var/lib/xyl/kept/'
matches 'fails +restart +given up +[0-9]+ s .*; xyl create /var/lib/xyl/kept/' "$(xyl ops)"
matches '"vm_state": ?"given-up"' "$(xyl list --json)"
matches 'fails .*its restart was given up' "$(xyl recover 2>&1)"
refused 'its restart was given up' xyl pause fails
mv "$scratch/aside" "$scratch/fails.kernel"
ok xyl create -q "/var/lib/xyl/kept/$uuid.cfg"
within 20 readies fails 3
[ ! -e "/var/lib/xyl/kept/$uuid.cfg" ] || fail 'kept although it runs'
xyl ops | grep -q 'given up' && fail 'given up although it runs'

# ---- a wait says what it waits for ----
exec {held}>"/run/xyl/busy/$uuid"
ok flock "$held"
xyl destroy fails 2>"$scratch/said" {held}>&- &
destroy=$!
within 3 grep -q "waiting for another process that works on the VM $uuid" "$scratch/said"
exec {held}>&-
ok wait $destroy
leaves_nothing "$scratch/before"
