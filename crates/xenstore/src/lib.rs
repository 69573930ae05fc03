//! Xenstore: wire codec, client, permissions, transactions, watches.
//!
//! [`Client`] talks to xenstored over its Unix socket or the xenbus device (see [`transport`]). What reads and changes the
//! tree is in the trait [`Tree`], which [`Client`] and [`Transaction`] share; several requests at once are a [`Batch`]. Every
//! request has a deadline, every error says what was asked, about which path, why it failed and what to do.
//!
//! ```no_run
//! use xenstore::{Access, Batch, Client, Path, Perms, Tree};
//!
//! # fn main() -> Result<(), xenstore::Error> {
//! let mut client = Client::connect()?;
//! let home = Path::domain(5);
//! let mut tree = Batch::new();
//! tree.mkdir(&home);
//! tree.set_perms(&home, &Perms::owned_by(0).with(5, Access::Read));
//! tree.write(&home.join("name")?, b"guest");
//! client.transaction(|transaction| transaction.run(&tree).map(drop))?;
//! # Ok(())
//! # }
//! ```
//!
//! With the feature `mem` there is an in-memory xenstored in `mem`, for tests and simulations.

mod batch;
mod client;
mod error;
mod events;
#[cfg(any(test, feature = "mem"))]
pub mod mem;
mod path;
mod perms;
mod retry;
mod transaction;
pub mod transport;
mod tree;
pub mod wire;

pub use batch::{Batch, Replies};
pub use client::{Client, Settings, Stats};
pub use error::{Attempt, Error, QuotaKind};
pub use events::WatchEvent;
pub use path::{ABSOLUTE_PATH_MAX, Path, PathError, RELATIVE_PATH_MAX};
pub use perms::{Access, Grant, Perms, PermsError};
pub use retry::RetryPolicy;
pub use transaction::Transaction;
pub use tree::Tree;
pub use wire::{ErrorName, MessageKind, Packet, WireError};
