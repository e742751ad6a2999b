//! The whole program as its users run it: real processes, real sockets, real files.

mod as_they_are;
mod endings;
mod identity;
mod main_job;
mod peers;
mod reports;
mod scale;
mod support;
mod wrong_input;
