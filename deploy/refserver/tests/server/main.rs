//! The server over real sockets and as real processes, held against the protocol page by a client that shares no code
//! with it.

mod ends;
mod faults;
mod http;
mod process;
mod replies;
mod support;
mod truth;
mod websocket;
