# One guest of twenty resets itself again and again, and its owner is killed in the middle each time (XSA-368 took every
# operation of a daemon down with it): the nineteen miss no beat, and what is done to them meanwhile is done.
# limit_s: 500
# xen: any
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'
rounds=${ROUNDS:-$([ "$LAB_SOAK" = 1 ] && echo 8 || echo 2)}
RANDOM=${SEED:=$((LAB_SEED % 32768))}
echo "SEED=$SEED"

# config NAME LINE...: the path of a guest's configuration.
config() {
	printf '%s\n' "name = \"$1\"" 'type = "pvh"' "kernel = \"$guests/testguest\"" 'memory = 16' \
		'cmdline = "heartbeat_ms=1000"' "${@:2}" >"$scratch/$1.cfg"
	echo "$scratch/$1.cfg"
}
monitor_of() {
	pgrep -f "^[^ ]*xyl -T monitor $1 "
}
beats() {
	xenstore-read "/local/domain/$1/data/heartbeat" 2>/dev/null || echo 0
}
# What must stay as it is of a guest that nothing is done to.
identity() {
	local domid
	domid=$(xyl domid "$1")
	echo "$1 $domid $(monitor_of "$domid") $(grep -ac 'testguest: ready' "$consoles/guest-$1.log")"
}
# counts_on NAME: whether each heartbeat on its console is one more than that before.
counts_on() {
	tr -d '\r' <"$consoles/guest-$1.log" | awk '$1 == "testguest:" && $2 == "heartbeat" {
		if (last && $3 != last + 1) { print "after heartbeat", last, "came", $3; missed = 1 }
		last = $3
	} END { exit missed || !last }'
}
ready_again() {
	[ "$(grep -ac 'testguest: ready' "$consoles/guest-$1.log")" -ge "$2" ]
}

# n-1 to n-5 are worked on, the others only have to live.
for n in $(seq 1 19); do
	ok xyl create -q "$(config "n-$n")"
done
ok xyl create -q "$(config reset)"
for n in $(seq 1 19); do
	within 30 console_says "n-$n" 'testguest: ready'
done
within 30 console_says reset 'testguest: ready'
domid=$(domid_of reset)
uuid=$(uuid_of reset)
for n in $(seq 6 19); do
	identity "n-$n"
done >"$scratch/before"

# What an administrator does meanwhile, each a command that waits for its end.
work() {
	local round
	for round in $(seq 1 "$rounds"); do
		ok xyl pause n-1
		ok xyl unpause n-1
		ok xyl rename n-2 n-2-renamed
		ok xyl rename n-2-renamed n-2
		ok xyl vcpu-pin n-3 0 0
		ok xyl reboot n-4
		within 60 ready_again n-4 $((round + 1))
		ok xyl destroy n-5
		ok xyl create -q "$scratch/n-5.cfg"
	done
}
work >"$scratch/work" 2>&1 &
worker=$!

for round in $(seq 1 "$rounds"); do
	ok xenstore-write "/local/domain/$domid/data/before-reset" "$round"
	ok xenstore-write "/local/domain/$domid/data/command" 'shutdown soft_reset'
	printf -v moment_s '0.%03d' $((RANDOM % 200)) # in a subshell RANDOM begins anew
	read -rt "$moment_s" -u "$never"
	kill_hard "$(monitor_of "$domid")"
	xyl -T monitor "$domid" "$uuid" </dev/null >>"$scratch/monitor.log" 2>&1 &
	disown
	within 40 eval '! xenstore-exists "/local/domain/$domid/data/before-reset" && [ "$(xenstore-read "/local/domain/$domid/data/state")" = up ]'
done
equals "$domid" "$(domid_of reset)"
[ "$(grep -ac 'soft-reset done' "$consoles/guest-reset.log")" -ge "$rounds" ] || fail 'a reset is missing'

wait $worker || fail "what was done to the others failed: $(cat "$scratch/work")"
for n in $(seq 6 19); do
	identity "n-$n"
done >"$scratch/after"
diff "$scratch/before" "$scratch/after" || fail 'another guest, or its owner, is not as it was'
for n in $(seq 6 19); do
	ok counts_on "n-$n"
	neighbour=$(xyl domid "n-$n")
	lived=$(beats "$neighbour")
	within 20 eval '[ "$(beats "$neighbour")" -gt "$lived" ]'
done
echo "$rounds resets with their owner killed; the last neighbour has counted $lived beats"

for name in reset $(seq -f 'n-%g' 1 19); do
	ok xyl destroy "$name"
done
