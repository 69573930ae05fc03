# A domain made by xyl: in order for xl, and when it ends its monitor does what its configuration says.
# limit_s: 240
# xen: any
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'

# start NAME TYPE LINE...: a test guest made by xyl, ready.
start() {
	testguest_cfg "$1" "$2" 'memory = 32' 'cmdline = "heartbeat_ms=0"' "${@:3}" >"$scratch/$1.cfg"
	ok xyl create -q "$scratch/$1.cfg"
	within 20 readies "$1" 1
}

for type in pv pvh; do
	# xl finds it in order.
	start seen-$type $type
	matches "^seen-$type +[0-9]+ +32 +1" "$(xl list "seen-$type")"
	matches '"name": "seen-'$type'"' "$(xl list -l "seen-$type")"
	matches "/local/domain/[0-9]+/name = \"seen-$type\"" "$(xenstore-ls -f)"
	uuid=$(uuid_of seen-$type)
	[ -f "/var/lib/xyl/vm/$uuid/config.cfg" ] || fail "no record of seen-$type"
	ok xl destroy "seen-$type"
	within 20 test ! -e "/var/lib/xyl/vm/$uuid"

	# Power-off destroys; a reboot restarts, with the same UUID.
	start ends-$type $type
	tell ends-$type 'shutdown poweroff'
	within 20 domain_gone ends-$type
	start again-$type $type
	first=$(domid_of again-$type)
	uuid=$(uuid_of again-$type)
	tell again-$type 'shutdown reboot'
	within 30 other_domid again-$type "$first"
	within 20 readies again-$type 2
	equals "$uuid" "$(uuid_of again-$type)"
	ok xyl destroy again-$type

	# A crash is preserved, or renamed and restarted, as configured.
	start kept-$type $type 'on_crash = "preserve"'
	tell kept-$type 'shutdown crash'
	within 20 eval "[[ \$(domain_state kept-$type) == *c* ]]"
	ok xyl destroy kept-$type
	start twice-$type $type 'on_crash = "rename-restart"'
	first=$(domid_of twice-$type)
	tell twice-$type 'shutdown crash'
	within 30 other_domid twice-$type "$first"
	matches "^twice-$type-[0-9]{8}T[0-9]{4}Z +$first " "$(xl list)"
	ok xyl destroy "$first"
	ok xyl destroy twice-$type
done
# What xl.conf says holds after a reboot too, and so does what was changed while the VM ran.
printf '%s\n' 'max_grant_version = 1' >"$scratch/xl.conf"
export XYL_XL_CONF="$scratch/xl.conf"
start kept pv
unset XYL_XL_CONF
uuid=$(uuid_of kept)
matches '^max_grant_version = 1' "$(grep '^max_grant_version' "/var/lib/xyl/vm/$uuid/config.cfg")"
first=$(domid_of kept)
ok xl rename kept kept-on
ok xl sched-credit2 -d kept-on -w 512
ok xenstore-write "/local/domain/$first/data/command" 'shutdown reboot'
within 30 other_domid kept-on "$first"
matches '512' "$(xl sched-credit2 -d kept-on)"
ok xyl destroy kept-on
no_records() { [ -z "$(ls /var/lib/xyl/vm)" ]; }
within 20 no_records
