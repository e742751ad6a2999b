//! The state of the link, and what it means for one connection. Pure.

use std::fmt;
use std::str::FromStr;

/// A command to a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    Stall,
    Resume,
    HalfOpen,
    Heal,
    Cut,
}

impl Command {
    pub const ALL: [Self; 5] = [Self::Stall, Self::Resume, Self::HalfOpen, Self::Heal, Self::Cut];

    /// Its word on standard input.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stall => "stall",
            Self::Resume => "resume",
            Self::HalfOpen => "half-open",
            Self::Heal => "heal",
            Self::Cut => "cut",
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Command {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|word| word.as_str() == text).ok_or_else(|| {
            let known = Self::ALL.map(Self::as_str).join(", ");
            format!("{text:?} is not known; say one of {known}")
        })
    }
}

/// What new connections suffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Breakage {
    HalfOpen,
    Cut,
}

/// The state of the link. A stall and a breakage do not exclude each other: `resume` ends the one, `heal` the other.
///
/// The counts show a connection a breakage that has already ended again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Link {
    stalled: bool,
    breakage: Option<Breakage>,
    half_opens: u64,
    cuts: u64,
}

/// What happens to one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Forwarded,
    /// Nothing is forwarded for now.
    Stalled,
    /// Open, but nothing is ever forwarded again.
    Dead,
    Reset,
}

impl Link {
    pub(crate) fn apply(&mut self, word: Command) {
        match word {
            Command::Stall => self.stalled = true,
            Command::Resume => self.stalled = false,
            Command::HalfOpen => {
                self.breakage = Some(Breakage::HalfOpen);
                self.half_opens += 1;
            }
            Command::Cut => {
                self.breakage = Some(Breakage::Cut);
                self.cuts += 1;
            }
            Command::Heal => self.breakage = None,
        }
    }

    /// What happens now to a connection that was accepted when the link was in the state `at_accept`.
    pub(crate) fn fate(&self, at_accept: &Self) -> Fate {
        if self.cuts != at_accept.cuts || at_accept.breakage == Some(Breakage::Cut) {
            Fate::Reset
        } else if self.half_opens != at_accept.half_opens || at_accept.breakage == Some(Breakage::HalfOpen) {
            Fate::Dead
        } else if self.stalled {
            Fate::Stalled
        } else {
            Fate::Forwarded
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(words: &[Command]) -> Link {
        let mut link = Link::default();
        words.iter().for_each(|word| link.apply(*word));
        link
    }

    #[test]
    fn fates_follow_the_words_since_the_accept() {
        use Command::{Cut, HalfOpen, Heal, Resume, Stall};
        for (before, since, fate) in [
            (&[][..], &[][..], Fate::Forwarded),
            (&[], &[Stall], Fate::Stalled),
            (&[Stall], &[], Fate::Stalled),
            (&[Stall], &[Heal], Fate::Stalled),
            (&[Stall], &[Resume], Fate::Forwarded),
            (&[], &[HalfOpen], Fate::Dead),
            (&[], &[HalfOpen, Heal], Fate::Dead),
            (&[HalfOpen], &[], Fate::Dead),
            (&[HalfOpen], &[Heal], Fate::Dead),
            (&[HalfOpen, Heal], &[], Fate::Forwarded),
            (&[HalfOpen, Heal], &[Stall, HalfOpen], Fate::Dead),
            (&[], &[Cut], Fate::Reset),
            (&[], &[Cut, Heal], Fate::Reset),
            (&[Cut], &[], Fate::Reset),
            (&[Cut], &[Resume], Fate::Reset),
            (&[Cut, Heal], &[], Fate::Forwarded),
            (&[], &[HalfOpen, Cut], Fate::Reset),
            (&[], &[Cut, HalfOpen], Fate::Reset),
        ] {
            let now = after(&[before, since].concat());
            assert_eq!(now.fate(&after(before)), fate, "{before:?} | {since:?}");
        }
    }

    #[test]
    fn every_word_is_read_as_it_is_written() {
        for word in Command::ALL {
            assert_eq!(word.to_string().parse(), Ok(word));
        }
        let error = "halfopen".parse::<Command>().unwrap_err();
        assert_eq!(error, "\"halfopen\" is not known; say one of stall, resume, half-open, heal, cut");
    }
}
