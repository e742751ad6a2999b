//! The server over real sockets and as real processes, held against the protocol page by a client that shares no code
//! with it.

mod faults;
mod http;
mod process;
mod support;
mod truth;
mod websocket;
