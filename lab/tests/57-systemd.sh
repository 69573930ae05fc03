# systemd runs the units that come with Xyl: a VM's monitor is killed, nobody types a command, and another watches over the VM.
# limit_s: 240
# xen: any
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'
systemd=/lib/systemd/systemd
[ -x $systemd ] || skip 'no systemd here'

# The kind of systemd that need not be process 1. The unit files are the same, but for the folder that xyl is in.
export XDG_RUNTIME_DIR=$scratch/run XDG_CONFIG_HOME=$scratch/config
units=$XDG_CONFIG_HOME/systemd/user
mkdir -p "$units" && mkdir -m 700 "$XDG_RUNTIME_DIR" || fail 'no folders'
for unit in /xyl-lab/dist/systemd/*; do
	sed "s#/usr/local/sbin/xyl#$(command -v xyl)#" "$unit" >"$units/${unit##*/}"
done
mkdir -p /run/systemd/system # it wants a host that was booted with systemd
mountpoint -q /sys/fs/cgroup || ok mount -t cgroup2 cgroup2 /sys/fs/cgroup
$systemd --user --unit=paths.target --log-target=console >"$scratch/systemd.log" 2>&1 &
manager=$!
end() {
	local code=$?
	kill $manager && wait $manager
	[ $code -eq 0 ] || cat "$scratch/systemd.log"
	rm -rf "$scratch" /run/systemd
}
trap end EXIT
ctl() {
	systemctl --user --no-pager "$@"
}
answers() {
	ctl show -p Version >/dev/null 2>&1
}
within 30 answers

monitor() {
	pgrep -f "^[^ ]*xyl -T monitor [0-9]+ $uuid"
}
# watched_by_another PID: whether a process other than that one watches over it.
watched_by_another() {
	local pid
	pid=$(monitor) && [ "$pid" != "$1" ]
}
service_rests() {
	[ "$(ctl show -P ActiveState xyl-recover.service)" = inactive ]
}

printf '%s\n' 'name = "watched"' 'type = "pvh"' "kernel = \"$guests/testguest\"" 'memory = 16' 'cmdline = "heartbeat_ms=500"' >"$scratch/cfg"
ok xyl create -q "$scratch/cfg"
within 20 console_says watched 'testguest: ready'
uuid=$(uuid_of watched)
within 5 monitor >/dev/null

# The path unit sees the death.
ok ctl start xyl-recover.path
for round in 1 2 3; do
	pid=$(monitor)
	ok kill_hard "$pid"
	within 20 watched_by_another "$pid"
	within 20 service_rests
	equals success "$(ctl show -P Result xyl-recover.service)"
	# It lives on when the service that has started it is over.
	within 5 monitor >/dev/null
done
ok ctl stop xyl-recover.path

# So does the timer, where nothing else has.
pid=$(monitor)
ok kill_hard "$pid"
ok ctl start xyl-recover.timer
within 90 watched_by_another "$pid"
ok ctl stop xyl-recover.timer
within 20 service_rests

# The guest has noticed nothing, and the last of them ends it in order.
ok ctl stop xyl-recover.service
watched_by_another 0 || fail 'the monitor ended with its service'
equals 1 "$(grep -ac 'testguest: ready' "$consoles/guest-watched.log")"
ok xyl shutdown -w watched
