//! Structures of `HYPERVISOR_event_channel_op` (event_channel.h).

use crate::layout::{abi, c_constants};

c_constants! {
    /// Binds a port of another domain.
    BIND_INTERDOMAIN: u32 = 0, "EVTCHNOP_bind_interdomain";
    /// Binds a virtual interrupt.
    BIND_VIRQ: u32 = 1, "EVTCHNOP_bind_virq";
    /// Closes a port.
    CLOSE: u32 = 3, "EVTCHNOP_close";
    /// Notifies.
    SEND: u32 = 4, "EVTCHNOP_send";
    /// Describes a port.
    STATUS: u32 = 5, "EVTCHNOP_status";
    /// Allocates a port for another domain to bind.
    ALLOC_UNBOUND: u32 = 6, "EVTCHNOP_alloc_unbound";
    /// Closes all ports of a domain.
    RESET: u32 = 10, "EVTCHNOP_reset";

    /// Status: not in use.
    STATUS_CLOSED: u32 = 0, "EVTCHNSTAT_closed";
    /// Status: waits for the other domain.
    STATUS_UNBOUND: u32 = 1, "EVTCHNSTAT_unbound";
    /// Status: connected to another domain.
    STATUS_INTERDOMAIN: u32 = 2, "EVTCHNSTAT_interdomain";
}

abi! {
    /// Argument of `EVTCHNOP_alloc_unbound`.
    struct AllocUnbound = "struct evtchn_alloc_unbound", 8 {
        /// In: who gets the port.
        0 dom: u16;
        /// In: who may bind it.
        2 remote_dom: u16;
        /// Out: the port.
        4 port: u32;
    }
    /// Argument of `EVTCHNOP_bind_interdomain`.
    struct BindInterdomain = "struct evtchn_bind_interdomain", 12 {
        /// In: whose port.
        0 remote_dom: u16;
        /// Padding.
        2 pad: u16 = "";
        /// In: which.
        4 remote_port: u32;
        /// Out: the caller's own port.
        8 local_port: u32;
    }
    /// Argument of `EVTCHNOP_close`.
    struct Close = "struct evtchn_close", 4 {
        /// The port.
        0 port: u32;
    }
    /// Argument of `EVTCHNOP_send`.
    struct Send = "struct evtchn_send", 4 {
        /// The port.
        0 port: u32;
    }
    /// Argument of `EVTCHNOP_status`.
    struct Status = "struct evtchn_status", 24 {
        /// In: the domain.
        0 dom: u16;
        /// Padding.
        2 pad: u16 = "";
        /// In: its port.
        4 port: u32;
        /// Out: `STATUS_*`.
        8 status: u32;
        /// Out: the vCPU it is bound to.
        12 vcpu: u32;
        /// Out: the other domain.
        16 remote_dom: u16 = "u.interdomain.dom";
        /// Padding.
        18 pad2: u16 = "";
        /// Out: the other port.
        20 remote_port: u32 = "u.interdomain.port";
    }
    /// Argument of `EVTCHNOP_reset`.
    struct Reset = "struct evtchn_reset", 2 {
        /// The domain.
        0 dom: u16;
    }
}
