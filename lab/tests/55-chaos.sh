# Commands, those who ask a monitor, and monitors are killed at random moments. The next command finishes what was under way or
# takes it back, nothing is left behind, and a guest beside them misses no heartbeat. Each scene comes once; then any of them,
# until the time is over. SEED repeats the choices of a run, CHAOS_S says how long it goes on.
# limit_s: 420
# xen: any
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'

for_s=${CHAOS_S:-$([ "$LAB_SOAK" = 1 ] && echo 3000 || echo 120)}
RANDOM=${SEED:=$((LAB_SEED % 32768))}
echo "SEED=$SEED"

# config NAME TYPE LINE...: the path of a test guest's configuration.
config() {
	testguest_cfg "$1" "$2" 'memory = 16' 'cmdline = "heartbeat_ms=0"' "${@:3}" >"$scratch/$1.cfg"
	echo "$scratch/$1.cfg"
}
# random_below LIMIT: sets picked. No subshell: there RANDOM begins anew, and SEED would not repeat it.
random_below() {
	picked=$((RANDOM * 32768 + RANDOM))
	picked=$((picked % $1))
}
# at_random LIMIT_US: waits until a random moment before the limit.
at_random() {
	local moment_s
	random_below "$1"
	printf -v moment_s '0.%06d' "$picked"
	read -rt "$moment_s" -u "$never"
}
# killed LIMIT COMMAND...: starts it and kills it at a random moment before the limit, a variable in microseconds; whether it
# was still there. A limit at which it was not is too long, so it shrinks, and grows otherwise.
killed() {
	local -n limit_us=$1
	local pid
	shift
	"$@" &
	pid=$!
	at_random "$limit_us"
	kill -KILL $pid 2>/dev/null
	wait $pid 2>/dev/null
	if [ $? -eq 137 ]; then
		count_kill
		limit_us=$((limit_us < 800000 ? limit_us * 5 / 4 : limit_us))
	else
		limit_us=$((limit_us > 4000 ? limit_us * 3 / 4 : limit_us))
		false
	fi
}
# took_us COMMAND...: how long it takes, below a second.
took_us() {
	local begun=${EPOCHREALTIME/./} took
	ok "$@" >&2
	took=$((${EPOCHREALTIME/./} - begun))
	echo $((took < 900000 ? took : 900000))
}
counted() {
	seen["$*"]=$((${seen["$*"]:-0} + 1))
}
runs() {
	[[ $(domain_state "$1") != *p* ]] && console_says "$1" 'testguest: ready'
}
gone_or_runs() {
	domain_gone "$1" || runs "$1"
}
nothing_asked() {
	! find /run/xyl/vm -path '*/requests/*.json' | grep -q .
}
paused() {
	[[ $(domain_state "$1") == *p* ]]
}
one_monitor() {
	[ "$(monitors "$1" | wc -l)" -eq 1 ]
}
# counts_on NAME: whether each heartbeat on its console is one more than that before.
counts_on() {
	tr -d '\r' <"$consoles/guest-$1.log" | awk '$1 == "testguest:" && $2 == "heartbeat" {
		if (last && $3 != last + 1) { print "after heartbeat", last, "came", $3; missed = 1 }
		last = $3
	} END { exit missed || !last }'
}

# ---- the scenes; each has a guest of its own, whose name is in $name ----

# A create and a destroy are killed.
commands() {
	local type=pv what='create not killed'
	random_below 2
	[ "$picked" -eq 0 ] || type=pvh
	killed create_us xyl create -q "$(config "$name" $type)" && what='create killed'
	# Whatever comes next recovers first, also a command that is about something else.
	random_below 2
	if [ "$picked" -eq 0 ]; then
		ok xyl recover 2>&1
	else
		refused 'no domain' xyl rename nobody somebody
	fi
	if domain_gone "$name"; then
		counted "$what, nothing left"
		return
	fi
	within 20 runs "$name"
	counted "$what, it runs"
	what='destroy not killed'
	killed destroy_us xyl destroy "$name" && what='destroy killed'
	# What it had asked the VM's monitor for is done without it.
	within 20 nothing_asked
	ok xyl recover 2>&1
	within 20 gone_or_runs "$name"
	if domain_gone "$name"; then
		counted "$what, nothing left"
	else
		counted "$what, it runs"
		ok xyl destroy "$name"
	fi
}

