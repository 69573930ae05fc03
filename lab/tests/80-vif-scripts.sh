# Network interfaces with a hot-plug script, on real Xen: vif-route gives a guest its route, and it answers a ping; a script of the
# administrator gets the environment that xl gives it, at a create, a reboot and the end; one that fails fails the create and leaves
# nothing; one that others can change is not run; xl detaches an interface of ours. A command that is killed takes its script's own
# process with it, and not what the script has started. Not shown: an interface that xl attaches with a script to a VM whose monitor
# runs none, which needs the next monitor (by the next command or xyl-recover.timer); one of an HVM guest with type=ioemu, which a
# destroy refuses without --force, and for which Xyl runs no script.
# limit_s: 600
# xen: any
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'
modprobe -a xen-netback bridge || fail 'no drivers'
cd "$scratch" || fail 'no scratch folder'
scripts=/etc/xen/scripts
[ -x $scripts/vif-route ] || skip 'no vif-route here'

# Debian's vif-route needs the old ifconfig, which this root does not have.
command -v ifconfig >/dev/null || ln -s "$(command -v busybox)" /usr/sbin/ifconfig
trap 'ip link del xenbr0 2>/dev/null; ip link del xyl-gw 2>/dev/null; rm -rf $scripts/xyl-own $scripts/xyl-bad "$scratch"' EXIT

tree=$scratch/tree
guest_tree "$tree" xen-netfront
cat >"$tree/init" <<'INIT'
#!/bin/busybox sh
. /setup
wait_for /sys/class/net/eth0
ifconfig eth0 10.98.0.5 netmask 255.255.255.0 up
for tries in $(seq 100); do
	ping -c 1 -W 1 10.98.0.1 >/dev/null 2>&1 && echo XYL-PINGED && break
done
echo "XYL-GUEST-UP"
while :; do setsid -c /bin/sh </dev/hvc0 >/dev/hvc0 2>&1; done
INIT
pack_tree "$tree" initrd

# The script writes down what it gets, and has vif-bridge do the work.
cat >$scripts/xyl-own <<OWN
#!/bin/bash
{ echo "words: \$*"; echo "input: \$(readlink /proc/self/fd/0)"; env; } >>"$scratch/\$1.said"
exec $scripts/vif-bridge "\$@"
OWN
cat >$scripts/xyl-bad <<'BAD'
#!/bin/bash
echo "says why" >&2
[ "$1" = online ] && xenstore-write "$XENBUS_PATH/hotplug-error" 'no such gateway'
exit 3
BAD
chmod 755 $scripts/xyl-own $scripts/xyl-bad

# ends: the ends of guests' interfaces on the host.
ends() {
	ip -o link show | grep -oE ' vif[^:@]*' | tr -d ' ' | sort | xargs
}
no_ends() {
	[ -z "$(ends)" ]
}
# runs WORD: how often the script was asked for this.
runs() {
	grep -cs '^words:' "$1.said" || true
}
has_run() {
	[ "$(runs "$1")" = "$2" ]
}

ip link add xenbr0 type bridge || fail 'no bridge'
ip link set xenbr0 up
ip link add xyl-gw type bridge || fail 'no gateway'
ip addr add 10.98.0.1/24 dev xyl-gw
ip link set xyl-gw up
traces >before
ip route show >routes.before

echo 'what cannot be run is refused before anything is built'
testguest_cfg lost pvh "vif = [ 'script=xyl-none' ]" >lost.cfg
refused 'vif 0: its script /etc/xen/scripts/xyl-none is not run' xyl create -q lost.cfg
chmod o+w $scripts/xyl-own
testguest_cfg lost pvh "vif = [ 'script=xyl-own' ]" >lost.cfg
refused 'chmod go-w' xyl create -q lost.cfg
chmod o-w $scripts/xyl-own
testguest_cfg lost pvh "vif = [ 'vlan=10p' ]" >lost.cfg
refused 'vlan=10p' xyl create -q lost.cfg
leaves_nothing before

echo 'a script that fails fails the create and leaves nothing'
testguest_cfg lost pvh "vif = [ 'script=xyl-bad' ]" >lost.cfg
refused 'no such gateway' xyl create -q lost.cfg
refused 'exit code 3.*says why' xyl create -q lost.cfg
no_ends || fail "left: $(ends)"
leaves_nothing before

