//! What the toolstack asks of a hypervisor: typed requests and answers, no I/O.