# find_monitor: sets monitor, beforehand: a shutdown is over before pgrep is.
find_monitor() {
	within 10 one_monitor "$name"
	monitor=$(monitors "$name")
}
# kill_monitor LIMIT_US: at a random moment before the limit. Then a command looks, as any administrator would.
kill_monitor() {
	at_random "$1"
	kill_hard "$monitor" && counted 'monitor killed'
	ok xyl list >/dev/null
}
# The monitor is killed while its guest reboots, resets itself and shuts down.
lives() {
	local domid asked
	ok xyl create -q "$(config "$name" pvh)"
	within 20 readies "$name" 1
	find_monitor
	ok xyl reboot "$name"
	kill_monitor 900000
	within 40 readies "$name" 2
	find_monitor
	domid=$(domid_of "$name")
	tell "$name" 'shutdown soft_reset'
	kill_monitor 400000
	within 40 console_says "$name" 'soft-reset done 1'
	equals "$domid" "$(domid_of "$name")"
	find_monitor
	# The guest and its monitor are as fast as the command: they are not waited for.
	xyl shutdown "$name" >"$scratch/shutdown" 2>&1 &
	asked=$!
	kill_monitor 100000
	wait $asked || fail "the shutdown failed: $(cat "$scratch/shutdown")"
	within 40 domain_gone "$name"
}

# Whoever asks the monitor for something is killed.
askers() {
	local ask_us=120000 other=$name-other
	ok xyl create -q "$(config "$name" pvh)"
	within 20 readies "$name" 1
	find_monitor
	killed ask_us xyl pause "$name"
	within 20 nothing_asked
	killed ask_us xyl unpause "$name"
	within 20 nothing_asked
	ok xyl unpause "$name"
	paused "$name" && fail 'paused for ever'
	killed ask_us xyl rename "$name" "$other"
	within 20 eval "domid_of $name >/dev/null || domid_of $other >/dev/null"
	within 20 nothing_asked
	domid_of "$name" >/dev/null || ok xyl rename "$other" "$name"
	equals "$monitor" "$(monitors "$name")"
	ok xyl destroy "$name"
}

# The monitor is killed while somebody waits for its answer.
answers() {
	local target_mib asker
	ok xyl create -q "$(config "$name" pvh)"
	within 20 readies "$name" 1
	for target_mib in 12 14; do
		find_monitor
		xyl mem-set "$name" $target_mib &
		asker=$!
		at_random 80000
		kill_hard "$monitor" && counted 'monitor killed'
		wait $asker || fail "exit code $? although another process can do it"
		equals $((target_mib * 1024)) "$(xenstore-read "/local/domain/$(domid_of "$name")/memory/target")"
		nothing_asked || fail 'a request is left'
		ok xyl list >/dev/null
	done
	ok xyl destroy "$name"
}

# ---- the run ----
declare -A seen
testguest_cfg beside pvh 'memory = 16' 'cmdline = "heartbeat_ms=500"' >"$scratch/beside.cfg"
ok xyl create -q "$scratch/beside.cfg"
within 20 readies beside 1
beside=$(domid_of beside)
# Not what an earlier test has left to be finished, which the first recover below would take away.
ok xyl recover
traces >"$scratch/before"

# How long they take when nobody kills them; the second time, with the kernel in the cache.
cfg=$(config timed pvh)
ok xyl create -q "$cfg"
ok xyl destroy timed
create_us=$(took_us xyl create -q "$cfg")
destroy_us=$(took_us xyl destroy timed)
leaves_nothing "$scratch/before"
echo "alone, a create takes $create_us us, a destroy $destroy_us us"

scenes=(commands commands commands lives askers answers)
for ((n = 0; n < ${#scenes[@]} || SECONDS < for_s; n++)); do
	picked=$n
	[ $n -lt ${#scenes[@]} ] || random_below ${#scenes[@]}
	scene=${scenes[picked]} name=chaos-$n
	$scene
	counted "scene: $scene"
	leaves_nothing "$scratch/before"
	rm -f "$consoles/guest-$name.log"
done
for what in "${!seen[@]}"; do
	echo "$what: ${seen[$what]}"
done | sort

[ "${seen[monitor killed]:-0}" -ge 2 ] || fail 'too few monitors were there to be killed'
# The guest beside them is the same domain, and has missed nothing.
equals "$beside" "$(domid_of beside)"
ok counts_on beside
within 10 beats_beyond beside "$(beats beside)"
ok xyl destroy beside
