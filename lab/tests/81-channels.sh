# Channels: consoles with a name, which QEMU serves at a terminal. A Linux guest answers at both of its channels, also after a restart and
# beside a disk of QEMU's. `channel-list` and the nodes are those of xl but for what is listed here. QEMU is as confined as for disks.
# limit_s: 600
# xen: any
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'
[ -x /usr/libexec/xen-qemu-system-i386 ] || skip 'no QEMU here'
cd "$scratch" || fail 'no scratch folder'
files=/var/tmp/xyl-channels
mkdir -p $files
chmod 700 $files

# The guest answers each line at its channels.
tree=$scratch/tree
guest_tree "$tree"
cat >"$tree/init" <<'INIT'
#!/bin/busybox sh
. /setup
for number in 1 2; do
	# The file is there before the channel.
	until (: </dev/hvc$number) 2>/dev/null; do sleep 0.1; done
	while read -r line; do echo "ANSWER $number $line"; done </dev/hvc$number >/dev/hvc$number &
done
serve_console
INIT
pack_tree "$tree" "$files/initrd"
channels="channel = [ 'name=org.example.agent,connection=pty', 'connection=pty, name=log' ]"
channels_cfg() {
	linux_cfg "$1" "$2" | sed "s#^ramdisk.*#ramdisk = \"$files/initrd\"#"
	echo "$channels"
}
# ask TERMINAL NUMBER: says something at a channel until the guest answers.
ask() {
	python3 - "$@" <<'PYTHON'
import os, select, sys, time, tty
path, number = sys.argv[1:3]
channel = os.open(path, os.O_RDWR | os.O_NOCTTY)
tty.setraw(channel)
word, seen, end = f"hello-{os.getpid()}", b"", time.monotonic() + 120
while time.monotonic() < end:
    os.write(channel, word.encode() + b"\n")
    again = time.monotonic() + 3
    while time.monotonic() < again:
        if select.select([channel], [], [], 1)[0]:
            seen += os.read(channel, 4096)
        if f"ANSWER {number} {word}".encode() in seen:
            sys.exit(0)
sys.exit(f"no answer at {path}: {seen!r}")
PYTHON
}
# terminals DOMAIN: the terminals of its channels.
terminals() {
	xyl channel-list "$1" | awk '$6 == "pty" { print $7 }'
}
# both_served DOMID: whether QEMU has taken both channels.
both_served() {
	[ "$(xenstore-ls -f "/local/domain/0/backend/console/$1" | grep -c '/[12]/state = "[24]"')" = 2 ]
}

traces >before

for type in pvh pv; do
	echo "a $type guest answers at both of its channels"
	channels_cfg $type $type >$type.cfg
	ok xyl create -q $type.cfg
	domid=$(domid_of $type)
	pid=$(qemus "$domid")
	matches '^[0-9]+$' "$pid"
	equals "$((1900000000 + domid))" "$(awk '$1 == "Uid:" { print $2 }' "/proc/$pid/status")"
	equals /dev/xyl/qemu "$(readlink "/proc/$pid/root")"
	equals 0000000000000000 "$(awk '$1 == "CapPrm:" { print $2 }' "/proc/$pid/status")"
	equals 2 "$(awk '$1 == "Seccomp:" { print $2 }' "/proc/$pid/status")"
	within 300 console_says $type XYL-GUEST-UP
	number=0
	for terminal in $(terminals $type); do
		number=$((number + 1))
		# Only root reads and writes at it.
		equals 0:0 "$(stat -c %u:%a "$terminal" | sed 's/:6[02]0$/:0/')"
		ask "$terminal" $number || fail "channel $number: $(xyl channel-list $type)"
	done
	equals 2 $number
	equals "$(xl channel-list $type)" "$(xyl channel-list $type)"
	equals '[1,"org.example.agent","pty",4] [2,"log","pty",4]' \
		"$(xyl --json channel-list $type | python3 -c 'import json, sys; print(*(json.dumps([c["devid"], c["name"], c["connection"], c["state"]], separators=(",", ":")) for c in json.load(sys.stdin)))')"
	ok xyl destroy $type
	no_qemu || fail "a QEMU is left: $(qemus)"
	leaves_nothing before
done

echo 'the next domain has its channels, by a QEMU that the monitor starts'
testguest_cfg again pvh "$channels" >again.cfg
ok xyl create -q again.cfg
first=$(domid_of again)
within 60 readies again 1
tell again 'shutdown reboot'
within 60 other_domid again "$first"
within 60 readies again 2
second=$(domid_of again)
no_qemu "$first" || fail "the first domain's QEMU is there still"
both_served "$second" || fail "$(xenstore-ls -f "/local/domain/0/backend/console")"
equals 2 "$(terminals again | grep -c '^/dev/pts/')"
echo 'xl destroys it whole'
ok xl destroy again
within 30 no_qemu
within 30 domain_gone again
ok xyl recover
leaves_nothing before

echo 'what is not supported is refused'
for channel in 'name=a,connection=socket,path=a.sock: absolute path' 'name=a,connection=pty,backend=storage: backend=storage'; do
	testguest_cfg other pvh "channel = [ '${channel%%: *}' ]" >other.cfg
	refused "${channel#*: }" xyl create -q other.cfg
done
leaves_nothing before

echo 'killed while QEMU starts'
for n in 1 2 3; do
	xyl create -q again.cfg >/dev/null 2>&1 &
	pid=$!
	read -rt "$((RANDOM % 3)).$((RANDOM % 9))" -u "$never"
	kill_hard $pid
	wait $pid 2>/dev/null
	ok xyl recover
	xyl destroy again >/dev/null 2>&1
	within 20 no_qemu
	leaves_nothing before
done

echo 'the nodes and the record are those of xl'
testguest_cfg nodes pvh "$channels" >nodes.cfg
nodes_of() {
	local domid=$1
	xenstore-ls -f | grep -E "^/local/domain/0/backend/console/$domid/[12]/|^/local/domain/$domid/device/console/|^/libxl/$domid/device/console/[12]/" |
		sed "s#/$domid/#/D/#g; s#\"$domid\"#\"D\"#; s#/dev/pts/[0-9]*#/dev/pts/N#" | sort
}
ok xyl create -q -p nodes.cfg
nodes_of "$(domid_of nodes)" >of-xyl
record_of nodes channels >record-xyl
ok xyl destroy nodes
# libxl of 4.17 gives the first channel the number of the console ("Primary console has invalid configuration"), so QEMU serves none.
case $(xl info xen_version) in
4.17.*)
	leaves_nothing before
	exit 0
	;;
esac
ok xl create -q -p nodes.cfg
within 60 both_served "$(domid_of nodes)"
nodes_of "$(domid_of nodes)" >of-xl
record_of nodes channels >record-xl
refused 'console 1, which QEMU serves' xyl adopt nodes
ok xl destroy nodes
# QEMU could not open a terminal in its folder, so `output` names one that it has opened before. Nothing reads the rest.
equals "$(cat record-xl)" "$(cat record-xyl)"
equals 'frontend-id online output protocol state' "$(differing of-xl of-xyl)"
leaves_nothing before
