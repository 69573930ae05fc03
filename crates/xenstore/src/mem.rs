//! An in-memory xenstored.
