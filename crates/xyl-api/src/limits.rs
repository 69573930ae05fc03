//! Limits of requests and replies.

use std::time::Duration;

/// Longest request in JSON, in bytes.
pub const REQUEST_MAX_BYTES: u64 = 64 << 10;
/// Maximum number of requests in the queue of one VM.
pub const QUEUED_MAX: usize = 256;
/// Longest reply in JSON, in bytes.
pub const REPLY_MAX_BYTES: u64 = 1 << 20;
/// Time for which a reply is kept that was not fetched.
pub const REPLY_KEPT: Duration = Duration::from_secs(15 * 60);
/// Maximum number of kept replies of one VM. The oldest ones go first.
pub const REPLIES_MAX: usize = 64;
/// Time for which a request may wait until it is carried out.
pub const REQUEST_LIMIT: Duration = Duration::from_secs(300);
/// [`REQUEST_LIMIT`] of a core dump and of a save, which may be those of a large guest.
pub const DUMP_LIMIT: Duration = Duration::from_secs(24 * 3600);
