# xen-sys on real Xen: every request of the port, on domains that it makes and destroys. xl sees none of them left over.
. /xyl-lab/lab/lib.sh

ok command -v hv_probe
hv_probe || fail "hv_probe"
equals 2 "$(xl list | wc -l)"
