# The host's start and stop with guests of both toolstacks, beside Debian's xendomains: the order is kept, a guest that never gets
# ready holds up no other, one that ignores its shutdown ends at the time limit, and each comes back once, by its own toolstack.
# limit_s: 900
# xen: any
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'
systemd=/lib/systemd/systemd
[ -x $systemd ] || skip 'no systemd here'
script=/etc/init.d/xendomains
[ -x $script ] || skip "no $script here"

mkdir -p /etc/xen/auto "$scratch/cfg"
had_save=$([ -d /var/lib/xen/save ] && echo yes)
cfg() {
	testguest_cfg "$1" pvh 'memory = 16' 'cmdline = "heartbeat_ms=200"' >"$scratch/cfg/$1.cfg"
}
for name in nas web never late extra; do cfg $name; done
testguest_cfg of-xl pv 'memory = 24' >/etc/xen/auto/of-xl.cfg

# The unit, by the kind of systemd that need not be process 1, and with a short time limit. xendomains is a unit as Debian has it.
export XDG_RUNTIME_DIR=$scratch/run XDG_CONFIG_HOME=$scratch/config
units=$XDG_CONFIG_HOME/systemd/user
mkdir -p "$units" && mkdir -m 700 "$XDG_RUNTIME_DIR" || fail 'no folders'
said="StandardOutput=append:$scratch/said\nStandardError=append:$scratch/said"
sed "s#/usr/local/sbin/xyl#$(command -v xyl)#; s/--timeout 300/--timeout 60/; s#^\[Service\]#&\n$said#" /xyl-lab/dist/systemd/xyl-guests.service \
	>"$units/xyl-guests.service"
cat >"$units/xendomains.service" <<END
[Service]
Type=oneshot
RemainAfterExit=yes
KillMode=process
Environment=PATH=$PATH
# Without it, Debian's scripts hand over to the systemd that is process 1, and here is none.
Environment=SYSTEMCTL_SKIP_REDIRECT=1
ExecStart=$script start
ExecStop=$script stop
TimeoutSec=400
END
mkdir -p /run/systemd/system
mountpoint -q /sys/fs/cgroup || ok mount -t cgroup2 cgroup2 /sys/fs/cgroup
$systemd --user --unit=paths.target --log-target=console >"$scratch/systemd.log" 2>&1 &
manager=$!
end() {
	local code=$?
	kill $manager && wait $manager
	[ $code -eq 0 ] || tail -n 40 "$scratch/systemd.log" "$scratch/said"
	rm -rf "$scratch" /run/systemd /etc/xyl/autostart.d /etc/xen/auto/of-xl.cfg
	[ -n "$had_save" ] || rm -rf /var/lib/xen/save
}
trap end EXIT
ctl() {
	systemctl --user --no-pager "$@"
}
answers() {
	ctl show -p Version >/dev/null 2>&1
}
within 60 answers

# The plan: web after nas, late after one that is never ready.
add() {
	ok xyl autostart add "$scratch/cfg/$1.cfg" "${@:2}"
}
add web --after nas --order -5 --ready 'console:testguest: ready'
add nas --ready xenstore:data/heartbeat
add never --ready xenstore:data/no-such-node --ready-timeout 3
add late --after never
refused 'makes a circle' xyl autostart add "$scratch/cfg/nas.cfg" --after web
equals 'nas web never late' "$(xyl start --all --dry-run | awk '{ printf "%s%s", sep, $3; sep = " " }')"
domains_of() {
	lab-query domains | wc -w
}
equals 0 "$(domains_of)"

# The host starts.
ok ctl start xendomains.service xyl-guests.service
active() {
	[ "$(ctl show -P ActiveState "$1")" = active ]
}
within 120 active xyl-guests.service
within 120 active xendomains.service
for name in of-xl nas web never late; do ok domid_of $name >/dev/null; done
[ "$(domid_of of-xl)" -lt "$(domid_of nas)" ] || fail 'xendomains did not start first'
[ "$(domid_of nas)" -lt "$(domid_of web)" ] || fail 'web did not wait for nas'
[ "$(domid_of never)" -lt "$(domid_of late)" ] || fail 'late did not wait for never'
matches 'never is not ready after 3 s' "$(cat "$scratch/said")"
matches 'web is ready after' "$(cat "$scratch/said")"

# One that does not start with the host, one that ignores its shutdown.
ok xyl create -q "$scratch/cfg/extra.cfg"
within 60 readies extra 1
within 60 readies web 1
tell web 'ignore-shutdown on'
within 20 console_says web 'ignore-shutdown'

# The host stops: Xyl's guests are gone before xendomains looks.
ok ctl stop xyl-guests.service xendomains.service
equals inactive "$(ctl show -P ActiveState xyl-guests.service)"
log=$(cat "$scratch/said")
matches 'web does not stop: it is destroyed' "$log"
matches 'extra has stopped' "$log"
matches 'nas has stopped' "$log"
for name in nas web never late extra; do ok domain_gone $name; done
# xl saves what can be saved, and that is its own guest at most.
equals '' "$(ls /var/lib/xen/save 2>/dev/null | grep -vx of-xl)"
ok domain_gone of-xl

# It starts again: each comes back once, by its own toolstack; the one without a file does not.
rm -f "$consoles"/guest-*.log
pkill -HUP -x xenconsoled
ok ctl start xendomains.service xyl-guests.service
within 120 active xyl-guests.service
equals 5 "$(domains_of)"
ok domain_gone extra
for name in nas web never late; do
	uuid=$(uuid_of $name)
	ok test -e "/run/xyl/watch/$uuid"
	matches . "$(xyl explain $name)"
done
ok test ! -e "/run/xyl/watch/$(uuid_of of-xl)"

# By hand, without the unit: nothing of xl's is touched, and a signal leaves nothing.
tell nas 'ignore-shutdown on'
within 20 console_says nas 'ignore-shutdown'
xyl stop --all --timeout 300 2>"$scratch/stop.err" &
stop=$!
within 60 domain_gone web
kill -TERM $stop
wait $stop
[ $? -ne 0 ] || fail 'the stop succeeded'
ok domid_of nas >/dev/null
refused 'not stopped: .*nas.*not within 1 s' xyl stop --all --timeout 1
ok xyl stop --all --timeout 1 --destroy
ok domain_gone nas
equals 1 "$(domains_of)"
ok ctl stop xyl-guests.service
ok xl destroy of-xl
ok ctl stop xendomains.service
true
