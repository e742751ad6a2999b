//! Carrying a share: when sessions start ([`pace`]), what one does ([`session`]), the loop that launches and collects
//! ([`engine`]), what is kept of it ([`recorder`]), and the threads it runs on ([`squad`]).

pub mod engine;
pub mod overshoot;
pub mod pace;
pub mod recorder;
pub mod session;
pub mod squad;
