# What create, list and destroy cost in hypercalls, xenstore requests, bytes and forks stays within the budgets.
# limit_s: 120
. /xyl-lab/lab/lib.sh
command -v xyl-bench >/dev/null || skip 'no xyl-bench here'
ok xyl-bench budgets
