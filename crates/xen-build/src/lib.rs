//! A domain's memory, laid out and filled: PV and PVH.
