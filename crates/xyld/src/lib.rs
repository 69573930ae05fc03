//! The daemon `xyld`: the HTTP API of a host, its metrics, and the page.
//!
//! [`server`] owns the socket and the limits. [`endpoints`] is the one table of all calls: the router, the roles and the OpenAPI document come
//! from it. The modules of [`calls`] answer; each call opens connections of its own, so a call that waits delays no other. [`events`] owns the
//! stream of changes. The daemon keeps no state that another process needs: it can be killed at any moment.
//!
//! [`gateway`] is the other program in here: a port on loopback with the page, in front of the daemon's socket.

pub mod access;
pub mod calls;
pub mod endpoints;
pub mod events;
pub mod gateway;
mod http;
pub mod openapi;
mod page;
mod peer;
pub mod problem;
mod schemas;
pub mod server;
pub mod world;
