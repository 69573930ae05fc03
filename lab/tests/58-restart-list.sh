# A VM that is restarted is in `xyl list` at every moment; one that waits for its next try is known by its name, and ends by it.
# limit_s: 400
# xen: any
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'

log_says() {
	grep -qE -- "$2" "/var/log/xen/xyl-$1.log"
}
# code_of COMMAND...: the code of the error of a command that fails.
code_of() {
	local output
	if output=$(XYL_JSON=1 "$@" 2>&1 >/dev/null); then
		fail "succeeded, but should not: $*"
	fi
	grep -o '"code": *"[^"]*"' <<<"$output" | tail -n 1 | cut -d'"' -f4
}
traces >"$scratch/before"
cp "$guests/testguest" "$scratch/kernel"
printf '%s\n' 'name = "polled"' 'type = "pvh"' "kernel = \"$scratch/kernel\"" 'memory = 32' >"$scratch/polled.cfg"
rm -f "$consoles/guest-polled.log"
ok xyl create -q "$scratch/polled.cfg"
within 20 readies polled 1
uuid=$(uuid_of polled)

# ---- a cluster manager polls all domains, and takes the columns of xl ----
poll() {
	while [ -e "$scratch/polling" ]; do
		xyl list 2>/dev/null >"$scratch/listed"
		awk '$1 == "polled" && NF == 6 { found++ } END { exit found != 1 }' "$scratch/listed" ||
			{ echo missed; cat "$scratch/listed"; } >>"$scratch/missed"
		grep -q '^polled .* ------ ' "$scratch/listed" && echo gap >>"$scratch/gaps"
		echo poll >>"$scratch/polls"
	done
}
touch "$scratch/polling" "$scratch/missed" "$scratch/gaps"
poll &
poller=$!
for ((n = 2; n <= 26; n++)); do
	first=$(domid_of polled)
	# A guest that has rebooted just now would wait for its restart.
	rm -f "/run/xyl/vm/$uuid/restart-delay"
	tell polled 'shutdown reboot'
	within 30 other_domid polled "$first"
	within 30 readies polled $n
done
rm "$scratch/polling"
wait $poller
echo "25 reboots, $(wc -l <"$scratch/polls") lists, $(wc -l <"$scratch/gaps") of them without a domain of it"
[ ! -s "$scratch/missed" ] || fail "not in the list: $(head -n 20 "$scratch/missed")"

# ---- it waits for its next try ----
domid=$(domid_of polled)
mv "$scratch/kernel" "$scratch/aside"
rm -f "/run/xyl/vm/$uuid/restart-delay"
tell polled 'shutdown reboot'
within 30 log_says polled 'not restarted: .*The next try follows in'
matches "^polled +$domid +32 +1 +------ +0.0" "$(xyl list)"
matches "^polled +$domid +32 +1 +------ +0.0 (waiting-for-restart|restarting)" "$(xyl list --states polled)"
matches '"vm_state": ?"(waiting-for-restart|restarting)"' "$(xyl list --json polled)"
for command in pause shutdown reboot domid; do
	matches 'waits-for-restart|restarting' "$(code_of xyl $command polled)"
done
printf '%s\n' 'name = "polled"' 'type = "pvh"' "kernel = \"$guests/testguest\"" 'memory = 32' >"$scratch/other.cfg"
equals name-taken "$(code_of xyl create -q "$scratch/other.cfg")"
pid=$(pgrep -f "^[^ ]*xyl -T monitor [0-9]+ $uuid")
ok xyl destroy polled
within 5 gone "$pid"
equals no-such-domain "$(code_of xyl list polled)"
ok test -e "/var/lib/xyl/kept/$uuid.cfg"
rm "/var/lib/xyl/kept/$uuid.cfg"
ok xyl create -q "$scratch/other.cfg"
ok xyl destroy polled
leaves_nothing "$scratch/before"
