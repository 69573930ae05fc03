# A create that fails at any hypercall, xenstore request or step leaves nothing: no domain, claim, node or file. A run takes
# every fifth of them, another seed others; `cargo xtask soak` takes all.
# limit_s: 360
# xen: any
. /xyl-lab/lab/lib.sh
command -v fault_sweep >/dev/null || skip 'no fault_sweep here (an example of crates/xyl-engine)'

every=5 first=$((LAB_SEED % 5))
[ "$LAB_SOAK" = 1 ] && every=1 first=0
for type in pv pvh shim; do
	ok fault_sweep $type "$guests/testguest" $every $first
done
