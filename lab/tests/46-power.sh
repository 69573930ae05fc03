# What xyl asks of a running guest, the guest sees: shutdown, reboot, pause, keys, memory, vCPUs.
# limit_s: 240
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'

# start NAME TYPE LINE...: a test guest made by xl, ready.
start() {
	testguest_cfg "$1" "$2" 'memory = 16' "${@:3}" >"$scratch/$1.cfg"
	[ "$2" = pv ] || echo 'shadow_memory = 2' >>"$scratch/$1.cfg"
	rm -f "$consoles/guest-$1.log"
	pkill -HUP -x xenconsoled
	ok xl create -q "$scratch/$1.cfg"
	within 20 console_says "$1" 'testguest: ready'
}

for type in pv pvh; do
	name=power-$type
	start $name $type 'vcpus = 2' 'cmdline = "heartbeat_ms=50"'

	ok xyl pause $name
	matches p "$(domain_state $name)"
	before=$(beats $name)
	sleep 0.3
	equals "$before" "$(beats $name)"
	ok xyl unpause $name
	within 10 beats_beyond $name "$before"

	ok xyl sysrq $name h
	within 10 console_says $name 'testguest: sysrq h'
	ok xyl mem-set $name 12
	within 10 console_says $name 'testguest: memory target [0-9]+ KiB'
	ok xyl vcpu-set $name 1
	within 10 console_says $name 'testguest: vcpu 1 availability offline'

	# A dry run does nothing.
	matches 'would ask domain [0-9]+ to shut down' "$(xyl -N shutdown -w $name)"
	matches 'would pause domain' "$(xyl -N pause $name)"
	[[ $(domain_state $name) == *p* ]] && fail 'a dry run paused it'

	# A guest that does not listen is named, within the time given.
	tell $name 'ignore-shutdown on'
	refused 'domain [0-9]+ has not taken the request.*not within 2 s' xyl shutdown --timeout 2 $name
	tell $name 'ignore-shutdown off'
	within 20 domain_gone $name

	start $name $type
	domid=$(domid_of $name)
	ok xyl reboot -w $name
	within 20 readies $name 2
	[ "$(domid_of $name)" -gt "$domid" ] || fail 'the same domain after a reboot'
	ok xyl shutdown -ww $name
	ok domain_gone $name

	start $name $type 'on_poweroff = "preserve"'
	ok xyl shutdown -w --timeout 30 $name
	matches s "$(domain_state $name)"
	ok xyl destroy $name
	ok domain_gone $name

	start $name $type
	start other-$type $type
	ok xyl reboot -a -w --timeout 60
	within 30 readies $name 2
	within 30 readies other-$type 2
	ok xyl shutdown -a -w --timeout 60
	within 20 domain_gone $name
	within 20 domain_gone other-$type
done

start nmi pv
refused 'invalid value' xyl trigger nmi dance
refused 'not there yet' xyl trigger nmi s3resume
ok xyl trigger nmi nmi
# The guest has no handler for it, so it may have ended by itself.
xyl destroy nmi || true
within 20 domain_gone nmi
refused 'domain 0 is the control domain' xyl pause 0
refused 'domain 0 is the control domain' xyl shutdown 0
