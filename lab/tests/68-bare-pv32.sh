# A bare 32-bit PV guest, on a Xen that runs them: only if policy and configuration both say so, and marked then.
# limit_s: 300
# xen: 4.17-pv32
# may_skip: where Debian's source of this Xen cannot be had
. /xyl-lab/lab/lib.sh
xl info | grep -q '^xen_caps.* xen-3.0-x86_32p' || skip 'this Xen runs no bare 32-bit PV guests: cargo xtask lab test pv32 --xen 4.17-pv32'
cd "$scratch" || fail 'no scratch folder'
policy=/etc/xyl/policy.toml
[ ! -e $policy ] || fail 'there is a policy already'
trap 'rm -rf "$scratch" $policy' EXIT
traces >before
printf '%s\n' 'name = "narrow"' "kernel = \"$guests/grub-pv32\"" 'memory = 64' >narrow.cfg
{ cat narrow.cfg; echo 'pvshim = 0'; } >bare.cfg
set_policy() {
	mkdir -p /etc/xyl
	printf '%s\n' 'version = 1' '[guests]' "$@" >$policy
}
# is_bare: whether the guest is a bare 32-bit PV domain by xl's word.
is_bare() {
	xl list -l narrow | grep -q '"type": "pv"'
}

# Neither the configuration nor the policy can do it alone.
refused 'ring 1.*pvshim = 0.*policy does not allow' xyl create -q bare.cfg
set_policy 'pv32 = "refuse"'
refused 'ring 1.*remedy' xyl create -q bare.cfg
set_policy 'pv32 = "allow"'
matches 'would be started in the PV shim' "$(xyl create -n narrow.cfg 2>&1 >/dev/null)"
ok xyl create -q narrow.cfg
equals pvh "$(xenstore-read "/libxl/$(domid_of narrow)/type")"
within 60 console_says narrow XYL-GRUB-UP
ok xyl destroy narrow
leaves_nothing before
rm -f $consoles/guest-narrow.log*

# Both together: it runs, and says what it is wherever it is looked at.
matches 'ring 1' "$(xyl create bare.cfg 2>&1)"
is_bare || fail 'it is not bare'
within 30 console_says narrow XYL-GRUB-UP
domid=$(domid_of narrow)
matches "warning: narrow \($domid\): is a bare 32-bit PV guest" "$(xyl list 2>&1 >/dev/null)"
matches '"bare_pv32": ?true' "$(xyl list --json | tr -d '\n')"
matches "narrow \($domid\): allowed" "$(xyl explain narrow)"
matches 'ring 1' "$(xyl explain narrow)"
matches 'narrow.*32-bit PV, bare|32-bit PV, bare.*narrow|narrow.*bare 32-bit PV' "$(xyl audit 2>&1)"
refused 'narrow.*bare 32-bit PV guest' xyl audit --fail-on bare-pv32
ok xyl pause narrow
ok xyl unpause narrow
# Its core is one of a whole domain. (xl makes none of a guest that has not told where its table of frames is, as GRUB.)
ok xyl dump-core narrow core
[ "$(stat -c %s core)" -gt $((64 << 20)) ] || fail 'the core has not all of its memory'
# Of an i386 (EM_386), in a 64-bit file.
equals 3 "$(od -An -tu2 -j18 -N2 core | tr -d ' ')"
rm core
ok xyl destroy narrow
leaves_nothing before

# The policy is the host's now: a guest that runs bare is left alone and told of.
ok xyl create -q bare.cfg
set_policy 'pv32 = "convert"'
matches 'the policy would decide differently now' "$(xyl explain narrow 2>&1)"
ok domid_of narrow
ok xyl destroy narrow

# xl's own is marked, too, and goes by our hand.
rm -f $consoles/guest-narrow.log*
ok xl create -q narrow.cfg
within 30 console_says narrow XYL-GRUB-UP
matches 'narrow .*is a bare 32-bit PV guest' "$(xyl list 2>&1 >/dev/null)"
refused 'bare 32-bit PV guest' xyl audit --fail-on bare-pv32
ok xyl destroy narrow
leaves_nothing before

# The audit says that this host runs them, and agrees with Xen's log about all else.
ok bash /xyl-lab/lab/audit-host.sh runs:pv32=yes
