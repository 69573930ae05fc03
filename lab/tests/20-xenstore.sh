# The xenstore crate against the real xenstored, over its socket and through the kernel's device.
# limit_s: 300
. /xyl-lab/lab/lib.sh

command -v xs_probe >/dev/null || skip "xs_probe, an example of crates/xenstore, has not been built"
ok xs_probe 60000 /run/xenstored/socket /dev/xen/xenbus

# Without xenstored's socket, and with something else there, it says what is wrong and ends.
refused 'no xenstored' xs_probe 1000 "$scratch/absent"
touch "$scratch/file"
refused 'neither a socket nor a device' xs_probe 1000 "$scratch/file"

# Without permission it says so.
for place in /run/xenstored/socket /dev/xen/xenbus; do
	refused 'not permitted to connect.*as root' setpriv --reuid=65534 --clear-groups "$(command -v xs_probe)" 1000 $place
done

# Not answering: a stopped xenstored is told of within the time limit, and served again when it goes on.
trap 'pkill -CONT -x xenstored; rm -rf "$scratch"' EXIT
kill -STOP "$(pgrep -x xenstored)"
refused 'no answer within 300 ms' xs_probe 300 /run/xenstored/socket
refused 'no answer within 300 ms' xs_probe 300 /dev/xen/xenbus
kill -CONT "$(pgrep -x xenstored)"
ok xs_probe 60000 /run/xenstored/socket /dev/xen/xenbus
