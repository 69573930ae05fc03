# What create, list and destroy cost in hypercalls, xenstore requests, bytes and forks stays within the budgets.
# limit_s: 120
. /xyl-lab/lab/lib.sh
command -v xyl-bench >/dev/null || skip 'no xyl-bench here'
modprobe -a xen-blkback xen-netback bridge loop || fail 'no drivers'
trap 'ip link del xenbr0 2>/dev/null; rm -rf "$scratch"' EXIT
ip link add xenbr0 type bridge || fail 'no bridge'
ip link set xenbr0 up
ok xyl-bench budgets --bridge xenbr0
