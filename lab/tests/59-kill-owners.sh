# The process that watches over a VM is killed at a random moment while its guest reboots, resets itself and shuts down: the next
# command starts another, which goes on, and a guest beside them misses no beat. ROUNDS says how often; SEED repeats its moments.
# limit_s: 500
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'
rounds=${ROUNDS:-16}
RANDOM=${SEED:=$((EPOCHSECONDS % 32768))}
echo "SEED=$SEED"

# config NAME LINE...: the path of a guest's configuration.
config() {
	printf '%s\n' "name = \"$1\"" 'type = "pvh"' "kernel = \"$guests/testguest\"" 'memory = 16' "${@:2}" >"$scratch/$1.cfg"
	echo "$scratch/$1.cfg"
}
owner_of() {
	pgrep -f "^[^ ]*xyl -T monitor [0-9]+ $1"
}
# find_owner: sets owner, beforehand: a shutdown is over before pgrep is.
find_owner() {
	within 5 owner_of "$uuid" >/dev/null
	owner=$(owner_of "$uuid")
}
counts_on() {
	tr -d '\r' <"$consoles/guest-$1.log" | awk '$1 == "testguest:" && $2 == "heartbeat" {
		if (last && $3 != last + 1) { print "after heartbeat", last, "came", $3; missed = 1 }
		last = $3
	} END { exit missed || !last }'
}
# A file that never has anything to read: waiting for it needs no process of its own.
exec {never}<> <(:)
kills=0
# kill_owner LIMIT_US: at a random moment before the limit. Then a command looks, as any administrator would.
kill_owner() {
	read -rt "$(printf '0.%06d' $((RANDOM * 32768 % $1)))" -u "$never"
	kill_hard "$owner" && kills=$((kills + 1))
	ok xyl list >/dev/null
}

ok xyl create -q "$(config beside 'cmdline = "heartbeat_ms=500"')"
within 20 console_says beside 'testguest: ready'
beside=$(xl domid beside)
traces >"$scratch/before"
for ((n = 1; n <= rounds; n++)); do
	name=life-$n
	ok xyl create -q "$(config "$name" 'cmdline = "heartbeat_ms=0"')"
	within 20 readies "$name" 1
	uuid=$(uuid_of "$name")
	find_owner

	ok xyl reboot "$name"
	kill_owner 900000
	within 40 readies "$name" 2
	find_owner

	domid=$(xyl domid "$name")
	ok xenstore-write "/local/domain/$domid/data/command" 'shutdown soft_reset'
	kill_owner 400000
	within 40 console_says "$name" 'soft-reset done 1'
	equals "$domid" "$(xyl domid "$name")"
	find_owner

	# The guest and its owner are as fast as the command: they are not waited for.
	xyl shutdown "$name" >"$scratch/shutdown" 2>&1 &
	asked=$!
	kill_owner 100000
	wait $asked || fail "the shutdown failed: $(cat "$scratch/shutdown")"
	within 40 domain_gone "$name"
	leaves_nothing "$scratch/before"
done
echo "$kills owners killed in $rounds lives"
[ $kills -ge $((rounds * 2)) ] || fail 'too few of them were there to be killed'
equals "$beside" "$(xl domid beside)"
ok counts_on beside
ok xyl destroy beside
