# Debian's init script starts guests and stops them with xyl in xl's place; `list -l` and `create -n` are laid out as xl's are.
# limit_s: 300
# xen: any
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'
script=/etc/init.d/xendomains
[ -x $script ] || skip "no $script here"

# The script runs `xen`, and that runs the `xl` which stands first in PATH.
mkdir "$scratch/bin"
ln -s "$(command -v xyl)" "$scratch/bin/xl"
with_xyl() {
	PATH=$scratch/bin:$PATH $script "$@"
}

had_save=$([ -d /var/lib/xen/save ] && echo yes)
mkdir -p /etc/xen/auto
testguest_cfg auto-a pv 'memory = 32' >/etc/xen/auto/a.cfg
testguest_cfg auto-b pvh 'memory = 32' >/etc/xen/auto/b.cfg

ok with_xyl start
within 60 readies auto-a 1
within 60 readies auto-b 1
matches 'auto-a already running' "$(with_xyl start)"

# The layout of the lines that scripts look for. (xl leaves out what is as by default, and Xyl what it never sets.)
for pattern in '^    {$' '^        "domid": [0-9]*,$' '^                "name": "auto-.",$'; do
	equals "$(xl list -l | grep -c "$pattern")" "$(xyl list -l | grep -c "$pattern")"
done
equals "$(xl -N create -q /etc/xen/auto/a.cfg | grep '"name"')" "$(xyl -N create -q /etc/xen/auto/a.cfg | grep '"name"')"

ok with_xyl stop
within 30 domain_gone auto-a
within 30 domain_gone auto-b
rm /etc/xen/auto/[ab].cfg
[ -n "$had_save" ] || rmdir /var/lib/xen/save 2>/dev/null
true
