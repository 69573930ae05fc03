# Framebuffers and keyboards: a Linux guest shows its framebuffer to a VNC viewer and reads what is typed there. The VM's next domain has it
# again, by a QEMU that the monitor starts. QEMU can map the memory of its own guest alone, and its password is nowhere to be read.
# Keyboards of another program come and go. The guest answers at a channel by socket, which the next domain has again.
# limit_s: 600
# xen: 4.17
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'
[ -x /usr/libexec/xen-qemu-system-i386 ] || skip 'no QEMU here'
cd "$scratch" || fail 'no scratch folder'
files=/var/tmp/xyl-vfb
mkdir -p $files
chmod 700 $files

# The guest fills its framebuffer, tells of a key that is typed, and answers at its channel.
tree=$scratch/tree
guest_tree "$tree"
cat >"$tree/init" <<'INIT'
#!/bin/busybox sh
. /setup
wait_for /dev/fb0
(while :; do tr '\0' U </dev/zero | dd of=/dev/fb0 bs=4096 count=400 2>/dev/null; sleep 1; done) &
(read -r line </dev/tty1; echo "KEYS-SEEN $line" >/dev/hvc0) &
until (: </dev/hvc1) 2>/dev/null; do sleep 0.1; done
while read -r line; do echo "ANSWER $line"; done </dev/hvc1 >/dev/hvc1 &
serve_console
INIT
pack_tree "$tree" "$files/initrd"

cat >vnc.py <<'PYTHON'
"""vnc.py PORT banner | security | picture | type: talks to a VNC server (RFC 6143)."""
import socket, struct, sys, time
port, wanted = int(sys.argv[1]), sys.argv[2]
server = socket.create_connection(("127.0.0.1", port), timeout=20)
def read(size):
    data = b""
    while len(data) < size:
        more = server.recv(size - len(data))
        if not more:
            sys.exit(f"closed after {data!r}")
        data += more
    return data
banner = read(12)
if wanted == "banner":
    print(banner.decode().strip())
    sys.exit()
server.sendall(banner)
types = read(read(1)[0])
if wanted == "security":
    print(*types)
    sys.exit()
server.sendall(b"\1")
assert read(4) == b"\0\0\0\0", "refused"
server.sendall(b"\1")
first = read(24)
width, height = struct.unpack(">HH", first[:4])
read(struct.unpack(">I", first[20:])[0])
if wanted == "type":
    for key in (ord("a"), ord("b"), 0xFF0D):
        for down in (1, 0):
            server.sendall(struct.pack(">BBHI", 4, down, 0, key))
    time.sleep(1)
    sys.exit()
# Raw pixels of 32 bits.
server.sendall(struct.pack(">BxxxBBBBHHHBBBxxx", 0, 32, 24, 0, 1, 255, 255, 255, 16, 8, 0))
server.sendall(struct.pack(">BxHi", 2, 1, 0))
server.sendall(struct.pack(">BBHHHH", 3, 0, 0, 0, width, height))
assert read(1) == b"\0", "no update"
(count,) = struct.unpack(">xH", read(3))
pixels = b""
for _ in range(count):
    *_, w, h, encoding = struct.unpack(">HHHHi", read(12))
    assert encoding == 0, encoding
    pixels += read(w * h * 4)
