# xen-sys on real Xen: every request of the port, on domains that it makes and destroys. xl sees none of them left over.
. /xyl-lab/lab/lib.sh

before=$(xl list | awk 'NR > 1 { print $1 }')
ok command -v hv_probe
ok hv_probe
equals "$before" "$(xl list | awk 'NR > 1 { print $1 }')"
