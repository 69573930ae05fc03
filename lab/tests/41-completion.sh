# A shell completes the names of domains, and is neither kept waiting nor shown an error where there are none.
# limit_s: 120
# xen: any
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'
cd "$scratch" || fail 'no scratch folder'
# make TOOL NAME...: paused domains.
make() {
	local name
	for name in "${@:2}"; do
		printf '%s\n' "name = \"$name\"" 'type = "pv"' "kernel = \"$guests/testguest\"" 'memory = 8' >a.cfg
		ok "$1" create -q -p -e a.cfg
	done
}
make xyl web-one web-two other
# Names that xyl takes for no new domain. One of digits alone would be taken for a number: it is not offered.
make xl 'web three' 77

# offered WORD...: what bash offers for the last of the words, sorted, on one line.
source <(xyl completion bash)
offered() {
	local COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_TYPE=9 COMPREPLY=()
	_clap_complete_xyl "$1" "${!#}" "${COMP_WORDS[COMP_CWORD - 1]}" 2>"$scratch/error"
	[ -s "$scratch/error" ] && cat "$scratch/error"
	printf '%s\n' "${COMPREPLY[@]}" | grep -v '^-' | sort | paste -sd,
}
# A name that would need quotes is not offered either.
equals 'web-one,web-two' "$(offered xyl destroy web)"
equals 'Domain-0,other,web-one,web-two' "$(offered xyl list '')"
equals other "$(offered xyl -v shutdown -w o)"
equals web-one "$(offered xyl vcpu-list other web-o)"
equals web-two "$(offered xyl sched-credit2 -d web-tw)"
# The same for zsh, by what its function asks.
matches '^other(:|$)' "$(XYL_COMPLETE=zsh _CLAP_COMPLETE_INDEX=2 _CLAP_IFS=$'\n' xyl -- xyl console oth)"

# Without Xen, without xenstored, and with one that does not answer: nothing, and soon.
nothing_offered() {
	local before=$SECONDS
	equals '' "$("$@" 2>&1)"
	[ $((SECONDS - before)) -lt 8 ] || fail "took $((SECONDS - before)) s: $*"
}
ask() {
	XYL_COMPLETE=bash _CLAP_COMPLETE_INDEX=2 _CLAP_IFS=$'\n' xyl -- xyl destroy web
}
export -f ask
nothing_offered unshare -m bash -c 'mount -t tmpfs none /dev/xen && mount -t tmpfs none /proc/xen && ask'
XENSTORED_PATH=/nosuch nothing_offered ask
pid=$(pidof xenstored || pidof oxenstored)
kill -STOP "$pid"
output=$(timeout 20 bash -c ask 2>&1)
code=$?
kill -CONT "$pid"
equals '0 ' "$code $output"

for name in web-one web-two 'web three' other; do
	ok xyl destroy "$name"
done
ok xyl destroy "$(xl list | awk '$1 == "77" { print $2 }')"
