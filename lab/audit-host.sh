#!/bin/bash
# audit-host.sh WORD...: compares `xyl audit` of this host with its boot log, its CPU and the words, which say what is known of it.
exec python3 /xyl-lab/lab/audit-host.py "$@"
