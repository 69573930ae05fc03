# What xyl says without Xen's devices, without the right to use them, and without xenstored, or with one that fails.
# limit_s: 300
# xen: any
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'
cd "$scratch" || fail 'no scratch folder'
printf '%s\n' 'name = "nohost"' 'memory = 16' "kernel = \"$guests/testguest\"" >nohost.cfg
traces >before

# No devices of Xen's: what to do about it; and what works anywhere works.
hidden() {
	unshare -m sh -c 'mount -t tmpfs none /dev/xen && mount -t tmpfs none /proc/xen && exec "$@"' sh "$@"
}
for words in list info 'create -q nohost.cfg' 'destroy nohost' 'console nohost' 'shutdown -w nohost' 'top -b -i 1'; do
	# shellcheck disable=SC2086
	refused 'this is not a Xen host: .*modprobe xen-privcmd|this is not a Xen host' hidden xyl $words
done
matches 'modprobe xen-privcmd' "$(hidden xyl list 2>&1)"
ok hidden xyl -N create -q nohost.cfg >/dev/null
ok hidden xyl help >/dev/null

# Nobody but root.
nobody() {
	setpriv --reuid=65534 --regid=65534 --clear-groups "$(command -v xyl)" "$@"
}
chmod a+rx . && chmod a+r nohost.cfg
for words in list 'create -q nohost.cfg' 'destroy nohost' 'console nohost' info; do
	# shellcheck disable=SC2086
	refused 'root|permission' nobody $words
done

# No xenstored: neither a socket, nor somebody behind it.
python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("deaf")'
for path in /nosuch/socket "$scratch/deaf"; do
	export XENSTORED_PATH=$path
	refused "no xenstored: .*$path" xyl create -q nohost.cfg
	refused "no xenstored: .*$path" xyl destroy nohost
	matches '^\(null\) +0 ' "$(xyl list 2>warning)"
	matches "warning: no xenstored: .*$path" "$(cat warning)"
	unset XENSTORED_PATH
done
leaves_nothing before

# The ways in which a xenstored fails, by a proxy before the real one.
python3 /xyl-lab/lab/store-proxy.py proxy /run/xenstored/socket plan &
proxy=$!
echo pass >plan
within 20 test -S proxy
through_proxy() {
	XENSTORED_PATH=$scratch/proxy XYL_STORE_TIMEOUT=1 timeout 60 xyl "$@"
}
ok through_proxy create -q -e nohost.cfg
ok xyl destroy nohost
leaves_nothing before

# Over a quota, at each of several writes: named, and nothing is left.
refusals=0
for ((at = 1; ; at += 7)); do
	echo "quota $at" >plan
	if output=$(through_proxy create -q -e nohost.cfg 2>&1); then
		break
	fi
	matches 'over a quota \(ENOSPC\)' "$output"
	refusals=$((refusals + 1))
	echo pass >plan
	leaves_nothing before
done
[ $refusals -ge 4 ] || fail "only $refusals creates were over a quota"
echo "over a quota at $refusals places"
ok xyl destroy nohost
leaves_nothing before

only_dom0() {
	[ "$(xl list | tail -n +2 | wc -l)" = 1 ]
}

# It falls silent in the middle: an error in time, the domain is gone, and that nodes may be left is said.
failures=0
for ((at = 0; ; at += 9)); do
	echo "silent $at" >plan
	started=$SECONDS
	if output=$(through_proxy create -q -e nohost.cfg 2>&1); then
		break
	fi
	[ $((SECONDS - started)) -lt 30 ] || fail "silence of xenstored after $at requests held the create up for $((SECONDS - started)) s"
	matches 'no answer within 1000 ms|connection was closed after an earlier error' "$output"
	within 20 only_dom0
	failures=$((failures + 1))
	if ! as_before before; then
		matches 'something may be left' "$output"
		# Once xenstored answers again, what was left is taken back.
		ok xyl recover 2>&1
		leaves_nothing before
	fi
done
[ $failures -ge 3 ] || fail "only $failures creates met silence"
echo "silence at $failures places"
ok xyl destroy nohost
kill $proxy
wait $proxy 2>/dev/null
ok xyl create -q nohost.cfg
ok xyl destroy nohost
leaves_nothing before
