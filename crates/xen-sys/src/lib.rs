//! The real hypervisor: hypercalls, foreign mappings, event channels and grants through Linux's drivers.
