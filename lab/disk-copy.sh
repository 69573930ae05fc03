#!/bin/bash
# Copies 4 GiB in a PVH guest from one disk to another, three times with each toolstack in turn, and prints the rates.
#   disk-copy.sh [ROUNDS]
# Both images are files of domain 0 with 512 MiB, as much as its disk takes, and are copied 8 times (ROUNDS). The source is sparse. The
# target is new in each run.
. /xyl-lab/lab/lib.sh
nr_rounds=${1:-8}
size_mib=$((512 * nr_rounds))
modprobe -a xen-blkback loop || fail 'no drivers'
cd "$scratch" || fail 'no scratch folder'
disks=/var/tmp/xyl-copy
mkdir -p $disks
trap 'rm -rf "$scratch" $disks' EXIT
df -h $disks

tree=$scratch/tree
guest_tree "$tree" xen-blkfront
cat >"$tree/init" <<'INIT'
#!/bin/busybox sh
. /setup
wait_for /dev/xvda /dev/xvdb
echo "XYL-READY"
read -r nr_rounds </dev/hvc0
begin=$(cut -d' ' -f1 /proc/uptime)
for round in $(seq $nr_rounds); do
	dd if=/dev/xvda of=/dev/xvdb bs=1M iflag=direct oflag=direct 2>/dev/null || echo "XYL-FAILED"
done
echo "XYL-COPIED $begin $(cut -d' ' -f1 /proc/uptime)"
serve_console
INIT
pack_tree "$tree" $disks/initrd

# copy TOOL: one life of a guest; prints its rate.
copy() {
	local tool=$1 rate
	truncate -s 0 $disks/from.img $disks/to.img
	truncate -s 512M $disks/from.img $disks/to.img
	{
		linux_cfg copy pvh | sed "s#^ramdisk.*#ramdisk = \"$disks/initrd\"#"
		echo "disk = [ '$disks/from.img,raw,xvda,r', '$disks/to.img,raw,xvdb,rw' ]"
	} >copy.cfg
	rm -f $consoles/guest-copy.log
	pkill -HUP -x xenconsoled
	ok "$tool" create -q copy.cfg
	within 60 console_says copy XYL-READY
	printf '%s\r\n' "$nr_rounds" >"$(xenstore-read "/local/domain/$(domid_of copy)/console/tty")"
	within 300 console_says copy 'XYL-COPIED [0-9]'
	rate=$(sed -n 's/.*XYL-COPIED \([0-9.]*\) \([0-9.]*\).*/\1 \2/p' $consoles/guest-copy.log |
		awk -v mib="$size_mib" '{ printf "%.1f", mib / ($2 - $1) }')
	echo "$tool: $rate MiB/s"
	echo "$rate" >>"$tool.rates"
	ok "$tool" destroy copy
	within 20 domain_gone copy
}
for round in 1 2 3; do
	copy xl
	copy xyl
done
median() { sort -n "$1.rates" | sed -n 2p; }
awk -v xyl="$(median xyl)" -v xl="$(median xl)" -v mib="$size_mib" \
	'BEGIN { printf "%d MiB, medians of 3: xyl %.1f MiB/s, xl %.1f MiB/s, ratio %.2f\n", mib, xyl, xl, xyl / xl }'