print(width, height, "filled" if pixels.count(b"U") > len(pixels) // 3 else pixels[:16])
PYTHON
port_of() {
	xenstore-read "/local/domain/$(domid_of "$1")/console/vnc-port"
}
vnc() {
	python3 "$scratch/vnc.py" "$(port_of "$1")" "$2"
}
shows() {
	[ "$(vnc "$1" picture)" = "$2" ]
}
# confined NAME: its QEMU is a user of its own without rights, and maps the memory of its own domain alone.
confined() {
	local domid pid
	domid=$(domid_of "$1")
	pid=$(qemus "$domid")
	matches '^[0-9]+$' "$pid"
	equals "$((1900000000 + domid))" "$(awk '$1 == "Uid:" { print $2 }' "/proc/$pid/status")"
	equals /dev/xyl/qemu "$(readlink "/proc/$pid/root")"
	equals 2 "$(awk '$1 == "Seccomp:" { print $2 }' "/proc/$pid/status")"
	ok kept_to "$domid" "$pid"
}
# served NAME: the states of its framebuffer and its keyboard.
served() {
	local domid
	domid=$(domid_of "$1")
	echo "$(xenstore-read "/local/domain/0/backend/vfb/$domid/0/state") $(xenstore-read "/local/domain/0/backend/vkbd/$domid/0/state")"
}
connected() {
	[ "$(served "$1")" = '4 4' ]
}

# connects PATH [WORD]: whether a channel by socket takes a connection of root's, and the guest answers to a word.
connects() {
	python3 - "$@" <<'PYTHON'
import socket, sys
channel = socket.socket(socket.AF_UNIX)
channel.connect(sys.argv[1])
channel.settimeout(3)
if sys.argv[2:]:
    channel.sendall(sys.argv[2].encode() + b"\n")
    seen = b""
    while f"ANSWER {sys.argv[2]}".encode() not in seen:
        seen += channel.recv(4096)
PYTHON
}

traces >before

read -r type _ <<<"$(guest_types)"
echo "a $type guest shows its framebuffer, and reads what is typed"
linux_cfg fb "$type" | sed "s#^ramdisk.*#ramdisk = \"$files/initrd\"#" >fb.cfg
echo "vfb = [ 'vnc=1,keymap=de' ]" >>fb.cfg
echo "channel = [ 'name=agent,connection=socket,path=/run/xyl-fb.sock' ]" >>fb.cfg
ok xyl create -q fb.cfg
confined fb
equals 'RFB 003.008' "$(vnc fb banner)"

echo 'the next domain has its framebuffer, by a QEMU that the monitor starts; the password is nowhere'
# Debian 12 builds its QEMU without the cipher of VNC's passwords, so xl's guests have none either.
password=vncpasswd=geheim security=2
testguest_cfg again pvh "vfb = [ '$password' ]" >again.cfg
if ! said=$(xyl create -q again.cfg 2>&1); then
	matches 'does not support DES' "$said"
	password=vnc=1 security=1
	no_qemu 2 || fail "a QEMU is left: $(qemus)"
else
	ok xyl destroy again
fi
testguest_cfg again pvh "vfb = [ '$password' ]" "vkb = [ 'backend-type=linux,unique-id=pad' ]" \
	"channel = [ 'name=a,connection=socket,path=/run/xyl-again.sock' ]" >again.cfg
ok xyl create -q again.cfg
first=$(domid_of again)
[ "$(port_of again)" != "$(port_of fb)" ] || fail 'two domains at one port'
equals $security "$(vnc again security)"
within 60 readies again 1
tell again 'shutdown reboot'
within 60 other_domid again "$first"
within 60 readies again 2
no_qemu "$first" || fail "the first domain's QEMU is there still"
confined again
equals '2 2' "$(served again)"
ok connects /run/xyl-again.sock
equals 600 "$(stat -Lc %a /run/xyl-again.sock)"
equals $security "$(vnc again security)"
equals '' "$(tr '\0' ' ' <"/proc/$(qemus "$(domid_of again)")/cmdline" | grep -o geheim)"
equals '' "$(xenstore-ls -f | grep geheim)"

refused "another domain's channel" xyl create -q again.cfg 'name="other"'

echo 'keyboards of another program come and go'
ok xyl vkb-attach again backend-type=linux,width=640
equals "$(xl vkb-list again)" "$(xyl vkb-list again)"
equals 3 "$(xyl --json vkb-list again | grep -c '"devid"')"
refused 'cannot be attached to a running domain' xyl vkb-attach again backend-type=qemu
ok xyl vkb-detach again 2
refused 'served by the VM' xyl vkb-detach again 0
equals 2 "$(xyl --json vkb-list again | grep -c '"devid"')"
ok xyl destroy again

echo 'what is not supported is refused, and no file is removed'
echo mine >mine
testguest_cfg other pvh "channel = [ 'name=a,connection=socket,path=$scratch/mine' ]" >other.cfg
refused 'Xyl has not made' xyl create -q other.cfg
equals mine "$(cat mine)"
testguest_cfg other pvh "vfb = [ 'sdl=1' ]" >other.cfg
refused 'no window' xyl create -q other.cfg
python3 -c 'import socket, time; s = socket.create_server(("127.0.0.1", 5977)); time.sleep(60)' &
listener=$!
listens() {
	(: </dev/tcp/127.0.0.1/5977) 2>/dev/null
}
within 10 listens
testguest_cfg other pvh "vfb = [ 'vncdisplay=77,vncunused=0' ]" >other.cfg
refused 'ports of the displays 77 to 77' xyl create -q other.cfg
kill $listener

within 300 console_says fb XYL-GUEST-UP
within 60 connected fb
within 60 shows fb '800 600 filled'
within 30 connects /run/xyl-fb.sock hello
ok vnc fb type
within 30 console_says fb "KEYS-SEEN ab"
ok xyl destroy fb
no_qemu || fail "a QEMU is left: $(qemus)"
[ ! -e /run/xyl-fb.sock ] && [ ! -L /run/xyl-fb.sock ] || fail 'a socket is left'
leaves_nothing before
