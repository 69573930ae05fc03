//! Xenstore: wire codec, client, permissions, transactions, watches.
