# What changes a VM is carried out by its monitor: it outlives the command that has asked, and the monitor; a monitor that stands
# still holds nobody up; and none of it makes the monitor any larger.
# limit_s: 480
# xen: any
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'
rounds=${ROUNDS:-2} # 55-chaos goes on with it
RANDOM=${SEED:=$((LAB_SEED % 32768))}
echo "SEED=$SEED"

log=/var/log/xen/xyl-asked.log
log_says() {
	grep -qE -- "$1" "$log"
}
paused() {
	[[ $(domain_state asked) == *p* ]]
}
# requests: those that nobody has carried out yet.
requests() {
	find /run/xyl/vm -path '*/requests/*.json'
}
none_left() {
	[ -z "$(requests)" ]
}
one_monitor() {
	[ "$(monitors asked | wc -l)" -eq 1 ]
}
# own_kib PID: what it has that no other process has, written to.
own_kib() {
	awk '/^Anonymous/ { sum += $2 } END { print sum }' "/proc/$1/smaps"
}
is_small() {
	[ "$(own_kib "$monitor")" -le "$1" ]
}
# wait_at_random LIMIT_US: until a random moment before the limit. (In a subshell RANDOM begins anew, and SEED would not repeat it.)
wait_at_random() {
	local moment_s
	printf -v moment_s '0.%06d' $((RANDOM * 32768 % $1))
	read -rt "$moment_s" -u "$never"
}
# at_random COMMAND...: the command, killed at a random moment; whether it had ended before.
at_random() {
	local pid
	"$@" &
	pid=$!
	wait_at_random 120000
	kill_hard "$pid"
	wait "$pid" 2>/dev/null
}
traces >"$scratch/before"

testguest_cfg asked pvh 'memory = 32' 'vcpus = 1' 'maxvcpus = 2' 'cmdline = "heartbeat_ms=200"' >"$scratch/asked.cfg"
rm -f "$log"
ok xyl create -q "$scratch/asked.cfg"
within 20 readies asked 1
within 10 one_monitor
monitor=$(monitors asked)

# ---- all of it is the monitor's ----
within 10 is_small 250
small=$(own_kib "$monitor")
echo "a pause: $(xyl -v pause asked 2>&1 | grep cost)"
paused || fail 'not paused'
# Xen counts pauses; a second one is none.
ok xyl pause asked
ok xyl unpause asked
paused && fail 'still paused'
ok xyl unpause asked
ok xyl mem-max asked 64
ok xyl mem-set asked 24
equals 24576 "$(xenstore-read "/local/domain/$(domid_of asked)/memory/target")"
ok xyl vcpu-set -i asked 2
ok xyl vcpu-pin asked 0 0
ok xyl sched-credit2 -d asked -w 300
ok xyl sysrq asked h
refused 'cannot use 9 vCPUs' xyl vcpu-set -i asked 9
ok xyl rename asked other
ok xyl rename other asked
ok xyl dump-core asked "$scratch/core"
[ -s "$scratch/core" ] || fail 'no core'
for word in pause unpause mem-max mem-set vcpu-set vcpu-pin sched sysrq rename dump-core; do
	log_says "xyl: $word, for process [0-9]+\$" || fail "no $word in the monitor's log: $(cat "$log")"
done
none_left || fail "left: $(requests)"
# Its own memory: what a change takes it gives back; a core leaves a little, and the next ones no more.
within 10 is_small $((small + 128))
after=$(own_kib "$monitor")
ok xyl dump-core asked "$scratch/core"
ok xyl dump-core asked "$scratch/core"
within 10 is_small $((after + 64))
echo "the monitor's own memory: $small KiB before, $after KiB after all that, $(own_kib "$monitor") KiB after two more cores"

# ---- somebody else asks: the reply waits ----
uuid=$(uuid_of asked)
id=0190163d-8694-739b-aea5-966c26f8ad91
cat >"/run/xyl/vm/$uuid/requests/$id.1.new" <<JSON
{"version": 1, "id": "$id", "vm": "$uuid", "time_ms": $(date +%s)000, "asker": {"type": "remote", "name": "lab"},
 "request": {"type": "vcpus", "nr_vcpus": 9}}
JSON
mv "/run/xyl/vm/$uuid/requests/$id.1.new" "/run/xyl/vm/$uuid/requests/$id.json"
matches '"state": ?"requested"' "$(xyl ops --json)"
ok xyl recover # it wakes the monitor
within 10 none_left
matches '"code": ?"vcpus-out-of-range"' "$(cat "/run/xyl/replies/$uuid.$id.json")"
rm "/run/xyl/replies/$uuid.$id.json"

# ---- a command of the release before asks, and waits at a node ----
old=$(printf '%014d-%d-%032x-%s' "$(date +%s)000" $$ 7 "${uuid//-/}")
xenstore-write "/libxl/$(domid_of asked)/xyl/asked/$old" '"pause"'
within 10 paused
within 10 xenstore-exists "/tool/xyl/told/$old"
equals '{"done":"plainly"}' "$(xenstore-read "/tool/xyl/told/$old")"
xenstore-rm "/libxl/$(domid_of asked)/xyl"
xenstore-rm /tool/xyl
ok xyl unpause asked

# ---- whoever asks is killed ----
for ((n = 1; n <= rounds; n++)); do
	at_random xyl pause asked
	within 10 none_left
	at_random xyl unpause asked
	within 10 none_left
	ok xyl unpause asked
	paused && fail 'paused for ever'
	at_random xyl rename asked "asked-$n"
	within 10 eval 'domid_of asked >/dev/null 2>&1 || domid_of "asked-$n" >/dev/null 2>&1'
	within 10 none_left
	domid_of asked >/dev/null 2>&1 || ok xyl rename "asked-$n" asked
done
equals "$monitor" "$(monitors asked)"

# ---- the monitor is killed ----
for ((n = 1; n <= rounds; n++)); do
	xyl mem-set asked $((20 + n)) &
	asker=$!
	wait_at_random 80000
	kill_hard "$monitor"
	wait "$asker" || fail "round $n: exit code $?"
	equals $(((20 + n) * 1024)) "$(xenstore-read "/local/domain/$(domid_of asked)/memory/target")"
	none_left || fail "left: $(requests)"
	within 10 eval 'xyl list >/dev/null 2>&1; one_monitor'
	monitor=$(monitors asked)
done

# ---- the monitor stands still ----
kill -STOP "$monitor"
begun=$SECONDS
matches "process $monitor\\) does not answer: this process does it" "$(xyl pause asked 2>&1)"
[ $((SECONDS - begun)) -le 20 ] || fail "$((SECONDS - begun)) s"
paused || fail 'not paused'
ok xyl unpause asked
ok xyl upgrade-monitors
within 10 gone "$monitor"
monitor=$(monitors asked)

# ---- destroyed, and whoever asked is gone ----
at_random xyl destroy asked
domid_of asked >/dev/null 2>&1 && echo 'killed too early to have asked'
within 20 eval 'xyl destroy asked >/dev/null 2>&1; domain_gone asked'
within 10 gone "$monitor"
# An answer that nobody has read goes with the next recovery.
ok xyl recover
leaves_nothing "$scratch/before"
