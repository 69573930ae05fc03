# A create that fails at any hypercall, xenstore request or step leaves nothing: no domain, claim, node or file.
# limit_s: 360
. /xyl-lab/lab/lib.sh
command -v fault_sweep >/dev/null || skip 'no fault_sweep here (an example of crates/xyl-engine)'

for type in pv pvh shim; do
	ok fault_sweep $type "$guests/testguest"
done
