# xyl create and xyl destroy are killed at random moments; the next command finishes or takes back what was under way, and a
# guest beside them runs on. KILLS says how often; SEED, which every run prints, repeats its moments.
# limit_s: 600
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'

kills=${KILLS:-40}
RANDOM=${SEED:=$((EPOCHSECONDS % 32768))}
echo "SEED=$SEED"

# config NAME TYPE LINE...: the path of a test guest's configuration.
config() {
	local path=$scratch/$1.cfg
	printf '%s\n' "name = \"$1\"" "type = \"$2\"" "kernel = \"$guests/testguest\"" 'memory = 16' "${@:3}" >"$path"
	echo "$path"
}
now_us() {
	echo "${EPOCHREALTIME/./}"
}
# took_us COMMAND...: how long it takes.
took_us() {
	local begun
	begun=$(now_us)
	ok "$@" >&2
	echo $(($(now_us) - begun))
}
# A file that never has anything to read: waiting for it needs no process of its own.
exec {never}<> <(:)
# killed LIMIT COMMAND...: starts it and kills it at a random moment before the limit, a variable in microseconds; whether it
# was still there. A limit at which it was not is too long, so it shrinks, and grows otherwise.
killed() {
	local -n limit_us=$1
	local pid
	shift
	"$@" &
	pid=$!
	read -rt "$(printf '0.%06d' $((RANDOM * 32768 % limit_us)))" -u "$never"
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
beats() {
	xenstore-read "/local/domain/$beside/data/heartbeat" 2>/dev/null || echo 0
}
has_beaten_since() {
	[ "$(beats)" -gt "$1" ]
}
runs() {
	[[ $(domain_state "$1") != *p* ]] && console_says "$1" 'testguest: ready'
}

ok xyl create -q "$(config beside pvh 'cmdline = "heartbeat_ms=200"')"
within 20 console_says beside 'testguest: ready'
beside=$(xl domid beside)
within 20 has_beaten_since 0
# Not what an earlier test has left to be finished, which the first recover below would take away.
ok xyl recover
traces >"$scratch/before"

nothing_asked() {
	! xenstore-ls -f /libxl | grep -q /xyl/asked/
}
gone_or_runs() {
	domain_gone "$1" || runs "$1"
}

# How long they take when nobody kills them; the second time, with the kernel in the cache.
cfg=$(config timed pvh 'cmdline = "heartbeat_ms=0"')
ok xyl create -q "$cfg"
ok xyl destroy timed
create_us=$(took_us xyl create -q "$cfg")
destroy_us=$(took_us xyl destroy timed)
[ $create_us -lt 900000 ] || create_us=900000
[ $destroy_us -lt 900000 ] || destroy_us=900000
leaves_nothing "$scratch/before"
echo "alone, a create takes $create_us us, a destroy $destroy_us us"

declare -A seen
for ((n = 1; n <= kills; n++)); do
	name=kill-$n
	type=$([ $((n % 2)) -eq 0 ] && echo pv || echo pvh)
	cfg=$(config $name $type 'cmdline = "heartbeat_ms=0"')
	what='create not killed'
	killed create_us xyl create -q "$cfg" && what='create killed'
	# Whatever comes next recovers first: half of the times a command that is about something else.
	if [ $((n % 4)) -lt 2 ]; then
		ok xyl recover 2>&1
	else
		refused 'no domain' xyl rename nobody somebody
	fi
	if domain_gone $name; then
		seen["$what, nothing left"]=$((${seen["$what, nothing left"]:-0} + 1))
		leaves_nothing "$scratch/before"
		continue
	fi
	within 20 runs $name
	seen["$what, it runs"]=$((${seen["$what, it runs"]:-0} + 1))
	what='destroy not killed'
	killed destroy_us xyl destroy $name && what='destroy killed'
	# What it had asked the VM's monitor for is done without it.
	within 20 nothing_asked
	ok xyl recover 2>&1
	within 20 gone_or_runs $name
	if domain_gone $name; then
		seen["$what, nothing left"]=$((${seen["$what, nothing left"]:-0} + 1))
	else
		seen["$what, it runs"]=$((${seen["$what, it runs"]:-0} + 1))
		ok xyl destroy $name
	fi
	leaves_nothing "$scratch/before"
done
for what in "${!seen[@]}"; do
	echo "$what: ${seen[$what]}"
done | sort

# The guest beside them is the same domain, and its heart beats.
equals "$beside" "$(xl domid beside)"
within 10 has_beaten_since "$(beats)"
ok xyl destroy beside
