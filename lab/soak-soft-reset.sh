#!/bin/bash
# Ten thousand soft resets of one guest, or as many as the first argument says; then all of the test of soft resets.
exec bash /xyl-lab/lab/tests/48-soft-reset.sh "${1:-10000}"
