# What the simulated host is held to (crates/xen-sim/tests/conformance.rs) holds on this Xen.
# limit_s: 120
. /xyl-lab/lab/lib.sh
command -v conformance >/dev/null || skip 'no conformance here (an example of crates/xen-sim)'
modprobe loop
traces >"$scratch/before"
ok conformance "$guests/testguest" "$scratch"
leaves_nothing "$scratch/before"
modprobe -a bridge veth
ok unshare --net conformance links
