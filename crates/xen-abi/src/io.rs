//! Rings that a guest shares with its backends: console (io/console.h) and xenstore (io/xs_wire.h).

use crate::layout::{abi, c_constants};

c_constants! {
    /// Bytes of each xenstore ring.
    XENSTORE_RING_SIZE: usize = 1024, "XENSTORE_RING_SIZE";
    /// Longest payload of a xenstore message in bytes.
    XENSTORE_PAYLOAD_MAX: usize = 4096, "XENSTORE_PAYLOAD_MAX";
    /// Value of [`ConsoleRing::connection`] while no server is connected.
    XENCONSOLE_DISCONNECTED: u8 = 1, "XENCONSOLE_DISCONNECTED" in V4_21..=V4_22;
}

abi! {
    /// The console's page.
    struct ConsoleRing = "struct xencons_interface", 3092 {
        /// To the guest.
        0 input: [u8; 1024] = "in";
        /// From the guest.
        1024 output: [u8; 2048] = "out";
        /// Read position of `input`.
        3072 in_cons: u32;
        /// Write position of `input`.
        3076 in_prod: u32;
        /// Read position of `output`.
        3080 out_cons: u32;
        /// Write position of `output`.
        3084 out_prod: u32;
        /// Whether a backend serves the ring.
        3088 connection: u8 => since V4_21;
        /// Padding.
        3089 pad: [u8; 3] = "";
    }
    /// The page of xenstore's ring.
    struct XenstoreRing = "struct xenstore_domain_interface", 2080 {
        /// Requests.
        0 req: [u8; 1024];
        /// Replies and events.
        1024 rsp: [u8; 1024];
        /// Read position of `req`.
        2048 req_cons: u32;
        /// Write position of `req`.
        2052 req_prod: u32;
        /// Read position of `rsp`.
        2056 rsp_cons: u32;
        /// Write position of `rsp`.
        2060 rsp_prod: u32;
        /// Features of the server.
        2064 server_features: u32;
        /// State of the connection.
        2068 connection: u32;
        /// Error of the connection.
        2072 error: u32;
        /// Port, for a domain that is started with xenstore ready.
        2076 evtchn_port: u32 => since V4_21;
    }
}
