# The audit of a host whose boot log is gone: what only that tells is unknown.
# limit_s: 30
# xen: any
# ends_boot: the log is gone for good
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'

xl dmesg -c >/dev/null
matches 'missing: boot log' "$(xyl audit)"
code=0
xyl audit --type pvh --fail-on v2:unknown 2>/dev/null >&2 || code=$?
equals 3 $code
ok xyl audit --type pvh --fail-on v2:unprotected >/dev/null 2>&1
# What the CPU and the command line tell is known still.
ok xyl audit --type pv64 --fail-on v3 >/dev/null
rm -f /run/xyl/host-facts.json
