//! Transactions: xenstored applies all their changes or none.
//!
//! After a conflict the whole transaction runs again, within the limits of [`RetryPolicy`](crate::RetryPolicy).

use crate::batch::{Batch, Replies, Request};
use crate::client::Client;
use crate::error::Error;
use crate::retry::Backoff;
use crate::tree::Tree;
use crate::wire::{ErrorName, MessageKind, WireError};
use std::time::Instant;

/// Name of a transaction in error texts.
const OBJECT: &str = "a transaction";

/// A transaction under way. Its changes become visible to others when it is committed, all at once.
///
/// It is no snapshot: the C daemon shows the current value of each node when it is first touched. If one of the touched
/// nodes changes before the commit, the commit fails and the whole is tried again.
#[derive(Debug)]
pub struct Transaction<'a> {
    client: &'a mut Client,
    id: u32,
}

impl Tree for Transaction<'_> {
    fn run(&mut self, batch: &Batch) -> Result<Replies, Error> {
        self.client.run_in(self.id, batch)
    }
}

impl Client {
    /// Runs `body` in a transaction and commits it. After a conflict it repeats all, within the limits of the
    /// [`RetryPolicy`](crate::RetryPolicy). So `body` must be able to run several times.
    ///
    /// # Errors
    /// The error of `body`, after which the transaction is dropped; [`Error::ConflictExhausted`]; those of [`Tree`].
    pub fn transaction<T>(
        &mut self,
        body: impl FnMut(&mut Transaction<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.try_transaction(body)
    }

    /// Like [`Client::transaction`], for a `body` with an error type of its own.
    ///
    /// # Errors
    /// As for [`Client::transaction`].
    pub fn try_transaction<T, E: From<Error>>(
        &mut self,
        mut body: impl FnMut(&mut Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let begun = Instant::now();
        let mut backoff = Backoff::new(self.settings().retry);
        let mut attempts = 0;
        loop {
            let id = self.start_transaction()?;
            let outcome = body(&mut Transaction { client: self, id });
            attempts += 1;
            let value = match outcome {
                Ok(value) => value,
                Err(error) => {
                    // The body's error is more useful than one about dropping the transaction.
                    let _ = self.end_transaction(id, false);
                    return Err(error);
                }
            };
            if self.end_transaction(id, true)? == Commit::Done {
                return Ok(value);
            }
            if !backoff.may_try_again(attempts) {
                let elapsed_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                return Err(Error::ConflictExhausted {
                    attempts,
                    elapsed_ms,
                }
                .into());
            }
            self.pause(backoff.pause(attempts));
        }
    }

    fn start_transaction(&mut self) -> Result<u32, Error> {
        self.count_transaction();
        let request = Request::new(MessageKind::TransactionStart, OBJECT, b"\0".to_vec());
        let reply = self.request(request)?;
        let text = reply
            .strip_suffix(b"\0")
            .and_then(|digits| std::str::from_utf8(digits).ok());
        text.and_then(|digits| digits.parse().ok())
            .ok_or_else(|| Error::Malformed {
                object: OBJECT.to_owned(),
                violation: WireError::BadPayload {
                    expected: "the number of a transaction",
                },
            })
    }

    fn end_transaction(&mut self, id: u32, commit: bool) -> Result<Commit, Error> {
        let payload = if commit { b"T\0" } else { b"F\0" };
        let request = Request::new(MessageKind::TransactionEnd, OBJECT, payload.to_vec());
        match self.request_in(id, request) {
            Ok(_) => Ok(Commit::Done),
            Err(Error::Refused {
                reason: ErrorName::Eagain,
                ..
            }) => {
                self.count_conflict();
                Ok(Commit::Conflict)
            }
            Err(error) => Err(error),
        }
    }
}

/// The result of a commit.
#[derive(PartialEq, Eq)]
enum Commit {
    Done,
    Conflict,
}
