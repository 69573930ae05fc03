# xyl console: on a pipe and on a terminal, from the first byte to the last.
# limit_s: 240
# xen: any
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'

# start NAME TYPE CMDLINE [OPTION...]: a test guest made by xl.
start() {
	printf 'name = "%s"\ntype = "%s"\nkernel = "%s"\nmemory = 16\ncmdline = "%s"\n' "$1" "$2" "$guests/testguest" "$3" >"$scratch/$1.cfg"
	[ "$2" = pv ] || echo 'shadow_memory = 2' >>"$scratch/$1.cfg"
	rm -f "$consoles/guest-$1.log"
	pkill -HUP -x xenconsoled
	ok xl create -q "${@:4}" "$scratch/$1.cfg"
}
says() {
	grep -aqE -- "$2" "$1"
}
ended() {
	! kill -0 "$1" 2>/dev/null
}

for type in pv pvh; do
	# From the first byte on, input and output, and the end with the domain.
	start talk $type 'heartbeat_ms=0' -p
	mkfifo "$scratch/keys"
	xyl console talk <"$scratch/keys" >"$scratch/out" 2>"$scratch/err" &
	session=$!
	exec 5>"$scratch/keys"
	ok xl unpause talk
	within 20 says "$scratch/out" 'testguest: ready'
	ok says "$scratch/out" 'testguest: up, TYPE'
	printf '!echo hello there\r' >&5
	within 10 says "$scratch/out" '^hello there'
	refused 'another session is on the console' xyl console talk
	xl console talk </dev/null >/dev/null 2>&1 && fail 'xl got at a console that xyl has'
	exec 5>&-
	rm "$scratch/keys"
	sleep 0.2
	ended $session && fail 'the end of the input ended the session'
	printf '!shutdown poweroff\r' >"$(xenstore-read "/local/domain/$(domid_of talk)/console/tty")"
	within 20 ended $session
	ok wait $session
	within 20 domain_gone talk
	diff "$scratch/out" "$consoles/guest-talk.log" || fail 'the session missed some of what the guest printed'
	[ -e /var/lock/xenconsole.* ] && fail 'a lock file was left behind'

	# A guest that ends at once loses nothing.
	start brief $type 'heartbeat_ms=0' -p
	xenstore-write "/local/domain/$(domid_of brief)/data/command" 'shutdown poweroff'
	xyl console brief </dev/null >"$scratch/out" 2>"$scratch/err" &
	session=$!
	within 10 test -e "/var/lock/xenconsole.$(domid_of brief)"
	ok xl unpause brief
	ok wait $session
	within 20 domain_gone brief
	diff "$scratch/out" "$consoles/guest-brief.log" || fail 'output of a brief guest was lost'
	ok says "$scratch/out" 'testguest: ready'

	# A reader that has seen enough ends the session.
	start beat $type 'heartbeat_ms=100'
	timeout 20 xyl console beat </dev/null | grep -am 1 'heartbeat' >/dev/null
	equals '0 0' "${PIPESTATUS[*]}"

	# On a terminal: raw while it lasts, Ctrl-] leaves, and the old modes come back, also after a signal.
	python3 - <<'END' || fail 'the session on a terminal'
import os, pty, signal, subprocess, sys, termios, time

def read_until(fd, wanted, limit_s=10):
    seen, deadline = b"", time.time() + limit_s
    while wanted not in seen:
        assert time.time() < deadline, (wanted, seen)
        seen += os.read(fd, 4096)
    return seen

for way in ("escape", "signal"):
    main, terminal = pty.openpty()
    before = termios.tcgetattr(terminal)
    session = subprocess.Popen(["xyl", "console", "beat"], stdin=terminal, stdout=terminal, stderr=terminal)
    read_until(main, b"Ctrl-] leaves it")
    read_until(main, b"heartbeat")
    assert termios.tcgetattr(terminal)[3] & termios.ICANON == 0, "not raw"
    os.write(main, b"!echo typed\r")
    read_until(main, b"\ntyped")
    if way == "escape":
        os.write(main, b"\x1d")
        code = 0
    else:
        session.send_signal(signal.SIGTERM)
        code = 143
    assert session.wait(10) == code, session.returncode
    assert termios.tcgetattr(terminal) == before, "the terminal's modes did not come back"
END
	ok xl destroy beat
done

refused 'domain 0 has no console of its own' xyl console 0
refused 'no domain `nobody`' xyl console nobody