echo 'the environment is that of xl'
for tool in xl xyl; do
	rm -f online.said offline.said
	testguest_cfg own-$tool pvh "vif = [ 'script=xyl-own,mac=00:16:3e:00:00:01,gatewaydev=xyl-gw,ip=10.98.0.9' ]" >own-$tool.cfg
	ok $tool create -q own-$tool.cfg
	domid=$(domid_of own-$tool)
	equals 1 "$(runs online)"
	[ -e "/sys/class/net/xenbr0/brif/vif$domid.0" ] || fail 'no port of the bridge'
	ok $tool destroy own-$tool
	within 20 has_run offline 1
	within 20 no_ends
	leaves_nothing before
	for word in online offline; do
		sed "s#vif/$domid/#vif/D/#; s#vif$domid\\.#vifD.#" $word.said | sort >$word.$tool
	done
done
for word in online offline; do
	diff $word.xl $word.xyl
	# What xl's script has of the user's shell (HOME, TERM and so on) a program of Xyl never has; PATH, TZ and LANG are the same for
	# each user. bash itself sets PWD, SHLVL and _.
	equals '' "$(comm -13 $word.xl $word.xyl | grep -vE '^(PATH|TZ|LANG|PWD|OLDPWD|SHLVL|_)=')"
	equals '' "$(comm -23 $word.xl $word.xyl | grep -E '^(XENBUS.*|script|vif|netdev|INTERFACE|words|input)[=:]')"
done

echo 'a reboot runs the script from the monitor, and xl detaches the interface'
rm -f online.said offline.said
testguest_cfg own pvh "vif = [ 'script=xyl-own' ]" >own.cfg
ok xyl create -q own.cfg
first=$(domid_of own)
within 60 readies own 1
ok xyl reboot own
within 60 other_domid own "$first"
within 60 has_run online 2
has_run offline 1 || fail "offline: $(runs offline)"
domid=$(domid_of own)
within 60 readies own 2
equals "vif$domid.0" "$(ends)"
ok xl network-detach own 0
within 30 no_ends
equals 2 "$(runs offline)"
ok xyl network-attach own script=xyl-own
equals "vif$domid.0" "$(ends)"
ok xyl network-detach own 0
within 30 no_ends
equals '3 3' "$(runs online) $(runs offline)"
ok xyl destroy own
equals '3 3' "$(runs online) $(runs offline)"
leaves_nothing before

echo 'Xyl takes down what xl has made'
ok xl create -q own-xl.cfg
rm -f offline.said
ok xyl adopt own-xl
ok xyl destroy own-xl
within 20 no_ends
equals 1 "$(runs offline)"
leaves_nothing before

echo 'killed while the script runs'
# It tells that it is there, and stays, in its own process.
cat >$scripts/xyl-bad <<BAD
#!/bin/bash
echo "\$1" >>"$scratch/slow.said"
[ "\$1" = offline ] || exec sleep 1000
BAD
testguest_cfg killed pvh "vif = [ 'script=xyl-bad' ]" >killed.cfg
xyl create -q killed.cfg >/dev/null 2>&1 &
pid=$!
within 30 grep -qs online slow.said
kill_hard $pid
wait $pid 2>/dev/null
ok xyl recover
equals 'online offline' "$(xargs <slow.said)"
gone_script() { ! pgrep -f 'sleep 1000' >/dev/null; }
within 10 gone_script
no_ends || fail "left: $(ends)"
leaves_nothing before

echo 'vif-route: a route to the guest, and an answer to a ping'
{
	linux_cfg routed pvh | sed "s#^ramdisk.*#ramdisk = \"$scratch/initrd\"#"
	echo "vif = [ 'script=vif-route,ip=10.98.0.5,gatewaydev=xyl-gw' ]"
} >routed.cfg
ok xyl create -q routed.cfg
domid=$(domid_of routed)
matches "10.98.0.5 dev vif$domid.0 .*src 10.98.0.1 metric 2" "$(ip route show)"
equals '10.98.0.5 xyl-gw' "$(xenstore-read "/local/domain/0/backend/vif/$domid/0/ip" "/local/domain/0/backend/vif/$domid/0/gatewaydev" | xargs)"
within 80 console_says routed XYL-GUEST-UP
console_says routed XYL-PINGED || fail 'the guest gets no answer'
ok busybox ping -c 3 -W 5 10.98.0.5
ok xyl destroy routed
no_ends || fail "left: $(ends)"
equals "$(cat routes.before)" "$(ip route show)"
leaves_nothing before
