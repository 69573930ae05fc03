# Who watches over a domain, from before its first instruction on: with and without -F, -e, -p, after Ctrl-C and after failures.
# limit_s: 400
# xen: any
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'
cd "$scratch" || fail 'no scratch folder'

# cfg NAME TYPE [LINE...]: writes NAME.cfg.
cfg() {
	printf '%s\n' "name = \"$1\"" "type = \"$2\"" "kernel = \"$guests/testguest\"" 'memory = 32' \
		'cmdline = "heartbeat_ms=0"' "${@:3}" >"$1.cfg"
}
# monitors: the processes that watch over domains in the background.
monitors() {
	pgrep -f '^[^ ]*xyl -T monitor'
}
no_monitor() {
	! monitors
}
traces >before

# -F: the command itself watches, through a restart, until the end.
cfg front pv
xyl create -q -F front.cfg 2>front.err &
watcher=$!
within 30 readies front 1
no_monitor || fail 'a monitor besides the command in the foreground'
first=$(domid_of front)
tell front 'shutdown reboot'
within 30 other_domid front "$first"
within 30 readies front 2
gone $watcher && fail 'the command ended with the first life of its domain'
tell front 'shutdown poweroff'
within 30 gone $watcher
wait $watcher || fail "create -F ended with $?: $(cat front.err)"
leaves_nothing before
# A signal ends the command, and the domain goes on, as under xl.
cfg held pv
xyl create -q -F held.cfg &
watcher=$!
within 30 readies held 1
kill -TERM $watcher
within 10 gone $watcher
wait $watcher
equals 143 $?
ok domid_of held >/dev/null
ok xyl destroy held
leaves_nothing before

# -c: the console from the first byte to the last, and a monitor besides.
cfg shown pv
rm -f "$consoles/guest-shown.log"
xyl create -q -c shown.cfg </dev/null >shown.out 2>shown.err &
session=$!
within 30 readies shown 1
equals 1 "$(monitors | wc -l)"
tell shown 'shutdown poweroff'
within 20 gone $session
wait $session || fail "create -c ended with $?: $(cat shown.err)"
leaves_nothing before
diff shown.out "$consoles/guest-shown.log" || fail 'create -c missed some of what the guest printed'

# -e: nobody watches, and the domain stays as it ended.
cfg alone pv
ok xyl create -q -e alone.cfg
no_monitor || fail 'a monitor in spite of -e'
within 30 readies alone 1
tell alone 'shutdown poweroff'
within 20 eval "[[ \$(domain_state alone) == *s* ]]"
ok xyl destroy alone
leaves_nothing before

# -p: watched while it has not run yet; the monitor ends with the domain, whoever ends that.
cfg still pv
ok xyl create -q -p still.cfg
equals 1 "$(monitors | wc -l)"
matches p "$(domain_state still)"
ok xl destroy still
leaves_nothing before

# A monitor that cannot be started: the create is taken back.
cfg stuck pv
mkdir /var/log/xen/xyl-stuck.log
refused "monitor's log" xyl create -q stuck.cfg
rmdir /var/log/xen/xyl-stuck.log
leaves_nothing before

# The last hypercall, the start, fails after the monitor has been started: all is taken back, and the monitor is ended.
for type in pv pvh; do
	cfg late $type
	strace -o calls -e trace=ioctl xyl create -q -p late.cfg || fail 'a create under strace'
	monitor=$(monitors)
	ok xyl destroy late
	within 10 gone "$monitor"
	leaves_nothing before
	# Paused, it made every request but the one that starts it.
	last=$(($(grep -c '^ioctl' calls) + 1))
	refused 'start it' strace -o calls -e trace=ioctl -e "inject=ioctl:error=EIO:when=$last" xyl create -q late.cfg
	no_monitor || fail 'the monitor of a create that was taken back'
	leaves_nothing before
done

# Ctrl-C at any time: either nothing is left, or the domain runs and is watched over.
for type in pv pvh; do
	cfg torn $type
	python3 - <<'END' || fail 'Ctrl-C during a create'
import os, random, signal, subprocess, time

# A moment in each part of a create.
TURNS = 40 if os.environ["LAB_SOAK"] == "1" else 5
random.seed(os.environ["LAB_SEED"])

def output(*words):
    return subprocess.run(words, capture_output=True, text=True).stdout.strip()

def create():
    return subprocess.Popen(["xyl", "create", "-q", "torn.cfg"], start_new_session=True, stderr=subprocess.PIPE, text=True)

started = time.time()
assert create().wait(60) == 0
whole_s = time.time() - started
subprocess.run(["xyl", "destroy", "torn"], check=True)
undone = 0
for turn in range(TURNS):
    delay_s = whole_s * (turn + random.random()) / TURNS
    process = create()
    time.sleep(delay_s)
    try:
        # As the terminal does it: to all processes of the foreground.
        os.killpg(process.pid, signal.SIGINT)
    except ProcessLookupError:
        pass
    _, error = process.communicate(timeout=60)
    code, domid = process.returncode, output("xl", "domid", "torn")
    print(f"turn {turn}: after {delay_s:.3f} s of {whole_s:.3f} s: exit code {code}, domain {domid or 'none'}, {error!r}")
    if code == 0:
        assert domid, "no domain after success"
        assert output("pgrep", "-f", f"^[^ ]*xyl -T monitor {domid} "), "nobody watches over it"
        subprocess.run(["xyl", "destroy", "torn"], check=True)
    else:
        assert not domid, "a domain after a failure"
        undone += 1
assert undone, "no turn came in time"
END
	leaves_nothing before
done
